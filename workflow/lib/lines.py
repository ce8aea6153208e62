"""How keys and values of the configuration look in a line for the user."""

import math
import reprlib
from collections.abc import Iterable
from typing import Any

_LONGEST = 60

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = _LONGEST
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def shown(value: Any) -> str:
    r"""A value as Python writes it, in ASCII, on one line, and shortened when it is long.

    Letters that only look like others are seen for what they are.

    Examples
    --------
    >>> shown("ѕigmoid\n"), shown([10, 10]), len(shown("a" * 1000))
    ("'\\u0455igmoid\\n'", '[10, 10]', 60)
    """
    return ascii_only(" ".join(_short.repr(value).splitlines()))


def ascii_only(text: str) -> str:
    r"""A text with all characters but ASCII's as escapes.

    Examples
    --------
    >>> ascii_only("é")
    '\\xe9'
    """
    return text.encode("ascii", "backslashreplace").decode()


def dotted(path: Iterable[str | int]) -> str:
    """A place in the configuration.

    Examples
    --------
    >>> dotted(["networks", "sigmoid", "hidden", 0])
    'networks.sigmoid.hidden[0]'
    """
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if step.isprintable() and len(step) <= _LONGEST else shown(step)[1:-1]
            text += f".{ascii_only(name)}" if text else ascii_only(name)
    return text


def number(text: str) -> str | None:
    """What to write for a number that YAML takes for a text, such as 1e-3, if it is one.

    Examples
    --------
    >>> number("1e-3"), number("1e-30"), number("5"), number("abc")
    ('0.001', '1.0e-30', '5', None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    mantissa, exponent, power = repr(value).partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(power):+03d}"


def plain(value: Any) -> str:
    """A bound, small numbers without an exponent.

    Examples
    --------
    >>> plain(1e-06), plain(60000)
    ('0.000001', '60000')
    """
    return f"{value:.12f}".rstrip("0") if isinstance(value, float) else str(value)

"""The Python blocks of a page: what the build draws pictures with, and what the tests run."""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    """A block of Python.

    Attributes
    ----------
    line : int
        Of the page, where the block opens.
    code : str
    shown : str, optional
        What the page says that it prints: a block marked ``text`` right below.
    """

    line: int
    code: str
    shown: str | None = None


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page that are marked ``python``, in order."""
    found: list[Block] = []
    end = 0
    for fence in FENCE.finditer(text):
        kind = fence[2].strip()
        if kind == "python":
            found.append(Block(text.count("\n", 0, fence.start()) + 1, fence[3]))
            end = fence.end()
        elif kind == "text" and found and not text[end : fence.start()].strip():
            found[-1].shown = fence[3]
    return found

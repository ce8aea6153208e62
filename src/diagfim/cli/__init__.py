"""The command ``diagfim``: the library at a network, weights and data that lie in files.

`main` turns a command line into what goes to the standard output, and whatever is the user's to
mend into a line on the standard error.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module

from diagfim.cli.arguments import parse
from diagfim.errors import UserError

OK, FOUND, USER_ERROR, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes: FOUND is that of ``verify`` for files that are not what they were; the last two are
those of a shell for a program that SIGINT or SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``diagfim``.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows the name of the command; by default what the program was called with.

    Returns
    -------
    int
        The exit code.

    Examples
    --------
    >>> from diagfim.cli import main
    >>> main(["analyze", "torch.nn:Identity", "--data", "there/is/none.npz"])
    2
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more upon exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _run(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    if arguments is None:
        return OK
    # PyTorch takes seconds to import, which those without a network need not wait for.
    module = "verification" if arguments.command == "verify" else "commands"
    commands = import_module(f"diagfim.cli.{module}")

    # A network may print what it likes: the standard output is for the result.
    with redirect_stdout(sys.stderr):
        report = commands.run(arguments)
    print(report.json() if arguments.json else report.text)
    return OK if report.passed else FOUND

"""What the command line of ``diagfim`` may say; it imports nothing that is slow.

Numbers are checked here, since the library meets some of them after minutes of work only.  The
names of estimators, families and methods are the library's to check.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from diagfim import __version__
from diagfim.errors import UserError


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are those of users."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class _Formatter(argparse.HelpFormatter):
    """Help that tells the defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return f"{action.help} (%(default)s)"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace | None:
    """The options of a command line, or none where it asked for help or the version.

    Raises
    ------
    UserError
        If it cannot be understood.

    Examples
    --------
    >>> from diagfim.cli.arguments import parse
    >>> parse(["analyze", "net.py:build", "--data", "test.npz", "--size", "48x64"]).size
    (48, 64)
    """
    try:
        return parser().parse_args(argv)
    except SystemExit:  # what was asked for is printed
        return None


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    main = _Parser(
        prog="diagfim",
        description="The diagonal Fisher information of a PyTorch network, with its error bars.",
        epilog="example: diagfim analyze my_model.py:build --weights weights.safetensors "
        "--data test.npz",
    )
    main.add_argument("--version", action="version", version=f"diagfim {__version__}")
    commands = main.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add, help_, description, example) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_,
            description=description,
            epilog=f"example: diagfim {name} {example}",
            formatter_class=_Formatter,
        )
        add(command)
        if name != "verify":
            _add_network(command, optional=name == "plan")
        command.add_argument(
            "--json", action="store_true", help="print strict JSON instead of a table"
        )
    return main


def _add_network(command: argparse.ArgumentParser, optional: bool) -> None:
    network = command.add_argument_group("the network and its data")
    network.add_argument(
        "factory",
        nargs="?" if optional else None,
        metavar="FILE.py:FUNCTION",
        help="the Python function that returns the network; or package.module:function",
    )
    network.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="its weights in safetensors (as the function returns it)",
    )
    network.add_argument(
        "--data",
        type=Path,
        required=not optional,
        metavar="PATH",
        help="inputs, and labels if there are any: .npz, netCDF or a folder of images",
    )
    network.add_argument("--inputs", type=_count, metavar="N", help="take the first N inputs (all)")
    network.add_argument(
        "--size",
        type=_size,
        metavar="S|HxW",
        help="stretch images to S by S, or to height H and width W (as they are)",
    )
    network.add_argument(
        "--mean",
        type=_numbers,
        metavar="X[,X...]",
        help="subtract from inputs, one for each channel or for all (0)",
    )
    network.add_argument(
        "--std",
        type=_numbers,
        metavar="X[,X...]",
        help="then divide by, one for each channel or for all (1)",
    )
    network.add_argument(
        "--family",
        default="categorical",
        help="what its outputs mean: categorical (logits), gaussian (means), bernoulli (log-odds) "
        "or poisson (logarithms of means)",
    )
    network.add_argument(
        "--noise-variance",
        type=_numbers,
        metavar="X[,X...]",
        help="of gaussian targets, one for each output or for all (1)",
    )
    network.add_argument(
        "--dtype", choices=("float32", "float64"), help="to compute in (that of the network)"
    )
    network.add_argument(
        "--method", default="auto", help="of differentiation: auto, dense, graph or autodiff"
    )
    network.add_argument("--device", default="cpu", help="to compute on, such as cuda")


def _add_precision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--relative-error",
        type=_positive,
        default=0.1,
        metavar="E",
        help="error of a layer relative to its information, in the Euclidean norm",
    )
    command.add_argument(
        "--confidence",
        type=_probability,
        default=0.95,
        metavar="P",
        help="probability to keep within it",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="write every parameter's values as netCDF"
    )


def _add_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--over",
        choices=("inputs", "distribution"),
        default="inputs",
        help="inputs: these, held fixed; distribution: others of their kind as well",
    )
    command.add_argument(
        "--estimators",
        type=_words,
        metavar="NAME[,NAME...]",
        help="some of score, hessian, mixed, exact and hutchinson (all)",
    )
    command.add_argument(
        "--timing-inputs",
        type=_count,
        default=200,
        metavar="N",
        help="estimators are timed at so many of the inputs, or all if there are fewer",
    )


def _add_analyze(command: argparse.ArgumentParser) -> None:
    _add_output(command)
    _add_precision(command)
    command.add_argument(
        "--probes",
        action="store_true",
        help="add the variance of Hutchinson's estimator",
    )


def _add_estimate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--estimator",
        default="score",
        help="score, hessian, mixed, exact, empirical (with the labels of the data) or hutchinson",
    )
    command.add_argument("--draws", type=_count, default=1, metavar="N", help="at each input")
    command.add_argument("--seed", type=int, default=0, help="of the draws")
    command.add_argument(
        "--level", default="parameter", help="what has a weight of its own in mixed: or layer"
    )
    command.add_argument(
        "--mixing-weights",
        default="exact",
        help="what those weights rest on: exact moments, or pilot draws",
    )
    command.add_argument("--pilot", type=int, default=2, metavar="N", help="number of pilot draws")
    command.add_argument(
        "--probes", default="rademacher", help="of hutchinson: rademacher or gaussian"
    )
    _add_output(command)


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--analysis",
        type=Path,
        metavar="FILE",
        help="what diagfim analyze wrote with --output, instead of a network and data",
    )
    _add_precision(command)
    command.add_argument(
        "--rule",
        choices=("clt", "chebyshev"),
        default="clt",
        help="clt for nearly normal errors, chebyshev for any",
    )
    _add_choice(command)
    command.add_argument(
        "--measure", action="store_true", help="time the estimators and name the cheapest"
    )


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.add_argument("--draws", type=_count, default=1, metavar="N", help="at each input")
    _add_choice(command)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "results",
        type=Path,
        metavar="FOLDER",
        help="of results, as 'results' of the pipeline's configuration says",
    )


_NETWORK = "my_model.py:build --weights weights.safetensors --data test.npz"

_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str, str, str]] = {
    "analyze": (
        _add_analyze,
        "the exact diagonal, and the variances of its estimators",
        "The exact Fisher diagonal of a network, by layer: its size, its standard error as an "
        "estimate for other inputs of the kind, the better of the score-based and the "
        "Hessian-based estimator, and the draws that it needs.",
        f"{_NETWORK} --output fisher.nc",
    ),
    "estimate": (
        _add_estimate,
        "an estimate from random draws, with its standard error",
        "The Fisher diagonal by one of its estimators, with standard errors.",
        f"{_NETWORK} --estimator score --draws 10 --seed 0",
    ),
    "plan": (
        _add_plan,
        "the draws that a wanted precision takes",
        "How many draws at each input every estimator needs, in every layer, and with --measure "
        "which one is there in the least time.",
        "--analysis fisher.nc --relative-error 0.05",
    ),
    "compare": (
        _add_compare,
        "all estimators at the same number of draws",
        "The exact relative standard error of every estimator in every layer, the seconds that it "
        "takes here, and how far the empirical Fisher is off if the data have labels.",
        f"{_NETWORK} --draws 10",
    ),
    "verify": (
        _add_verify,
        "whether results of the pipeline are what they were when they were made",
        "Recompute the SHA-256 of every file that the pipeline has made, and name those that were "
        "altered, are missing, or were made from another version of a file; the exit code is then "
        "1.",
        "results",
    ),
}


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    try:
        height, width = map(int, parts * 2 if len(parts) == 1 else parts)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give 64, or height and width as 48x64"
        ) from None
    return height, width


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not positive; 0.1 is ten per cent")
    return value


def _probability(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1; pass 0.95, say")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number, nor some with commas between them"
        ) from None


def _words(text: str) -> list[str]:
    return text.split(",")

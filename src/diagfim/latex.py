"""LaTeX: numbers and text as it prints them, templates filled, sources typeset."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from diagfim.errors import UserError
from diagfim.whole import whole

TEX_HELP = (
    "TeX: latexmk or pdflatex is not on the PATH; install TeX Live: 'apt-get install latexmk "
    "texlive-latex-recommended texlive-fonts-recommended lmodern' on Debian, 'brew install --cask "
    "mactex' on macOS, tug.org/texlive beside conda"
)


LATEXMK = ("latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-silent")


def tex_version() -> str:
    """First line that pdflatex says of itself.

    Raises
    ------
    UserError
        If latexmk or pdflatex is missing.
    """
    if not (shutil.which("latexmk") and shutil.which("pdflatex")):
        raise UserError(TEX_HELP)
    run = subprocess.run(["pdflatex", "--version"], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[0]


def render(template: Path, target: Path, **values: Any) -> None:
    """Fill a LaTeX template; ``<< >>`` are values, ``<% %>`` statements.  Every value is escaped.

    Raises
    ------
    jinja2.UndefinedError
        If the template names a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: escape(value) if isinstance(value, str) else value,
        autoescape=False,
    )
    environment.filters.update(sci=scientific, count=grouped, percent=percent, path=breakable)
    text = environment.get_template(template.name).render(**values)
    with whole(target) as partial:
        partial.write_text(text, encoding="utf-8")


class Tex(str):
    """LaTeX source that is not to be escaped."""

    __slots__ = ()


_ESCAPES = {
    "<=": r"\(\le\)",
    "|z|": r"\(|z|\)",
    "Î1": r"\(\hat I_1\)",
    "Î2": r"\(\hat I_2\)",
    "V1": r"\(V_1\)",
    "V2": r"\(V_2\)",
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\(<\)",
    ">": r"\(>\)",
    "|": r"\textbar{}",
}
"""What LaTeX reads as something else, longer sequences first."""

_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def escape(text: str) -> str:
    """Text as LaTeX prints it; `Tex` passes."""
    if isinstance(text, Tex):
        return text
    return _SPECIAL.sub(lambda found: _ESCAPES[found.group()], text)


def scientific(value: float, digits: int = 1) -> Tex:
    r"""A number with so many decimals, as a power of ten when it is far from one.

    Examples
    --------
    >>> from diagfim.latex import scientific
    >>> scientific(4.53e-5), scientific(0), scientific(12.34)
    ('\\(4.5\\times 10^{-5}\\)', '\\(0\\)', '\\(12.3\\)')
    """
    value = float(value)
    if value == 0:
        return Tex(r"\(0\)")
    if not np.isfinite(value):
        return Tex("--")
    if 0.01 <= abs(value) < 10_000:
        decimals = digits if abs(value) >= 1 else digits + 1
        return Tex(rf"\({value:.{decimals}f}\)")
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return Tex(rf"\({mantissa}\times 10^{{{int(exponent)}}}\)")


def grouped(value: float) -> Tex:
    """A whole number with thin spaces between thousands; a dash for what is none."""
    if not np.isfinite(value):
        return Tex("--")
    return Tex(f"{int(value):,}".replace(",", r"\,"))


def percent(value: float, digits: int = 1) -> Tex:
    """A fraction as a percentage."""
    return Tex(rf"{100 * float(value):.{digits}f}\,\%")


def breakable(name: str) -> Tex:
    r"""The name of a file, which a line may end in the middle of; letters, digits and ``_./:-``.

    Examples
    --------
    >>> from diagfim.latex import breakable
    >>> breakable("my_network.py:build")
    '\\path{my_network.py:build}'
    """
    if re.search(r"[^A-Za-z0-9_./:-]", name):
        raise ValueError(f"{name!r} has characters that LaTeX would read")
    return Tex(rf"\path{{{name}}}")


def typeset(source: Path, target: Path, inputs: Sequence[Path]) -> None:
    """Run latexmk on a source in its folder and put the PDF at the target, whole or not at all.

    Parameters
    ----------
    source : Path
        The .tex file; its log is put beside it, auxiliary files are not.
    target : Path
        The PDF.
    inputs : sequence of Path
        Folders in which TeX looks for figures.

    Raises
    ------
    UserError
        If TeX is missing, or stops; with the first line of its complaint.
    """
    tex_version()
    search = os.pathsep.join([*(str(folder.resolve()) for folder in inputs), ""])
    with tempfile.TemporaryDirectory() as folder, whole(target) as partial:
        run = subprocess.run(
            [*LATEXMK, f"-outdir={folder}", source.name],
            cwd=source.parent,
            env={
                **os.environ,
                "TEXINPUTS": search,
                "SOURCE_DATE_EPOCH": "0",
                "FORCE_SOURCE_DATE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        made = Path(folder, source.stem)
        log = source.with_suffix(".log")
        if made.with_suffix(".log").is_file():
            shutil.copyfile(made.with_suffix(".log"), log)
        if run.returncode:
            raise UserError(_stopped(source, log))
        shutil.copyfile(made.with_suffix(".pdf"), partial)


def _stopped(source: Path, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    first = next((line for line in lines if line.startswith("!")), "see its log")
    return f"{source}: LaTeX stopped ({first}); the whole log is {log}"

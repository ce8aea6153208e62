"""The report: every number from the results, laid into a LaTeX template, and typeset."""

import csv
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr

from diagfim import claims
from diagfim.errors import UserError

TEX_HELP = (
    "TeX: latexmk or pdflatex is not on the PATH; install TeX Live: 'apt-get install latexmk "
    "texlive-latex-recommended texlive-fonts-recommended lmodern' on Debian, 'brew install --cask "
    "mactex' on macOS, tug.org/texlive beside conda"
)


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
    environment.filters.update(sci=scientific, count=grouped, percent=percent)
    text = environment.get_template(template.name).render(**values)
    target.write_text(text, encoding="utf-8")


class Tex(str):
    """LaTeX source that is not to be escaped."""

    __slots__ = ()


_ESCAPES = {
    "<=": r"\(\le\)",
    "|z|": r"\(|z|\)",
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
    >>> from diagfim.report import scientific
    >>> scientific(4.53e-5), scientific(0), scientific(12.34)
    ('\\\\(4.5\\\\times 10^{-5}\\\\)', '\\\\(0\\\\)', '\\\\(12.3\\\\)')
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


def grouped(value: int) -> Tex:
    """A whole number with thin spaces between thousands."""
    return Tex(f"{int(value):,}".replace(",", r"\,"))


def percent(value: float, digits: int = 1) -> Tex:
    """A fraction as a percentage."""
    return Tex(rf"{100 * float(value):.{digits}f}\,\%")


def layer_table(fixed: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer at the last epoch: medians over replicates and inputs."""
    last = fixed.isel(epoch=-1)
    middle = last.median([dim for dim in ("replicate", "input") if dim in last.dims])
    rows = []
    for layer in fixed["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": str(layer).removeprefix("dense"),
            "fisher": float(one["fisher"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            exact = float(of["exact_variance"])
            row[name] = {
                "std": np.sqrt(exact / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                **{
                    kind: float(of["bound_variance"].sel(bound=bound)) / exact
                    if exact
                    else float("nan")
                    for kind, bound in (("theorem", "theorem 5.2"), ("true", "true eigenvalue"))
                },
            }
        rows.append(row)
    return rows


def joint_table(joint: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer over the test set, at the last epoch."""
    middle = joint.isel(epoch=-1).median("replicate")
    rows = []
    for layer in joint["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": str(layer).removeprefix("dense"),
            "fisher": float(one["fisher"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            row[name] = {
                "std": np.sqrt(float(of["exact_variance"]) / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                "share": float(of["input_share"]),
            }
        rows.append(row)
    return rows


def cost_table(benchmarks: Iterable[Path]) -> list[dict[str, Any]]:
    """Jobs, seconds and peak memory of every rule, from Snakemake's benchmark files.

    Parameters
    ----------
    benchmarks : iterable of Path
        Files named ``…/<rule>/<job>.tsv``.
    """
    jobs: Mapping[str, list[dict[str, str]]] = defaultdict(list)
    for path in benchmarks:
        with path.open(encoding="utf-8") as lines:
            jobs[path.parent.name].extend(csv.DictReader(lines, delimiter="\t"))
    rows = [
        {
            "rule": rule.replace("_", " "),
            "jobs": len(runs),
            "seconds": sum(float(run["s"]) for run in runs),
            "longest": max(float(run["s"]) for run in runs),
            "memory": max(float(run["max_rss"].replace("NA", "0")) for run in runs),
        }
        for rule, runs in jobs.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def contents(
    datasets: Mapping[str, Mapping[str, xr.Dataset]], draws: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What the template prints of each network.

    Parameters
    ----------
    datasets : mapping of str to mapping of str to Dataset
        By network, then "history", "fixed" and "joint".
    draws : mapping of str to int
        Recorded N of "fixed" and "joint".
    """
    found = []
    for network, one in datasets.items():
        accuracy = one["history"]["accuracy"].isel(epoch=-1)
        fixed = one["fixed"]
        found.append(
            {
                "name": network,
                "accuracy": {
                    "mean": float(accuracy.mean()),
                    "least": float(accuracy.min()),
                    "greatest": float(accuracy.max()),
                },
                "replicates": accuracy.size,
                "positions": sorted(int(p) for p in fixed["position"].values.ravel()),
                "layers": layer_table(fixed, draws["fixed"]),
                "joint": joint_table(one["joint"], draws["joint"]),
                "claims": claims.decide(dict(one), draws["fixed"]),
                "bounds": bound_table(fixed),
                "agreement": [
                    {
                        "where": where,
                        "what": statistic,
                        "normal_limit": pooled.normal_limit,
                        **vars(pooled),
                    }
                    for kind, where in (("fixed", "one input"), ("joint", "test set"))
                    for statistic in ("mean", "variance")
                    for pooled in [claims.family(one[kind], statistic)]
                ],
            }
        )
    return found


def bound_table(fixed: xr.Dataset) -> list[dict[str, Any]]:
    """Bounds checked and broken, and the tightest, by quantity and kind of bound."""
    names = {"fisher": r"\(I\)", "variance_1": r"\(V_1\)", "variance_2": r"\(V_2\)"}
    over = [dim for dim in fixed["tightest"].dims if dim not in ("quantity", "bound")]
    return [
        {
            "quantity": Tex(names[quantity]),
            "bound": "Theorem 5.2" if bound == "theorem 5.2" else "largest eigenvalue",
            "checked": int(fixed["bounds_checked"].sel(quantity=quantity, bound=bound).sum()),
            "broken": int(fixed["bounds_broken"].sel(quantity=quantity, bound=bound).sum()),
            "tightest": float(fixed["tightest"].max(over).sel(quantity=quantity, bound=bound)),
        }
        for quantity in names
        for bound in fixed["bound"].values
    ]


def typeset(source: Path, target: Path, inputs: Sequence[Path]) -> None:
    """Run latexmk on a source in its folder and put the PDF at the target, whole or not at all.

    Parameters
    ----------
    source : Path
        The .tex file, in a folder of its own that also takes the auxiliary files.
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
    run = subprocess.run(
        ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-silent", source.name],
        cwd=source.parent,
        env={**os.environ, "TEXINPUTS": search, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    log = source.with_suffix(".log")
    if run.returncode:
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        first = next((line for line in lines if line.startswith("!")), "see its log")
        raise UserError(f"{source}: LaTeX stopped ({first}); the whole log is {log}")
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source.with_suffix(".pdf"), partial)
    partial.replace(target)

"""The page as one file: template, style, program, Vega, and what it shows."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from diagfim import looks
from diagfim.explorer import charts


def page(
    contents: Mapping[str, Any],
    headlines: Sequence[Mapping[str, Any]],
    about: Mapping[str, str],
    configuration: str,
) -> str:
    """The page, which needs no other file and asks for none.

    Parameters
    ----------
    contents : mapping
        What `contents.contents` returns.
    headlines : sequence of mapping
        "title", "value" and "meaning" of what to know first.
    about : mapping of str to str
        Where the results come from, as `diagfim.origin.origin` says it.
    configuration : str
        Of the study, to be printed.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diagfim.explorer", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # JSON has no word for what is no number; the page's records have None there.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html.j2").render(
        contents={
            **contents,
            "names": charts.NAMES,
            "lines": charts.LINE_NAMES,
            "factors": charts.FACTORS,
        },
        headlines=headlines,
        estimators=[
            {"key": key, "name": name, "glyph": charts.glyph(key), "colour": looks.COLOURS[key]}
            for key, name in charts.NAMES.items()
        ],
        specifications=charts.specifications(),
        vega=Markup(charts.vega()),
        program=_file("page.js"),
        style=_file("page.css"),
        about={**about, "charts": charts.programs()},
        configuration=configuration,
    )


def _file(name: str) -> Markup:
    """A file of this package, which is no text to be escaped."""
    return Markup((resources.files("diagfim.explorer") / name).read_text(encoding="utf-8"))

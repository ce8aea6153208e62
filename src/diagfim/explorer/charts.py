"""How the page draws: a chart for each panel, in Altair, compiled to Vega.

Every chart takes its rows from named data sets that the page fills.  Colours are variables of the
page's style, so that dark and light need no second chart.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import altair as alt
import vl_convert

from diagfim import looks

NAMES = {
    "score": "Î₁ (score-based)",
    "hessian": "Î₂ (Hessian-based)",
    "mixed": "best mix of both",
    "exact": "exact in y",
    "hutchinson": "Hutchinson",
    "empirical": "empirical Fisher",
}
"""What the page calls the estimators."""

SHAPES = {
    "o": ("circle", "●"),
    "s": ("square", "■"),
    "D": ("diamond", "◆"),
    "^": ("triangle-up", "▲"),
    "v": ("triangle-down", "▼"),
    "X": ("cross", "✚"),
}
"""By Matplotlib's name of a marker: Vega's, and one to write in a line of text."""

FACTORS = (1.5, 10, 100)
"""How many times smaller the better variance is, where the colours of the maps change."""

LINES = {"exact": [1, 0], "theorem 5.2": [7, 4], "true eigenvalue": [2, 3]}
"""Dashes of the exact variance and of its bounds."""

LINE_NAMES = {
    "exact": "exact",
    "theorem 5.2": "bound, Theorem 5.2",
    "true eigenvalue": "bound, largest eigenvalue",
}
"""What the page calls them."""

_Chart = alt.Chart | alt.LayerChart | alt.FacetChart

_INK, _LINE = "var(--ink)", "var(--line)"


def glyph(estimator: str) -> str:
    """The marker of an estimator as a character."""
    return SHAPES[looks.MARKERS[estimator]][1]


def compiled(chart: _Chart) -> dict[str, Any]:
    """The Vega specification of a chart as wide as its place on the page."""
    config = alt.Config(
        font="system-ui, sans-serif",
        background="transparent",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=_INK,
            titleColor=_INK,
            domainColor=_INK,
            tickColor=_INK,
            gridColor=_LINE,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelOverlap=True,
            labelSeparation=6,
            labelLimit=130,
        ),
        legend=alt.LegendConfig(
            labelColor=_INK,
            symbolStrokeColor=_INK,
            labelFontSize=12,
            labelLimit=260,
            symbolSize=700,
            orient="bottom",
            direction="vertical",
            title=None,
        ),
    )
    sized = chart.properties(
        width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    return dict(vl_convert.vegalite_to_vega(sized.configure(**config.to_dict()).to_dict()))


def draws() -> _Chart:
    """Variance against N: exact lines in their range, bounds, and what was measured."""
    x = alt.X("draws:Q", scale=_log(), title="draws N", axis=_axis("x", format=","))
    y_axis, title = _axis("y", format="~e"), "variance [nat⁴]"
    y = alt.Y("variance:Q", scale=_log(), title=title, axis=y_axis)
    lines = (
        alt.Chart(_named("lines"))
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x,
            y,
            _colour(),
            strokeDash=alt.StrokeDash(
                "line:N",
                scale=alt.Scale(
                    domain=list(LINE_NAMES.values()), range=[LINES[key] for key in LINE_NAMES]
                ),
            ),
            detail=["estimator:N", "line:N"],
        )
    )
    band = (
        alt.Chart(_named("band"))
        .mark_area(opacity=0.13)
        .encode(x, alt.Y("least:Q", title=title), alt.Y2("greatest:Q"), _colour("fill"))
    )
    points = (
        alt.Chart(_named("points"))
        .mark_point(size=70, filled=False, strokeWidth=2, fill="var(--paper)", fillOpacity=1)
        .encode(x, y, _colour("stroke"), _shape(), tooltip=_tooltip("estimator", "draws", "shown"))
    )
    rule = (
        alt.Chart(_named("rule"))
        .mark_rule(stroke=_INK, strokeWidth=1.5, strokeDash=[4, 3])
        .encode(x)
    )
    return alt.layer(band, lines, rule, points).properties(height=340)


def epochs() -> _Chart:
    """The map of the better estimator of a network: layers by epochs."""
    x = alt.X("epoch:O", title=None, axis=alt.Axis(labelAngle=0, grid=False))
    return _cells(x, alt.Y("layer:O", title=None, sort=None))


def shapes() -> _Chart:
    """The map of the better estimator of the landscape: networks by layers."""
    x = alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, grid=False, orient="top"))
    return _cells(x, alt.Y("network:O", title=None, sort=None))


def frontier() -> _Chart:
    """Relative error against seconds, a line for each estimator and number of draws."""
    title = "relative error ‖Î − I‖ / ‖I‖"
    x = alt.X("seconds:Q", scale=_log(12), title="seconds of a call", axis=_axis("x", format="~g"))
    y = alt.Y("error:Q", scale=_log(12), title=title, axis=_axis("y", format="~g"))
    base = alt.Chart(_named("calls"))
    lines = base.mark_line(strokeWidth=2).encode(
        x,
        y,
        _colour(),
        strokeDash=alt.StrokeDash("calls:N", scale=alt.Scale(range=[[1, 0], [6, 4], [2, 3]])),
        detail=["estimator:N", "calls:N"],
    )
    bars = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        x, alt.Y("least:Q", title=title), alt.Y2("greatest:Q"), _colour("stroke")
    )
    points = base.mark_point(size=60, filled=True, opacity=1).encode(
        x,
        y,
        _colour("fill"),
        _shape(),
        tooltip=_tooltip("estimator", "inputs", "draws", "seconds", "error"),
    )
    return alt.layer(bars, lines, points).properties(height=340)


def plan() -> _Chart:
    """What a precision takes, by layer and estimator."""
    points: alt.Chart = (
        alt.Chart(_named("needed"))
        .mark_point(size=90, filled=True, opacity=0.95)
        .encode(
            alt.X(
                "number:Q",
                scale=alt.Scale(type="log", domainMin=1, nice=True),
                title=None,
                axis=_axis("x", format="~s"),
            ),
            alt.Y("layer:O", sort=None, title=None, scale=alt.Scale(paddingInner=0.4)),
            _colour("fill"),
            _shape(),
            yOffset=alt.YOffset("estimator:N", scale=alt.Scale(domain=list(NAMES.values()))),
            tooltip=_tooltip("layer", "estimator", "number"),
        )
        .properties(height=alt.Step(10))
    )
    return points


def _cells(x: alt.X, y: alt.Y) -> _Chart:
    """Cells coloured by who is better and by how much; a marker and, if it fits, a number."""
    classes = list(range(-len(FACTORS), len(FACTORS) + 1))
    tooltip = _tooltip("network", "epoch", "layer", "better", "times", "share")
    base = alt.Chart(_named("cells")).encode(x, y)
    squares = base.mark_rect(stroke="var(--paper)", cursor="pointer").encode(
        alt.Fill(
            "class:O",
            scale=alt.Scale(domain=classes, range=[f"var(--map{k})" for k in classes]),
            legend=None,
        ),
        tooltip=tooltip,
    )
    words = base.mark_text(fontSize=12, cursor="pointer").encode(
        text=alt.Text(
            value=alt.expr("bandwidth('x') < 44 ? datum.glyph : datum.glyph + ' ' + datum.short")
        ),
        color=alt.Color(
            "class:O",
            scale=alt.Scale(domain=classes, range=[f"var(--on{k})" for k in classes]),
            legend=None,
        ),
        tooltip=tooltip,
    )
    chosen = (
        base.transform_filter("datum.chosen")
        .mark_rect(filled=False, stroke=_INK, strokeWidth=3)
        .encode()
    )
    return alt.layer(squares, words, chosen).properties(height=alt.Step(26))


def _named(name: str) -> alt.NamedData:
    return alt.NamedData(name=name)


def _colour(channel: str = "color") -> Any:
    kind = {"color": alt.Color, "fill": alt.Fill, "stroke": alt.Stroke}[channel]
    scale = alt.Scale(domain=list(NAMES.values()), range=[f"var(--{key})" for key in NAMES])
    return kind("estimator:N", scale=scale, legend=None)


def _shape() -> alt.Shape:
    markers = [SHAPES[looks.MARKERS[name]][0] for name in NAMES]
    scale = alt.Scale(domain=list(NAMES.values()), range=markers)
    return alt.Shape("estimator:N", scale=scale, legend=None)


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(field, type="nominal") for field in fields]


def _log(padding: int = 0) -> alt.Scale:
    """From the least to the greatest value, and some pixels more."""
    return alt.Scale(type="log", nice=False, padding=padding)


def _axis(scale: str, **more: Any) -> alt.Axis:
    """Labels at powers of ten; also at 2 and 5 times these where there are few of them."""
    first = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-6)))"
    several = f"log(domain('{scale}')[1] / domain('{scale}')[0]) / LN10 > 2.5"
    shown = f"indexof({several} ? [1] : [1, 2, 5], {first}) >= 0"
    return alt.Axis(labelExpr=f"{shown} ? datum.label : ''", tickSize=4, **more)


CHARTS: dict[str, Callable[[], _Chart]] = {
    "draws": draws,
    "map": epochs,
    "shapes": shapes,
    "frontier": frontier,
    "plan": plan,
}
"""By the panel that each is in."""


@cache
def specifications() -> dict[str, dict[str, Any]]:
    """Every chart for Vega, by panel."""
    return {panel: compiled(draw()) for panel, draw in CHARTS.items()}


@cache
def vega() -> str:
    """Vega itself, a program that gives the page ``vegaEmbed``."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def programs() -> str:
    """What draws, with versions."""
    return f"Altair {version('altair')}, Vega {vl_convert.get_vega_version()}"

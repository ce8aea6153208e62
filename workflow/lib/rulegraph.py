"""The picture of the rules: the graph that Snakemake tells, drawn by Graphviz.

Run it in the project to write workflow/rulegraph.svg anew; a test compares its nodes and edges
with what Snakemake tells.
"""

import re
import subprocess
from collections.abc import Set
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "rulegraph.svg"

Edge = tuple[str, str]

STAGES = {
    "#dbe9f6": ("dataset", "train", "evaluate"),
    "#d9f0e3": ("derivatives", "conditional_moments", "joint_moments", "bounds", "spectra"),
    "#fde3cf": ("fixed_estimates", "joint_estimates"),
    "#fff3c4": ("comparison", "summary"),
    "#ece2f4": ("experiment", "gather", "theory", "benchmark"),
}
"""Fills of the rules by what they do: train, compute exactly, draw, compare, look beyond."""
SHOWN = "#f1f1ef"
"""Fill of those that only show what was found."""


def told(dot: str) -> tuple[set[str], set[Edge]]:
    """Rules and edges, by name, of what ``snakemake --rulegraph dot`` prints."""
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', dot, re.MULTILINE))
    arrows = re.findall(r"^\s*(\d+) -> (\d+)$", dot, re.MULTILINE)
    return set(names.values()), {(names[one], names[other]) for one, other in arrows}


def drawn(svg: str) -> tuple[set[str], set[Edge]]:
    """Rules and edges of a picture, by the titles that Graphviz gives them."""
    titles = re.findall(r'class="(node|edge)">\s*<title>(.*?)</title>', svg)
    edges = [title.split("&#45;&gt;") for kind, title in titles if kind == "edge"]
    nodes = {title for kind, title in titles if kind == "node"}
    return nodes, {(one, other) for one, other in edges}


def described(rules: Set[str], edges: Set[Edge]) -> str:
    """The graph in Graphviz's language, in an order and a style of our own."""
    fills = {rule: fill for fill, some in STAGES.items() for rule in some}
    nodes = [
        f'{rule} [label="{rule.replace("_", " ")}", fillcolor="{fills.get(rule, SHOWN)}"]'
        for rule in sorted(rules)
    ]
    return "\n".join(
        [
            "digraph rules {",
            'graph [rankdir=LR, bgcolor="#ffffff", ranksep=0.34, nodesep=0.15, pad=0.15]',
            'node [shape=box, style="rounded,filled", color="#8a8f98", fontcolor="#1b1f24",'
            ' fontname="DejaVu Sans,Helvetica,Arial,sans-serif", fontsize=14, height=0.36,'
            ' margin="0.12,0.04"]',
            'edge [color="#a3a9b2", arrowsize=0.55]',
            *nodes,
            *(f"{one} -> {other}" for one, other in sorted(edges)),
            "}",
        ]
    )


def main() -> None:
    """Write the picture."""
    graph = subprocess.run(
        ["snakemake", "--quiet", "all", "--rulegraph", "dot"],
        capture_output=True,
        text=True,
        check=True,
    )
    picture = subprocess.run(
        ["dot", "-Tsvg"],
        input=described(*told(graph.stdout)),
        capture_output=True,
        text=True,
        check=True,
    )
    PICTURE.write_text(picture.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The picture and the table of README.md, from the results of the study."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "results"
MARKS = "<!-- headlines -->\n", "<!-- /headlines -->\n"


def table(headlines: Iterable[Mapping[str, str]]) -> str:
    """The headlines of a study as Markdown.

    Examples
    --------
    >>> print(table([{"title": "bounds", "value": "0 of 9 broken", "meaning": "At once."}]))
    | | | |
    |---|---|---|
    | bounds | **0 of 9 broken** | At once. |
    <BLANKLINE>
    """
    rows = (f"| {one['title']} | **{one['value']}** | {one['meaning']} |" for one in headlines)
    return "\n".join(["| | | |", "|---|---|---|", *rows, ""])


def with_table(page: str, text: str) -> str:
    """The page with a text between the marks.

    Examples
    --------
    >>> with_table("a\\n<!-- headlines -->\\nb\\n<!-- /headlines -->\\n", "c\\n")
    'a\\n<!-- headlines -->\\nc\\n<!-- /headlines -->\\n'
    """
    begin, end = MARKS
    before, mark, rest = page.partition(begin)
    _, close, after = rest.partition(end)
    if not (mark and close):
        raise ValueError(f"the page lacks {begin.strip()} or {end.strip()}")
    return "".join([before, mark, text, close, after])


def main() -> None:
    """Write both."""
    headlines = json.loads((RESULTS / "headlines.json").read_text(encoding="utf-8"))["headlines"]
    page = PROJECT / "README.md"
    text = with_table(page.read_text(encoding="utf-8"), table(headlines))
    page.write_text(text, encoding="utf-8")
    shutil.copyfile(
        RESULTS / "figures" / "experiments" / "landscape" / "map.png", PROJECT / "paper" / "map.png"
    )


if __name__ == "__main__":
    main()

"""The documentation: the site builds without a warning, and its pages show what their code gives.

On a page every Python block runs, in order and in one namespace.  A block marked ``text`` right
below one shows what it prints, and nothing else may be printed.
"""

from __future__ import annotations

import html
import inspect
import math
import os
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

import diagfim

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

PIPELINE = {
    "benchmark", "claims", "comparison", "data", "experiments", "explorer", "figures", "latex",
    "repetitions", "report", "timings", "training",
}  # fmt: skip
"""What only the study uses: modules and packages that have no page in the reference."""

# ------------------------------------------------------------------------------- code on pages


sys.path.insert(0, str(DOCS))
from blocks import blocks_of  # noqa: E402 - it is not of the package

PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
WITH_CODE = [path for path in PAGES if blocks_of(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda path: str(path.relative_to(DOCS)))
def test_code_of_a_page(page, tmp_path, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    before = torch.get_default_dtype()
    namespace: dict[str, object] = {"__name__": "__main__"}
    try:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            code = compile("\n" * block.line + block.code, str(page), "exec")
            exec(code, namespace)
            printed = capsys.readouterr().out
            where = f"{page.relative_to(ROOT)}:{block.line}"
            if block.shown is None:
                assert not printed, f"{where} prints what the page does not show:\n{printed}"
            else:
                found = difference(block.shown, printed)
                assert found is None, f"{where}: {found}; it prints:\n{printed}"
    finally:
        torch.set_default_dtype(before)
        pyplot.close("all")


NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?(?![\w])", re.IGNORECASE)


def difference(shown: str, printed: str) -> str | None:
    """What differs: words and integers exactly, other numbers beyond the last digit shown.

    The width of the gaps may differ, and dots that end a cut number with them.
    """
    pairs = [(NUMBER.split(text), NUMBER.findall(text)) for text in (shown, printed)]
    (words, numbers), (printed_words, printed_numbers) = pairs
    if [" ".join(one.split()) for one in words] != [" ".join(one.split()) for one in printed_words]:
        return "the words differ from those on the page"
    for one, other in zip(numbers, printed_numbers, strict=True):
        if not same(one, other):
            return f"{one} on the page is {other}"
    return None


def same(shown: str, printed: str) -> bool:
    """Whether a number is the one shown, to one unit of the last digit that is shown."""
    if re.fullmatch(r"[-+]?\d+", shown):
        return shown == printed
    mantissa, _, exponent = shown.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - digits)
    return math.isclose(float(shown), float(printed), rel_tol=0, abs_tol=1.001 * unit)


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("a  1.25e-03 b", "a 1.26e-03 b", True),
        ("1.25e-03", "1.27e-03", False),
        ("0.10", "0.11", True),
        ("0.10", "0.12", False),
        ("13", "14", False),
        ("13", "13.0", False),
        ("(every layer)  3", "(every layer) 3", True),
        ("score 3", "hessian 3", False),
        ("dense1 3", "dense2 3", False),
        ("1.5 2.5", "1.5", False),
    ],
)
def test_comparison_of_outputs(shown, printed, agree):
    assert (difference(shown, printed) is None) is agree


NOT_RUN = re.compile(r"^```\{code-block\} python\n((?::.*\n)*)(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_code_that_is_not_run_says_why(page):
    text = page.read_text(encoding="utf-8")
    for match in NOT_RUN.finditer(text):
        options, code = match.groups()
        compile(code, str(page), "exec")
        if ":class: file" in options:  # what a reader is to save under a name
            assert re.search(r"^:caption: \S+\.py$", options, re.MULTILINE)
        else:
            assert ":class: no-run" in options
            reason = re.search(r"<!-- not run: .+ -->\n+\Z", text[: match.start()])
            assert reason, f"{page.name}: no reason above the block\n{match[0]}"
    # Any other spelling would be neither run nor noticed.
    others = re.findall(r"^```\{?(?:py|python3|pycon|code|code-cell)\b(?!-).*", text, re.MULTILINE)
    assert not others, f"{page.name}: {others}"


# ------------------------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built strictly and without a network."""
    folder = tmp_path_factory.mktemp("site")
    # Nothing listens there: what asks for a page of another host fails at once.
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    nowhere |= {name.upper(): value for name, value in nowhere.items()}
    nowhere |= {"no_proxy": "", "NO_PROXY": "", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-b", "html", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        env=os.environ | nowhere,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "WARNING: " not in done.stderr, done.stderr[-5000:]
    return folder / "html"


class Page(HTMLParser):
    """What a page links to and fetches, and the identifiers on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.identifiers: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag points to and is called."""
        for name, value in attrs:
            if name == "id" and value:
                self.identifiers.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)
                if tag != "a":
                    self.fetched.append(value)


def test_internal_links_lead_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif target in pages and parts.fragment:
                known = pages[target].identifiers
                broken += [f"{path.name}: {link}"] * (unquote(parts.fragment) not in known)
    assert not broken


def test_a_page_fetches_nothing_but_its_formulas(site):
    # No fonts, no scripts, no pictures of others; a reader without MathJax sees the TeX.
    hosts = {urlsplit(one).netloc for path in site.rglob("*.html") for one in Page(path).fetched}
    assert hosts == {"", "cdn.jsdelivr.net"}


def objects_of(site: Path) -> set[str]:
    """What the reference describes, from the inventory that the build leaves."""
    from sphinx.util.inventory import InventoryFile

    text = (site / "objects.inv").read_bytes()
    data = InventoryFile.loads(text, uri="").data
    return {name for kind, named in data.items() if kind.startswith("py:") for name in named}


def test_every_public_name_is_described(site):
    public = {f"diagfim.{name}" for name in diagfim.__all__} - {"diagfim.__version__"}
    assert public <= objects_of(site)


LIBRARY = [
    one.name
    for one in pkgutil.walk_packages(diagfim.__path__, "diagfim.")
    if one.name.split(".")[1] not in PIPELINE and not one.name.rpartition(".")[2].startswith("_")
]


def test_every_module_of_the_library_is_described(site):
    assert set(LIBRARY) <= objects_of(site)


def test_the_other_modules_are_named():
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert {one.name for one in pkgutil.iter_modules(diagfim.__path__)} >= PIPELINE
    assert [name for name in PIPELINE if f"`{name}`" not in text] == []


def test_every_public_function_and_class_is_described(site):
    described = objects_of(site)
    missing = []
    for module in LIBRARY:
        for name, value in vars(import_module(module)).items():
            own = getattr(value, "__module__", None) == module and not name.startswith("_")
            if own and (inspect.isfunction(value) or inspect.isclass(value)):
                # A package shows what it takes from its modules under its own name.
                places = {f"{module}.{name}", f"{module.rpartition('.')[0]}.{name}"}
                if not places & described:
                    missing.append(f"{module}.{name}")
    assert not missing


def test_the_version_is_that_of_the_package(site):
    assert f"diagfim {diagfim.__version__}" in (site / "index.html").read_text(encoding="utf-8")

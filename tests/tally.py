"""Counts of what the tests tried, on docs/interruptions.md: a pytest plugin.

A test that refuses a bad input or survives a fault says so:

    @pytest.mark.survived("kill -9 of a job")
    @pytest.mark.parametrize("rule", RULES)
    def test_a_killed_job(rule): ...

Each of its cases counts once; one that tries more in a loop hands the number to the fixture
``tally``.  ``pytest --write-counts`` writes the numbers of what ran and passed into the tables of
the page, and leaves the rows of tests that did not run; a row is a test of which every case passed.
tests/test_tally.py fails when a row is missing or has another number of cases than its test.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "interruptions.md"

TABLES = {
    "survived": "a fault after which a rerun ended with every number of an undisturbed run",
    "refused": "a bad input that was refused in one line which names it",
}
"""Markers of counted tests, a table of the page each."""


@dataclass(frozen=True)
class Row:
    """What was tried, how often, and by which test.

    Attributes
    ----------
    what : str
        In a few words.
    times : int
    test : str
        File below tests/, and function.
    """

    what: str
    times: int
    test: str

    def __str__(self) -> str:
        """The row of the table."""
        return f"| {self.what} | {self.times:,} | `{self.test}` |"


ROW = re.compile(r"^\| (?P<what>.+) \| (?P<times>[\d,]+) \| `(?P<test>\S+)` \|$", re.MULTILINE)


def block_of(table: str) -> re.Pattern[str]:
    """Where a table stands on the page: between two comments."""
    return re.compile(
        rf"(<!-- {table}: written by pytest --write-counts -->\n)(.*?)(\n<!-- end -->)", re.DOTALL
    )


def rows_of(text: str, table: str) -> dict[str, Row]:
    """The rows of a table of the page, by test."""
    found = block_of(table).search(text)
    assert found, f"{PAGE} has no table {table}"
    return {
        row["test"]: Row(row["what"], int(row["times"].replace(",", "")), row["test"])
        for row in ROW.finditer(found[2])
    }


def with_rows(text: str, table: str, rows: dict[str, Row]) -> str:
    """The page with these rows in a table, in the order of the tests, and their sum."""
    ordered = sorted(rows.values(), key=lambda row: row.test)
    lines = [
        "| What | Times | Test |",
        "|---|---:|---|",
        *map(str, ordered),
        f"| **Altogether** | **{sum(row.times for row in ordered):,}** | |",
    ]
    return block_of(table).sub(lambda block: block[1] + "\n".join(lines) + block[3], text)


# ------------------------------------------------------------------------------------- the tests


@dataclass(frozen=True)
class Counted:
    """A test that counts.

    Attributes
    ----------
    table, what : str
        Its marker, and what that says.
    cases : int
        As collected.
    """

    table: str
    what: str
    cases: int


COUNTED = pytest.StashKey[dict[str, Counted]]()


def name_of(item: pytest.Item) -> str:
    """File below tests/ and function, without the case."""
    return f"{item.path.relative_to(ROOT / 'tests')}::{item.name.partition('[')[0]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-counts", action="store_true", help=f"write what was tried into {PAGE.name}"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in TABLES.items():
        config.addinivalue_line("markers", f"{name}(what): {meaning}, counted in docs/{PAGE.name}")
    config.stash[COUNTED] = {}
    if config.getoption("--write-counts") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before any is deselected: what every test counts as, and of how many cases it is one."""
    cases = Counter(map(name_of, items))
    for item in items:
        for table in TABLES:
            if marker := item.get_closest_marker(table):
                name = name_of(item)
                config.stash[COUNTED][name] = Counted(table, *marker.args, cases[name])
                # travels with the report, to another process too
                item.user_properties.append(("counted", [name, table, *marker.args, cases[name]]))


@pytest.fixture
def tally(request: pytest.FixtureRequest):
    """Function that adds to the number of things which the test has tried."""

    def add(times: int) -> None:
        request.node.user_properties.append(("tried", times))

    return add


class Writer:
    """Gathers the reports of a run, and writes the tables at its end."""

    def __init__(self) -> None:
        self._tried: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._rejected: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if "counted" not in properties:
            return
        if not report.passed:
            self._rejected[properties["counted"][0]] = report.outcome
        elif report.when == "call":
            tried = [times for name, times in report.user_properties if name == "tried"]
            self._tried[tuple(properties["counted"])].append(sum(tried) if tried else 1)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        text = PAGE.read_text(encoding="utf-8")
        for table in TABLES:
            rows = rows_of(text, table)
            for (name, its_table, what, cases), tried in sorted(self._tried.items()):
                if its_table != table:
                    continue
                if len(tried) == cases:
                    rows[name] = Row(what, sum(tried), name)
                else:
                    why = self._rejected.get(name, "deselected")
                    terminalreporter.write_line(
                        f"not counted: {name}, {cases - len(tried)} of {cases} cases {why}"
                    )
            rows = {name: row for name, row in rows.items() if defined(name)}
            text = with_rows(text, table, rows)
        PAGE.write_text(text, encoding="utf-8")


def defined(test: str) -> bool:
    """Whether a test of this name is still there."""
    file, _, function = test.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and f"\ndef {function}(" in path.read_text(encoding="utf-8")

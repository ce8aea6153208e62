"""The tables of docs/interruptions.md are those of the tests that count."""

import pytest
from tally import COUNTED, PAGE, TABLES, Row, defined, rows_of, with_rows


@pytest.mark.parametrize("table", TABLES)
def test_the_page_counts_what_the_tests_try(table, request):
    """Every collected test that counts has its row; every row has a test."""
    rows = rows_of(PAGE.read_text(encoding="utf-8"), table)
    remedy = "run it with --write-counts"
    for name, counted in request.config.stash[COUNTED].items():
        if counted.table == table:
            assert name in rows, f"docs/{PAGE.name} does not count {name}; {remedy}"
            assert rows[name].what == counted.what, f"{name} says otherwise; {remedy}"
            # those that loop count more than their cases
            assert rows[name].times >= counted.cases, f"{name} has more cases; {remedy}"
    gone = [name for name in rows if not defined(name)]
    assert not gone, f"docs/{PAGE.name} counts tests that are no more: {gone}; {remedy}"


@pytest.mark.parametrize("table", TABLES)
def test_the_page_is_as_written(table):
    text = PAGE.read_text(encoding="utf-8")
    assert with_rows(text, table, rows_of(text, table)) == text


def test_rows_are_read_as_they_are_written():
    page = "".join(
        f"<!-- {table}: written by pytest --write-counts -->\n\n<!-- end -->\n" for table in TABLES
    )
    row = Row("kill -9 of a job", 1234, "faults/test_kills.py::test_a_job")
    written = with_rows(page, "survived", {row.test: row})
    assert rows_of(written, "survived") == {row.test: row}
    assert rows_of(written, "refused") == {}
    assert "| **Altogether** | **1,234** | |" in written

"""A user's mistake is one line."""

from diagfim.errors import UserError


def test_line_ends_become_spaces():
    assert str(UserError("file.nc: not readable (first line,\n  second line);\ndelete it")) == (
        "file.nc: not readable (first line, second line); delete it"
    )


def test_programs_may_catch_it_as_a_value_error():
    assert issubclass(UserError, ValueError)

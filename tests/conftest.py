"""Settings of every test: property tests draw the same examples on every machine."""

import pytest
from hypothesis import settings

pytest_plugins = ["tally"]

settings.register_profile("diagfim", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("diagfim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, and what waits for the study that it runs not at once.

    So no worker is left with it at the end, or idle at the beginning.
    """
    waiting = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("workflow") is None:
            return 3
        if item.path.name == "test_study.py":
            return 0
        return 2 if item.path in waiting else 1

    items.sort(key=turn)

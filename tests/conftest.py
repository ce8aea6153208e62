"""Settings of every test: property tests draw the same examples on every machine."""

import pytest
from hypothesis import settings

pytest_plugins = ["tally"]

settings.register_profile("diagfim", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("diagfim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)

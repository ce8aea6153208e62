"""What the report prints of the experiment "regression"."""

from typing import Any

from diagfim.claims import Claim, Datasets


def contents(groups: Datasets) -> dict[str, Any]:
    """What the section prints."""
    return {}


def claims(groups: Datasets) -> list[Claim]:
    """Claims of the paper that the experiment decides."""
    return []

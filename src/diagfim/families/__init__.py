"""What the outputs of a network mean: the distribution that it predicts."""

from diagfim.errors import UserError
from diagfim.families.base import Draws, Family, Moments
from diagfim.families.categorical import Categorical, Outcomes, Tails
from diagfim.families.independent import Bernoulli, Central, Gaussian, Independent, Poisson

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "Central",
    "Draws",
    "Family",
    "Gaussian",
    "Independent",
    "Moments",
    "Outcomes",
    "Poisson",
    "Tails",
    "family_of",
]

FAMILIES: dict[str, type[Categorical] | type[Independent]] = {
    family.name: family for family in (Categorical, Gaussian, Bernoulli, Poisson)
}
"""By the name that `diagfim.analyze` and `diagfim.estimate` know them by."""


def family_of(family: str | Family) -> Family:
    """The family of a name, or the family given.

    Raises
    ------
    UserError
        If no family has that name.
    """
    if not isinstance(family, str):
        return family
    if family not in FAMILIES:
        raise UserError(f"family: {family!r} is not one of {', '.join(FAMILIES)}, nor an object")
    return FAMILIES[family]()

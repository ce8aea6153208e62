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

    Parameters
    ----------
    family : str or Family
        A key of `FAMILIES`, or an object that has the methods of `Family`.

    Raises
    ------
    UserError
        If no family has that name.
    """
    if isinstance(family, Family):
        if isinstance(family, type):
            raise UserError(
                f"family: {family.__name__} is a class; pass an object of it, {family.__name__}()"
            )
        return family
    if not isinstance(family, str):
        raise UserError(
            f"family: a {type(family).__name__} is neither a name nor an object that has what "
            "diagfim.families.Family lists"
        )
    if family not in FAMILIES:
        raise UserError(f"family: {family!r} is not one of {', '.join(FAMILIES)}, nor an object")
    return FAMILIES[family]()

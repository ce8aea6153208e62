"""The numbered results of the paper, in its order, and how each is tried."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from diagfim.theory import checks
from diagfim.theory.cases import BOUNDED, FEW, LABELS, SETTINGS


@dataclass(frozen=True)
class Result:
    """A result of the paper and how it is tried.

    Attributes
    ----------
    name : str
        Its number.
    function : str
        What implements it, under ``diagfim``.
    statement : str
        What it says, in a line.
    kind : {"bound", "identity", "simulation", "misprint"}
    check : callable, optional
        From cases that results share, the comparisons.
    settings : tuple of str
        Which cases the check takes: keys of `diagfim.theory.cases.SETTINGS`.
    trial : callable, optional
        From a generator and a number of cases, the comparisons; in the place of a check.
    """

    name: str
    function: str
    statement: str
    kind: str
    check: checks.Check | None = None
    settings: tuple[str, ...] = tuple(SETTINGS)
    trial: checks.Trial | None = None


def _results() -> Iterator[Result]:
    for equation, quantity, statement in (
        (4, "fisher", "I = ∂h_a ∂h_b I_ab"),
        (5, "variance_1", "V1 = ∂h_a ∂h_b ∂h_c ∂h_d (K − I⊗I)_abcd"),
        (6, "variance_2", "V2 = ∂²h_a ∂²h_b I_ab"),
    ):
        yield Result(
            f"Lemma 3.1, Eq. {equation}",
            "families.Family.moments",
            statement,
            "identity",
            checks.lemma_3_1(quantity),
        )
    yield Result(
        "covariance of both (not in the paper)",
        "families.Family.moments",
        "Cov(Î1, Î2) = −∂h_a ∂h_b ∂²h_c κ_abc",
        "identity",
        checks.lemma_3_1("covariance_12"),
    )
    for equation, quantity, symbol, side in (
        (7, "fisher", "I", "‖∂h‖² λ(I)"),
        (8, "variance_1", "V1", "‖∂h‖⁴ λ̃(M)"),
        (9, "variance_2", "V2", "‖∂²h‖² λ(I)"),
    ):
        for upper in (True, False):
            yield Result(
                f"Theorem 4.1, Eq. {equation}, {'upper' if upper else 'lower'}",
                "bounds.theorem_4_1",
                f"{symbol} {'≤' if upper else '≥'} {side}, {'largest' if upper else 'smallest'} λ",
                "bound",
                checks.theorem_4_1(quantity, upper),
            )
    yield Result(
        "Corollary 4.2, Eq. 11",
        "bounds.corollary_4_2",
        "λ̃min(M) ≥ max{0, λ̃min(K) − λmax(I)²}",
        "bound",
        checks.corollary_4_2(upper=False),
    )
    yield Result(
        "Corollary 4.2, Eq. 12",
        "bounds.corollary_4_2",
        "λ̃max(M) ≤ λ̃max(K) − λmin(I)²",
        "bound",
        checks.corollary_4_2(upper=True),
    )
    yield Result(
        "Proposition 4.3",
        "bounds.proposition_4_3",
        "λ̃max(K) ≤ B λmax(I) ≤ B² where ‖t − η‖² ≤ B",
        "bound",
        checks.proposition_4_3,
        BOUNDED,
    )
    yield Result(
        "Remark 4.4",
        "bounds.remark_4_4",
        "∂²h = 0, hence V2 = 0, in the last layer",
        "identity",
        trial=checks.remark_4_4,
    )
    yield Result(
        "Remark 4.5",
        "bounds.remark_4_5",
        "∂²h_k = (w_out)_k φ''(z) a aᵀ in the layer before",
        "identity",
        trial=checks.remark_4_5,
    )
    yield Result(
        "Remark 4.5, sigmoid at z = 0",
        "families.Family.second_moment",
        "V2 = 0 where φ''(z) = 0",
        "identity",
        trial=checks.remark_4_5_sigmoid,
    )
    for name, softplus, statement in (
        ("saturated sigmoid", False, "V1 and V2 vanish as exp(−4|z|) and exp(−2|z|)"),
        ("SoftPlus at z > 0", True, "V2 vanishes as exp(−2z), V1 keeps a 16th of a linear unit's"),
    ):
        yield Result(
            f"Remark 4.5, {name}",
            "families.Family.moments",
            statement,
            "bound",
            trial=partial(checks.remark_4_5_limits, softplus=softplus),
        )
    for index, equation, statement in (
        (0, 13, "tr I(θ) ≤ ‖∂h‖² min{tr I, λmax(I)}"),
        (1, 14, "Σ V1 ≤ ‖∂h‖⁴ min{Σ K_ttuu − ‖I‖², λ̃max(M)}"),
        (2, 15, "Σ V2 ≤ ‖∂²h‖² min{tr I, λmax(I)}"),
    ):
        yield Result(
            f"Corollary 4.6, Eq. {equation}, corrected",
            "bounds.corollary_4_6",
            statement,
            "bound",
            checks.corollary_4_6("corollary_4_6", index),
        )
        yield Result(
            f"Corollary 4.6, Eq. {equation}, as printed",
            "bounds.corollary_4_6_as_printed",
            "the first term of the minimum with the root of its norm",
            "misprint",
            checks.corollary_4_6("corollary_4_6_as_printed", index),
        )
    yield Result(
        "Theorem 4.7, by enumeration",
        "bounds.theorem_4_7",
        "Var Î = Var_x I / N_x + E_x V / (N_x N)",
        "identity",
        trial=checks.theorem_4_7,
    )
    yield Result(
        "Theorem 4.7, by simulation",
        "bounds.theorem_4_7",
        "the same for five pairs (N_x, N)",
        "simulation",
        trial=checks.simulation,
    )
    yield Result(
        "Lemma 4.8", "bounds.lemma_4_8", "Var_x I ≤ E_x ‖∂h‖⁴ λmax(I)²", "bound", checks.lemma_4_8
    )
    yield Result(
        "Proposition 5.1",
        "bounds.proposition_5_1",
        "λ(I) = 1/s² and λ̃(M) = 2/s⁴, Gaussian",
        "identity",
        trial=checks.proposition_5_1,
    )
    for index, statement in enumerate(("λmax(I) ≤ m", "λ̃max(M) ≤ 2m")):
        yield Result(
            f"Theorem 5.2, {('I', 'M')[index]}",
            "bounds.theorem_5_2",
            f"{statement}, m = min{{max σ, 1 − ‖σ‖²}}, categorical",
            "bound",
            checks.theorem_5_2(index),
            LABELS,
        )
    yield Result(
        "Lemma 6.1",
        "bounds.lemma_6_1",
        "Cov^q(t) = I_D − (η − η̂)(η − η̂)ᵀ",
        "identity",
        checks.lemma_6_1,
    )
    yield Result(
        "Theorem C.1, Î1",
        "bounds.theorem_c_1",
        "Var Î1_ij ≤ ‖∂_i h‖² ‖∂_j h‖² γ̃max(M)",
        "bound",
        checks.theorem_c_1("variance_1"),
        FEW,
    )
    yield Result(
        "Theorem C.1, Î2",
        "bounds.theorem_c_1",
        "Var Î2_ij ≤ ‖∂²_ij h‖² γmax(I)",
        "bound",
        checks.theorem_c_1("variance_2"),
        FEW,
    )
    yield Result(
        "Lemma C.2",
        "bounds.lemma_c_2",
        "γmax(A) = sup uᵀAv = s_max(A)",
        "bound",
        trial=checks.lemma_c_2,
    )
    yield Result(
        "Corollary C.3",
        "bounds.corollary_c_3",
        "Var Î2_ij ≤ ‖∂²_ij h‖² s_max(I)",
        "bound",
        checks.theorem_c_1("corollary"),
        FEW,
    )
    for number, quantity, statement in (
        ("22", "fisher", "tr I(θ) between sums of s_t²(∂h) λ_t(I)"),
        ("23, corrected", "variance_1", "Σ V1 between sums of s_t²(vJac) λ_t(M), T² terms"),
        ("24", "variance_2", "Σ V2 between sums of s_t²(∂²h) λ_t(I)"),
    ):
        yield Result(
            f"Theorem D.1, Eq. {number}",
            "bounds.theorem_d_1",
            statement,
            "bound",
            checks.theorem_d_1(quantity),
        )
    for upper in (True, False):
        yield Result(
            f"Theorem D.1, Eq. 23, {'upper' if upper else 'lower'}, as printed",
            "bounds.theorem_d_1_as_printed",
            "the same with T terms",
            "misprint",
            checks.theorem_d_1_as_printed(upper),
        )
    yield Result(
        "Theorem D.2",
        "bounds.theorem_d_2",
        "tr AB between sums of λ_i(A) λ_i(B)",
        "bound",
        trial=checks.theorem_d_2,
    )
    yield Result(
        "Corollary G.1",
        "bounds.corollary_g_1",
        "variance of the empirical Fisher information given x",
        "identity",
        checks.corollary_g_1,
        BOUNDED,
    )
    yield Result(
        "Corollary G.2",
        "bounds.theorem_4_7",
        "Theorem 4.7 for labels from the data",
        "identity",
        trial=partial(checks.theorem_4_7, data=True),
    )
    yield Result(
        "Lemma I.1, corrected",
        "bounds.lemma_i_1",
        "‖v‖² λmin ≤ vᵀAv ≤ ‖v‖² λmax, λ of (A + Aᵀ)/2",
        "bound",
        trial=checks.lemma_i_1("lemma_i_1"),
    )
    yield Result(
        "Lemma I.1, as printed",
        "bounds.lemma_i_1_as_printed",
        "the same with λ of any square A",
        "misprint",
        trial=checks.lemma_i_1("lemma_i_1_as_printed"),
    )


RESULTS: dict[str, Result] = {result.name: result for result in _results()}
"""By their names, in the order of the paper."""

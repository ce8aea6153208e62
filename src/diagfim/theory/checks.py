"""What is compared for each result: a function of the package, and what it should give.

A check takes cases that results share, a trial makes its own from a generator.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from diagfim import bounds
from diagfim.families import Categorical, Gaussian, Poisson
from diagfim.theory.cases import Cases


@dataclass(frozen=True)
class Comparison:
    """Smaller ≤ larger, or equal, for an array of cases.

    Attributes
    ----------
    smaller, larger : array
        Both sides, the cases along the first axis.
    scale : array
        What rounding is measured by, broadcast against them.
    """

    smaller: np.ndarray
    larger: np.ndarray
    scale: np.ndarray


Check = Callable[[Cases], Iterator[Comparison]]
Trial = Callable[[np.random.Generator, int], Iterator[Comparison]]

# ------------------------------------------------------------------------------------------ checks


def lemma_3_1(quantity: str) -> Check:
    """Both ways to compute a moment, against the estimators at every value of y."""

    def check(cases: Cases) -> Iterator[Comparison]:
        family, h, first, second = cases.family, cases.outputs, cases.first, cases.second
        along = family.directions(h)
        contracted = {
            "fisher": family.second_moment(h, first, first),
            "variance_1": family.product_covariance(h, first, first, first, first),
            "variance_2": family.second_moment(h, second, second),
            "covariance_12": -family.third_moment(h, first, first, second),
        }
        for value in (
            getattr(family.moments(h, along @ first, along @ second), quantity),
            contracted[quantity],
        ):
            yield Comparison(value, cases.moments[quantity], cases.sizes[quantity])

    return check


_OF_4_1 = ("fisher", "variance_1", "variance_2")


def theorem_4_1(quantity: str, upper: bool) -> Check:
    """A moment of the estimators between its bounds, with proven eigenvalues of M."""

    def check(cases: Cases) -> Iterator[Comparison]:
        least, largest = cases.tensor
        tensor = largest.upper if upper else least.lower
        eigenvalues = cases.fisher[int(upper)][:, None], tensor[:, None]
        index = _OF_4_1.index(quantity)
        bound = bounds.theorem_4_1(*cases.norms, *eigenvalues)[index]
        yield _ordered(cases.moments[quantity], bound, cases.sizes[quantity], upper)

    return check


def _ordered(value: np.ndarray, bound: np.ndarray, scale: np.ndarray, upper: bool) -> Comparison:
    return Comparison(value, bound, scale) if upper else Comparison(bound, value, scale)


def corollary_4_2(upper: bool) -> Check:
    """An eigenvalue of M that a vector attains, against a proven one of K."""

    def check(cases: Cases) -> Iterator[Comparison]:
        of_k = cases.moment
        found = bounds.corollary_4_2(of_k[0].lower, of_k[1].upper, *cases.fisher)
        value = cases.attained(cases.tensor[int(upper)].direction, "M")
        yield _ordered(value, found[int(upper)], of_k[1].upper, upper)

    return check


def proposition_4_3(cases: Cases) -> Iterator[Comparison]:
    """An eigenvalue of K that a vector attains, and the two bounds in their order."""
    tight, loose = bounds.proposition_4_3(cases.radius, cases.fisher[1])
    yield Comparison(cases.attained(cases.moment[1].direction, "K"), tight, loose)
    yield Comparison(tight, loose, loose)


def _traces(cases: Cases) -> tuple[np.ndarray, ...]:
    return tuple(np.sum(cases.moments[quantity], axis=1) for quantity in _OF_4_1)


def _trace_scales(cases: Cases) -> tuple[np.ndarray, ...]:
    return tuple(np.sum(cases.sizes[quantity], axis=1) for quantity in _OF_4_1)


def corollary_4_6(name: str, index: int) -> Check:
    """Sums over the parameters of the moments of the estimators."""

    def check(cases: Cases) -> Iterator[Comparison]:
        found = getattr(bounds, name)(
            *(np.sum(norm, axis=1) for norm in cases.norms),
            np.einsum("naa->n", cases.covariance),
            cases.fisher[1],
            np.einsum("nabab->n", cases.excess),
            cases.tensor[1].upper,
        )
        yield Comparison(_traces(cases)[index], found[index], _trace_scales(cases)[index])

    return check


def lemma_4_8(cases: Cases) -> Iterator[Comparison]:
    """The variance over five inputs of one family, all equally likely."""
    fisher = cases.moments["fisher"]
    parts = [slice(start, start + 5) for start in range(len(fisher) - 4)]
    bound = np.array(
        [bounds.lemma_4_8(cases.norms[0][part], cases.fisher[1][part, None]) for part in parts]
    )
    yield Comparison(np.array([fisher[part].var(axis=0) for part in parts]), bound, bound)


def theorem_5_2(index: int) -> Check:
    """The eigenvalue of I, and that of M which a vector attains."""

    def check(cases: Cases) -> Iterator[Comparison]:
        bound = bounds.theorem_5_2(cases.weights)[index]
        value = (cases.fisher[1], cases.attained(cases.tensor[1].direction, "M"))[index]
        yield Comparison(value, bound, bound)

    return check


def theorem_c_1(name: str) -> Check:
    """Variances of the products at every value of y, off the diagonal too."""

    def check(cases: Cases) -> Iterator[Comparison]:
        # ∂²_ij h of no particular network, but symmetric and along the eigenvectors of I.
        bent = cases.second[:, :, :, None] + cases.second[:, :, None, :]
        along = cases.residuals @ cases.first
        score = along[:, :, :, None] * along[:, :, None, :]
        bend = np.einsum("nyt,ntij->nyij", cases.residuals, bent)
        variances = [
            cases.mean((value - cases.mean(value)[:, None]) ** 2) for value in (score, bend)
        ]
        squares = np.sum(bent**2, axis=1)
        singular = bounds.lemma_c_2(cases.covariance)
        of_1, of_2 = bounds.theorem_c_1(cases.norms[0], squares, cases.pairs.upper, singular)
        trace = np.einsum("naa->n", cases.covariance)[:, None, None]
        slope = cases.norms[0][:, :, None] * cases.norms[0][:, None, :]
        fourth = np.einsum("naabb->n", cases.excess)[:, None, None] + trace**2
        yield {
            "variance_1": Comparison(variances[0], of_1, slope * fourth),
            "variance_2": Comparison(variances[1], of_2, squares * trace),
            "corollary": Comparison(
                variances[1], bounds.corollary_c_3(squares, cases.covariance), squares * trace
            ),
        }[name]

    return check


def theorem_d_1(quantity: str) -> Check:
    """Sums over the parameters of the moments of the estimators, from both sides."""

    def check(cases: Cases) -> Iterator[Comparison]:
        at = cases.first, cases.second, cases.covariance, cases.excess
        index = _OF_4_1.index(quantity)
        lower, upper = bounds.theorem_d_1(*at)[index]
        value, scale = _traces(cases)[index], _trace_scales(cases)[index]
        yield Comparison(value, upper, scale)
        yield Comparison(lower, value, scale)

    return check


def theorem_d_1_as_printed(upper: bool) -> Check:
    """One side of `theorem_d_1`, of V1."""

    def check(cases: Cases) -> Iterator[Comparison]:
        bound = bounds.theorem_d_1_as_printed(cases.first, cases.excess)[int(upper)]
        yield _ordered(_traces(cases)[1], bound, _trace_scales(cases)[1], upper)

    return check


def lemma_6_1(cases: Cases) -> Iterator[Comparison]:
    """The covariance by the probabilities of the data, by its definition."""
    mean = cases.family.mean(cases.outputs)
    second = cases.second_moment(cases.data)
    found = bounds.lemma_6_1(second, mean, mean + cases.shift)
    size = np.einsum("naa->n", second)
    size = size + np.sum(mean**2, axis=1) * 1e-4  # rounding of η̂ − η
    yield Comparison(found, cases.data_covariance, size[:, None, None])


def corollary_g_1(cases: Cases) -> Iterator[Comparison]:
    """The variance over the data of squared scores, in both forms."""
    score, _ = cases.draws
    mean = np.einsum("ny,nyp->np", cases.data, score)
    expected = np.einsum("ny,nyp->np", cases.data, (score - mean[:, None]) ** 2)
    second, fourth = cases.second_moment(cases.data), cases.fourth_moment(cases.data)
    scale = cases.norms[0] ** 2 * np.einsum("naabb->n", fourth)[:, None]
    yield Comparison(bounds.corollary_g_1(cases.first, fourth, second), expected, scale)
    second = cases.data_covariance + cases.shift[:, :, None] * cases.shift[:, None, :]  # Cov^q + ΔH
    yield Comparison(bounds.corollary_g_1(cases.first, fourth, second), expected, scale)


# ------------------------------------------------------------------------------------------ trials


def _by_autograd(outputs: Tensor, weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """∂h (n, T, P) and ∂²h (n, T, P, P) of outputs (n, T), by the weights (n, P) of each case."""

    def gradient(values: Tensor) -> Tensor:
        if not values.requires_grad:  # it does not depend on the weights
            return torch.zeros_like(weights)
        [found] = torch.autograd.grad(
            values.sum(), weights, create_graph=True, materialize_grads=True
        )
        return found

    first = torch.stack([gradient(one) for one in outputs.unbind(1)], dim=1)
    rows = [torch.stack([gradient(x) for x in one.unbind(1)], dim=1) for one in first.unbind(1)]
    return first.detach().numpy(), torch.stack(rows, dim=1).detach().numpy()


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.tensor(rng.normal(size=shape))


def remark_4_4(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """Autograd's derivatives by the weights of the last layer, and V2 by them in two families."""
    weights, inputs = _normal(rng, cases, 12).requires_grad_(), _normal(rng, cases, 4)
    outputs = (weights.reshape(cases, 3, 4) * inputs[:, None]).sum(dim=2)
    first, bent = _by_autograd(outputs, weights)
    second = bent.diagonal(axis1=2, axis2=3)
    size = np.abs(first).max(axis=(1, 2))[:, None, None]
    for found, expected in zip(bounds.remark_4_4(inputs.numpy(), 3), (first, second), strict=True):
        yield Comparison(found, expected, size)
    for family in (Categorical(), Poisson()):
        variance = np.asarray(family.second_moment(outputs.detach().numpy(), second, second))
        yield Comparison(variance, np.zeros_like(variance), size[:, 0])


def remark_4_5(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """Autograd's second derivatives by the incoming weights of a unit."""
    outgoing, inputs = _normal(rng, cases, 3), _normal(rng, cases, 4)
    incoming = _normal(rng, cases, 4).requires_grad_()
    z = torch.sum(incoming * inputs, dim=1)
    s = torch.sigmoid(z).detach()
    for unit, bend in (
        (torch.sigmoid(z), s * (1 - s) * (1 - 2 * s)),
        (nn.functional.softplus(z), s * (1 - s)),
    ):
        _, expected = _by_autograd(outgoing * unit[:, None], incoming)
        found = bounds.remark_4_5(outgoing.numpy(), bend.numpy(), inputs.numpy())
        size = torch.abs(outgoing).amax(1) * torch.sum(inputs**2, dim=1)
        yield Comparison(found, expected, size.numpy()[:, None, None, None])


def remark_4_5_sigmoid(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """V2 of a sigmoid unit at the pre-activation 0, with derivatives by autograd."""
    outgoing, inputs, rest = _normal(rng, cases, 3), _normal(rng, cases, 4), _normal(rng, cases, 1)
    incoming = -rest * inputs / torch.sum(inputs**2, dim=1, keepdim=True)
    incoming.requires_grad_()
    z = torch.sum(incoming * inputs, dim=1, keepdim=True) + rest
    outputs = outgoing * torch.sigmoid(z)
    first, bent = _by_autograd(outputs, incoming)
    second = bent.diagonal(axis1=2, axis2=3)
    h = outputs.detach().numpy()
    for family in (Categorical(), Poisson()):
        variance = np.asarray(family.second_moment(h, second, second))
        # A pre-activation is 0 to eps of its terms, φ'' in proportion.
        scale = np.asarray(family.second_moment(h, first, first)) + 1
        yield Comparison(variance, np.zeros_like(variance), scale)


def remark_4_5_limits(rng: np.random.Generator, cases: int, softplus: bool) -> Iterator[Comparison]:
    """V1 and V2 of a unit far from z = 0 beside those of a unit without activation.

    With r = abs(z), and both φ' and abs(φ'') at most exp(−r): V1 ≤ exp(−4r) V1' and
    V2 ≤ exp(−2r) V2' for the sigmoid on both sides.  For SoftPlus at z > 0 the second holds, and
    φ' ≥ 1/2 keeps V1 ≥ V1' / 16.  Beyond r = 8 autograd's own 1 − φ(z) has lost too many digits to
    tell.
    """
    outgoing, inputs = _normal(rng, cases, 3), _normal(rng, cases, 4)
    z = torch.from_numpy(rng.uniform(1, 8, (cases, 1)) * (1 if softplus else rng.choice([-1, 1])))
    rest = z - torch.sum(inputs * inputs, dim=1, keepdim=True)
    incoming = inputs.clone().requires_grad_()
    z = torch.sum(incoming * inputs, dim=1, keepdim=True) + rest
    outputs = outgoing * (nn.functional.softplus(z) if softplus else torch.sigmoid(z))
    first, bent = _by_autograd(outputs, incoming)
    second = bent.diagonal(axis1=2, axis2=3)
    straight = (outgoing[:, :, None] * inputs[:, None]).numpy()
    fading = torch.exp(-torch.abs(z)).detach().numpy()
    h = outputs.detach().numpy()
    for family in (Categorical(), Poisson()):
        one, linear = (
            np.asarray(family.product_covariance(h, *([along] * 4))) for along in (first, straight)
        )
        bound = one if softplus else fading**4 * linear
        yield Comparison(linear / 16 if softplus else one, bound, bound)
        bound = fading**2 * np.asarray(
            family.second_moment(h, *([straight * inputs.numpy()[:, None]] * 2))
        )
        yield Comparison(np.asarray(family.second_moment(h, second, second)), bound, bound)


def theorem_4_7(rng: np.random.Generator, cases: int, data: bool = False) -> Iterator[Comparison]:
    """Both estimators from two inputs of three, with two draws each, over all 3² · 2⁴ outcomes."""
    p = rng.random((cases, 3))
    weights = np.stack([p, 1 - p], axis=2)
    if data:  # labels from a distribution that is not the model's, as in Corollary G.2
        other = rng.random((cases, 3))
        sigma = np.stack([other, 1 - other], axis=2)
    else:
        sigma = weights
    g, s = rng.normal(size=(2, cases, 3))
    residual = np.array([1.0, -1.0]) * sigma[:, :, ::-1]
    slope = (residual * g[:, :, None]) ** 2
    fisher = np.sum(sigma * slope, axis=2)
    for draws in (slope,) if data else (slope, fisher[:, :, None] - residual * s[:, :, None]):
        mean = np.sum(weights * draws, axis=2)
        spread = np.sum(weights * (draws - mean[:, :, None]) ** 2, axis=2)
        found = bounds.theorem_4_7(mean.var(axis=1), spread.mean(axis=1), inputs=2, draws=2)
        first, second = np.zeros((2, cases))
        for x in product(range(3), repeat=2):
            for y in product(range(2), repeat=4):
                places = [(x[0], y[0]), (x[0], y[1]), (x[1], y[2]), (x[1], y[3])]
                chance = np.prod([weights[:, a, b] for a, b in places], axis=0) / 9
                value = np.mean([draws[:, a, b] for a, b in places], axis=0) - mean.mean(axis=1)
                first, second = first + chance * value, second + chance * value**2
        size = np.max(draws**2, axis=(1, 2)) + 1e-300
        yield Comparison(found, second - first**2, size)


def proposition_5_1(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """Both forms along random unit vectors, by quadrature."""
    variance = rng.lognormal(size=cases)
    fisher, tensor = bounds.proposition_5_1(variance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    every = np.array(list(product(range(8), repeat=3)))
    chance = np.prod(weights[every] / weights.sum(), axis=1)
    u = rng.normal(size=(cases, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    along = u @ nodes[every].T / np.sqrt(variance)[:, None]
    second = along**2 @ chance
    yield Comparison(second, fisher, fisher)
    yield Comparison((along**2 - second[:, None]) ** 2 @ chance, tensor, tensor)
    for k in range(min(cases, 50)):
        least, largest = Gaussian(variance[k]).tensor_eigenvalues(u[k, None])
        yield Comparison(least.upper, tensor[k, None], tensor[k, None])
        yield Comparison(largest.lower, tensor[k, None], tensor[k, None])


def lemma_c_2(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """What alternating maximisation attains from random vectors."""
    matrix = rng.normal(size=(cases, 4, 4))
    found = bounds.lemma_c_2(matrix)
    u, v = rng.normal(size=(2, cases, 4))
    for _ in range(200):  # alternating maximisation, from random vectors
        u = np.einsum("nab,nb->na", matrix, v)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        v = np.einsum("nab,na->nb", matrix, u)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
    yield Comparison(np.einsum("nab,na,nb->n", matrix, u, v), found, found)


def lemma_i_1(name: str) -> Trial:
    """Quadratic forms of matrices that are symmetric, and that are not."""

    def trial(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
        matrix = rng.normal(size=(cases, 3, 3))
        matrix[::2] = np.triu(matrix[::2])  # real eigenvalues, and not symmetric
        matrix[1::2] += matrix[1::2].transpose(0, 2, 1)
        v = rng.normal(size=(cases, 3))
        # Half of each along the vectors that attain the true bounds.
        vectors = np.linalg.eigh(matrix + matrix.transpose(0, 2, 1))[1]
        v[::4], v[1::4] = vectors[::4, :, 0], vectors[1::4, :, -1]
        squared = np.sum(v**2, axis=1)
        lower, upper = getattr(bounds, name)(squared, matrix)
        value = np.einsum("nab,na,nb->n", matrix, v, v)
        scale = squared * np.linalg.norm(matrix, axis=(1, 2))
        yield Comparison(value, upper, scale)
        yield Comparison(lower, value, scale)

    return trial


def theorem_d_2(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """Traces of products, half of them of matrices that commute."""
    left, right = rng.normal(size=(2, cases, 4, 4))
    left, right = left + left.transpose(0, 2, 1), right + right.transpose(0, 2, 1)
    # Every other pair commutes, its eigenvalues in equal order: the bound is attained.
    values, vectors = np.linalg.eigh(left[::2])
    right[::2] = (vectors * values[:, None] ** 3) @ vectors.transpose(0, 2, 1)
    lower, upper = bounds.theorem_d_2(left, right)
    trace = np.einsum("nab,nba->n", left, right)
    scale = np.linalg.norm(left, axis=(1, 2)) * np.linalg.norm(right, axis=(1, 2))
    yield Comparison(trace, upper, scale)
    yield Comparison(lower, trace, scale)


REPETITIONS = 20
"""Of a simulation, for each case: its squared errors are far from normal."""


def simulation(rng: np.random.Generator, cases: int) -> Iterator[Comparison]:
    """Theorem 4.7 by nested draws: squared errors over their mean, in standard errors."""
    for inputs, draws in ((1, 1), (3, 1), (1, 10), (5, 4), (20, 2)):
        pool, classes = 6, 4
        sigma = special.softmax(2 * rng.normal(size=(pool, classes)), axis=1)
        g, s = rng.normal(size=(2, pool, classes))
        residual = np.eye(classes) - sigma[:, None]
        slope = (residual @ g[:, :, None])[:, :, 0] ** 2
        fisher = np.sum(sigma * slope, axis=1)
        bend = fisher[:, None] - (residual @ s[:, :, None])[:, :, 0]
        x = rng.integers(pool, size=(REPETITIONS * cases, inputs))
        counts = rng.multinomial(draws, sigma[x])
        for values in (slope, bend):
            estimate = np.sum(counts * values[x], axis=(1, 2)) / (inputs * draws)
            spread = np.sum(sigma * (values - fisher[:, None]) ** 2, axis=1)
            variance = bounds.theorem_4_7(
                np.var(fisher), np.mean(spread), inputs=inputs, draws=draws
            )
            squares = (estimate - fisher.mean()) ** 2 / variance
            error = np.std(squares) / len(squares) ** 0.5
            yield Comparison(squares.mean()[None], np.ones(1), error[None])

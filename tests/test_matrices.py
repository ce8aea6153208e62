"""Fisher matrices and their estimators against sums over the labels of derivatives of log p."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from reference import EPS, assert_close, chain, inputs, label_tensors, of_flat_parameters
from scipy import special
from torch import nn
from torch.func import grad, jacrev, vmap

import diagfim
from diagfim import bounds, matrices, spectra
from diagfim.errors import UserError
from diagfim.families import Gaussian

# Of the largest entry of a matrix, as in test_analysis: a few hundred roundings of products of at
# most four derivatives, each known to 1e-14 of the largest.
TOLERANCE = 1e-12

# A deviation beyond this many standard errors has probability 6e-7 if the law is normal, and there
# are some two thousand comparisons.
LIMIT = 5.0

QUANTITIES = ("fisher", "variance_1", "variance_2", "covariance_12", "input_variance")


# --------------------------------------------------------------- families, label by label


class Labels:
    """Every y that matters at outputs h, with its probability, and log p up to a constant of y."""

    gaussian_variance = np.array([0.5, 1.0, 3.0])

    @staticmethod
    def categorical(h):
        return torch.arange(len(h)), h.softmax(0)

    @staticmethod
    def log_categorical(h, y):
        return h.log_softmax(0)[y]

    @staticmethod
    def bernoulli(h):
        y = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(h)))).to(h)
        return y, Labels.log_bernoulli(h, y).exp()

    @staticmethod
    def log_bernoulli(h, y):
        return (y * h - torch.nn.functional.softplus(h)).sum(1)

    @staticmethod
    def poisson(h):
        """Counts up to 24: beyond lie 1e-17 of the law for means up to 2."""
        assert h.exp().max() < 2
        y = torch.tensor(list(itertools.product(range(25), repeat=len(h)))).to(h)
        return y, (Labels.log_poisson(h, y) - torch.lgamma(y + 1).sum(1)).exp()

    @staticmethod
    def log_poisson(h, y):
        return (y * h - h.exp()).sum(1)

    @staticmethod
    def gaussian(h):
        """Gauss–Hermite: exact for polynomials of degree 9, and (Î1 − I)⁴ has degree 8."""
        nodes, weights = special.roots_hermitenorm(5)
        x = torch.tensor(np.array(list(itertools.product(nodes, repeat=len(h)))))
        w = torch.tensor(np.array(list(itertools.product(weights, repeat=len(h)))))
        variance = torch.tensor(Labels.gaussian_variance[: len(h)])
        return h + variance.sqrt() * x, w.prod(1) / w.prod(1).sum()

    @staticmethod
    def log_gaussian(h, y):
        return -((y - h) ** 2 / torch.tensor(Labels.gaussian_variance[: len(h)])).sum(1) / 2


def family_of(name, outputs):
    return Gaussian(Labels.gaussian_variance[:outputs]) if name == "gaussian" else name


def draws_of(model, sample, family):
    """p(y), and both estimators of the whole matrix from a single y: (Y,) and twice (Y, P, P)."""
    with torch.no_grad():
        y, p = getattr(Labels, family)(model(sample[None])[0])
    log_p = getattr(Labels, f"log_{family}")
    flat, of_sample = of_flat_parameters(model, lambda h: log_p(h, y))

    def at_label(chosen):
        def slope(vector):
            return grad(lambda v: of_sample(v, sample) @ chosen)(vector)

        return slope(flat), jacrev(slope)(flat)

    gradient, hessian = vmap(at_label)(torch.eye(len(p)).double())
    score = gradient[:, :, None] * gradient[:, None, :]
    return p.numpy(), score.numpy(), -hessian.numpy()


def enumerated(model, samples, family):
    """What `matrices.analyze` finds, from the definitions of mean, variance and covariance."""
    found = {quantity: [] for quantity in ("fisher", "hessian", *QUANTITIES[1:4])}
    for sample in samples:
        p, score, hessian = draws_of(model, sample, family)
        mean_1, mean_2 = np.tensordot(p, score, 1), np.tensordot(p, hessian, 1)
        found["fisher"].append(mean_1)
        found["hessian"].append(mean_2)
        found["variance_1"].append(np.tensordot(p, (score - mean_1) ** 2, 1))
        found["variance_2"].append(np.tensordot(p, (hessian - mean_2) ** 2, 1))
        found["covariance_12"].append(np.tensordot(p, (score - mean_1) * (hessian - mean_2), 1))
    at_inputs = {quantity: np.stack(values) for quantity, values in found.items()}
    means = {quantity: values.mean(0) for quantity, values in at_inputs.items()}
    return {**means, "input_variance": at_inputs["fisher"].var(0)}


def random_network(seed, outputs=3):
    """Two or three affine maps between random activations, 10 to 40 parameters."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    widths = [3, *rng.integers(2, 4, size=rng.integers(1, 3)), outputs]
    kinds = [nn.Sigmoid, nn.Tanh, nn.Softplus, nn.GELU, nn.ReLU]
    modules = []
    for fan_in, units in itertools.pairwise(widths):
        activation = kinds[rng.integers(len(kinds))]()
        modules += [nn.Linear(int(fan_in), int(units), bias=bool(rng.random() < 0.7)), activation]
    return nn.Sequential(*modules[:-1]).double().eval()


def assert_matrices_close(found, expected, tolerance=TOLERANCE):
    size = {quantity: np.max(np.abs(expected[quantity])) for quantity in QUANTITIES}
    # By Cauchy and Schwarz; a covariance that vanishes, as Gaussian ones do, is a sum that cancels.
    size["covariance_12"] = np.sqrt(size["variance_1"] * size["variance_2"])
    for quantity in QUANTITIES:
        # Where a variance is zero, the definition may have the square of a rounding instead.
        scale = max(size[quantity], 100 * (EPS * size["fisher"]) ** 2 / tolerance)
        assert_close(found[quantity].values, expected[quantity], tolerance, scale)


# ----------------------------------------------------------------------------------- values


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("family", ["categorical", "bernoulli", "gaussian"])
def test_every_entry_by_enumeration(family, seed):
    """At least 8 × 3 × 100 entries of random networks, each with all five quantities."""
    model, samples = random_network(seed), inputs(2, seed=seed)
    expected = enumerated(model, samples, family)
    assert expected["fisher"].size >= 100
    tree = matrices.analyze(model, samples, family_of(family, 3), blocks="full")
    assert_matrices_close(tree["full"], expected)
    assert_close(tree["full"]["fisher"].values, expected["hessian"], TOLERANCE)


def test_every_entry_by_enumeration_of_counts():
    """625 pairs of counts; what lies beyond them has 1e-17 of the law and y⁴ < 1e6 of weight."""
    model, samples = random_network(3, outputs=2), inputs(2)
    expected = enumerated(model, samples, "poisson")
    tree = matrices.analyze(model, samples, "poisson", blocks="full")
    assert_matrices_close(tree["full"], expected, 1e-10)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.norm = nn.LayerNorm(2)
        self.read = nn.Linear(2, 3)

    def forward(self, x):
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.read(self.norm(mixed).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(1, 2, batch_first=True)
        self.read = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        found, _ = self.cell(x[:, :, None])
        return self.scale * self.read(found[:, -1])


def convolution():
    return nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    )


def tokens():
    return nn.Sequential(nn.Embedding(3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3))


NETWORKS = {
    "dense": (lambda: chain(nn.Sigmoid, 3), inputs(4)),
    "linear": (lambda: nn.Linear(3, 3), inputs(4)),
    "convolution": (convolution, inputs(4, 1, 3)),
    "attention": (Attention, inputs(4, 3, 2)),
    "recurrent": (Recurrent, inputs(4, 3)),
    "tokens": (tokens, torch.tensor([[0, 1], [1, 1], [2, 0], [2, 1]])),
}


def network(name):
    build, samples = NETWORKS[name]
    torch.manual_seed(1)
    return build().double().eval(), samples


def diagonal(tree, names, quantity):
    """From the blocks, the diagonal in the order of the parameters' entries."""
    entries = {}
    for block in tree.children.values():
        labels = block["row"].values.tolist()
        entries |= dict(zip(labels, np.diag(block[quantity].values), strict=True))
    return np.array([entries[name] for name in names])


def entries_of(model):
    found = []
    for name, value in model.named_parameters():
        indices = np.ndindex(*value.shape) if value.ndim else [()]
        found += [f"{name}[{','.join(map(str, k))}]" if k else name for k in indices]
    return found


def flat(tree, quantity):
    return np.concatenate([one[quantity].values.ravel() for one in tree.children.values()])


@pytest.mark.parametrize("family", ["categorical", "gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("name", NETWORKS)
def test_diagonal_is_that_of_analyze(name, family):
    model, samples = network(name)
    tree = matrices.analyze(model, samples, family)
    expected = diagfim.analyze(model, samples, family)
    assert tree.attrs["inputs"] == 4
    largest = np.max(flat(expected, "fisher"))
    for quantity in QUANTITIES:
        value = flat(expected, quantity)
        scale = max(np.max(np.abs(value)), 100 * (EPS * largest) ** 2 / TOLERANCE)
        assert_close(diagonal(tree, entries_of(model), quantity), value, TOLERANCE, scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_parts_of_the_whole(name):
    model, samples = network(name)
    whole = matrices.analyze(model, samples, blocks="full")["full"]
    assert whole["row"].values.tolist() == whole["column"].values.tolist() == entries_of(model)
    for blocks in ("layer", "parameter", "unit"):
        tree = matrices.analyze(model, samples, blocks=blocks)
        seen = [label for one in tree.children.values() for label in one["row"].values.tolist()]
        assert sorted(seen) == sorted(entries_of(model))
        for one in tree.children.values():
            part = whole.to_dataset().sel(row=one["row"].values, column=one["column"].values)
            for quantity in QUANTITIES:
                scale = np.max(np.abs(whole[quantity].values))
                assert_close(one[quantity].values, part[quantity].values, TOLERANCE, scale)


def test_what_makes_a_block():
    model, samples = network("dense")
    assert list(matrices.analyze(model, samples).children) == ["0", "2", "4"]
    by_parameter = matrices.analyze(model, samples, blocks="parameter")
    assert list(by_parameter.children) == [name for name, _ in model.named_parameters()]
    units = matrices.analyze(model, samples, blocks="unit")
    assert list(units.children) == [
        *(f"0.weight[{k}]" for k in range(4)),
        *(f"2.weight[{k}]" for k in range(2)),
        *(f"4.weight[{k}]" for k in range(3)),
    ]
    labels = units["2.weight[1]"]["row"].values.tolist()
    assert labels == [*(f"2.weight[1,{k}]" for k in range(4)), "2.bias[1]"]
    model, samples = network("recurrent")
    assert list(matrices.analyze(model, samples).children) == ["(model)", "cell", "read"]
    units = matrices.analyze(model, samples, blocks="unit")
    assert units["scale[0]"]["row"].values.tolist() == ["scale"]


def test_frozen_parameters_are_left_out():
    model, samples = network("dense")
    full = matrices.analyze(model, samples, blocks="full")["full"]
    model[2].requires_grad_(False)
    rest = matrices.analyze(model, samples, blocks="full")["full"]
    labels = rest["row"].values
    assert labels.tolist() == [one for one in entries_of(model) if not one.startswith("2.")]
    part = full["fisher"].sel(row=labels, column=labels).values
    assert_close(rest["fisher"].values, part, TOLERANCE)


@pytest.mark.parametrize("family", ["categorical", "gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_information_is_symmetric_and_positive_semi_definite(name, family):
    """Its rank is no more than inputs times outputs, so that many eigenvalues are roundings."""
    model, samples = network(name)
    information = matrices.analyze(model, samples[:2], family, blocks="full")["full"]["fisher"]
    assert np.array_equal(information, information.values.T)
    eigenvalues = np.linalg.eigvalsh(information.values)
    rounding = len(eigenvalues) * 10 * EPS * eigenvalues[-1]
    assert eigenvalues[0] > -rounding
    rank = 2 * (2 if family == "categorical" else 3)  # the residuals of a label sum to zero
    assert np.all(np.abs(eigenvalues[:-rank]) < rounding)
    assert eigenvalues[-rank] > rounding


def test_kl_divergence_is_half_the_information():
    """The mean over ±d of KL(p_θ ‖ p_θ+d) is ½ dᵀ F d + O(d⁴): halving d divides the error by 16.

    By 15 to 17 when the sixth order is a hundredth of the fourth.  Along a random direction, and
    along one for which what is off the diagonal makes most of it.
    """
    model, samples = network("dense")
    information = matrices.analyze(model, samples, blocks="full")["full"]["fisher"].values
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    top = 4 * torch.tensor(np.linalg.eigh(information)[1][:, -1].copy())
    anywhere = torch.randn(len(theta), generator=torch.Generator().manual_seed(2)).double()

    def divergence(d):
        nn.utils.vector_to_parameters(theta, model.parameters())
        here = model(samples).log_softmax(1)
        nn.utils.vector_to_parameters(theta + d, model.parameters())
        there = model(samples).log_softmax(1)
        return (here.exp() * (here - there)).sum(1).mean().item()

    def half(d):
        return d.numpy() @ information @ d.numpy() / 2

    def error(d):
        return (divergence(d) + divergence(-d)) / 2 - half(d)

    for direction in (0.04 * anywhere, 0.04 * top):
        with torch.no_grad():
            coarse, fine = error(direction), error(direction / 2)
        assert 15 < coarse / fine < 17
        assert abs(fine) < 1e-2 * half(direction / 2)
    assert np.diag(information) @ top.numpy() ** 2 / 2 < 0.5 * half(top)


# -------------------------------------------------------------------------------- estimates


@pytest.mark.parametrize("family", ["categorical", "gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("draws", [1, 7])
@pytest.mark.parametrize("estimator", ["score", "hessian"])
def test_diagonal_of_an_estimate_is_that_of_estimate(estimator, draws, family):
    model, samples = network("dense")
    options = {"estimator": estimator, "draws": draws, "seed": 3, "family": family}
    tree = matrices.estimate(model, samples, **options, blocks="unit")
    expected = diagfim.estimate(model, samples, **options)
    for quantity in ("fisher", "standard_error"):
        found = diagonal(tree, entries_of(model), quantity)
        assert_close(found, flat(expected, quantity), TOLERANCE)
    assert [tree.attrs[key] for key in ("estimator", "draws", "seed")] == [estimator, draws, 3]


@pytest.mark.parametrize(("estimator", "which"), [("score", 1), ("hessian", 2)])
def test_one_draw_by_the_definition_at_its_label(estimator, which):
    """Each input's estimate is that of one of the labels, and the error is from their spread."""
    model, samples = network("dense")
    single = []
    for k, sample in enumerate(samples):
        # The stream of the input at position k, behind k others.
        before, here = (
            matrices.estimate(model, samples[:n], estimator, seed=4, blocks="full")["full"]
            for n in (max(k, 1), k + 1)
        )
        found = (k + 1) * here["fisher"].values - (k * before["fisher"].values if k else 0)
        candidates = draws_of(model, sample, "categorical")[which]
        distance = np.abs(candidates - found).max((1, 2))
        assert distance.min() <= 1e-11 * np.abs(candidates).max() < 1e-3 * np.sort(distance)[1]
        single.append(candidates[distance.argmin()])
    tree = matrices.estimate(model, samples, estimator, seed=4, blocks="full")["full"]
    scale = np.max(np.abs(single))
    assert_close(tree["fisher"].values, np.mean(single, axis=0), TOLERANCE, scale)
    error = np.std(single, axis=0, ddof=1) / np.sqrt(len(samples))
    assert_close(tree["standard_error"].values, error, TOLERANCE, scale)


REPEATED = 3000


@pytest.mark.parametrize("family", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize(("estimator", "which"), [("score", 1), ("hessian", 2)])
def test_unbiased_with_the_exact_variance(estimator, which, draws, family):
    """One input three thousand times over, each with draws of its own.

    The mean then has the variance V/(N R), and the spread over the inputs estimates V/N, with a
    standard error by the exact fourth moment of a draw; both within `LIMIT` of theirs.
    """
    model, sample = random_network(5), inputs(1, seed=5)
    samples = sample.expand(REPEATED, -1)
    options = {"family": family_of(family, 3), "blocks": "full"}
    tree = matrices.estimate(model, samples, estimator, draws, seed=1, **options)["full"]
    exact = matrices.analyze(model, sample, **options)["full"]
    variance = exact[f"variance_{which}"].values / draws
    scale = np.max(exact["fisher"].values)
    noisy = variance > (1e-9 * scale) ** 2
    assert noisy.mean() > 0.2
    deviation = tree["fisher"].values - exact["fisher"].values
    assert np.abs(deviation[noisy] / np.sqrt(variance[noisy] / REPEATED)).max() < LIMIT
    assert np.abs(deviation[~noisy]).max(initial=0.0) < 1e-9 * scale
    p, *values = draws_of(model, sample[0], family)
    centred = values[which - 1] - exact["fisher"].values
    fourth = np.tensordot(p, centred**4, 1)[noisy]
    excess = (fourth / (draws * variance[noisy]) ** 2 - 3) / draws
    spread = tree["standard_error"].values[noisy] ** 2 * REPEATED
    relative = np.sqrt((excess + 2 + 2 / (REPEATED - 1)) / REPEATED)
    assert np.all(np.abs(spread / variance[noisy] - 1) < LIMIT * relative)


def test_a_score_estimate_has_the_rank_of_its_draws_and_a_hessian_one_may_be_indefinite():
    model, samples = network("dense")
    score, hessian = (
        np.linalg.eigvalsh(
            matrices.estimate(model, samples[:1], one, draws=2, blocks="full")["full"]["fisher"]
        )
        for one in ("score", "hessian")
    )
    assert np.all(np.abs(score[:-2]) < 1e-13 * score[-1])
    assert hessian[0] < -1e-3 * hessian[-1]


def test_one_input_tells_no_error():
    model, samples = network("dense")
    assert np.isnan(matrices.estimate(model, samples[:1])["0"]["standard_error"]).all()
    assert (matrices.analyze(model, samples[:1])["0"]["input_variance"] == 0).all()


# ------------------------------------------------------------------------ batches and passes


def assert_same(tree, other, tolerance=TOLERANCE):
    assert list(tree.children) == list(other.children)
    for name, node in other.children.items():
        for quantity in node.data_vars:
            found, expected = tree[name][quantity].values, node[quantity].values
            assert_close(found, expected, tolerance)


def test_neither_batches_nor_memory_change_anything():
    model, samples = network("dense")
    samples = inputs(7)
    full, drawn = matrices.analyze(model, samples), matrices.estimate(model, samples, draws=2)
    for sizes in ([7], [1] * 7, [3, 0, 4]):
        assert_same(matrices.analyze(model, iter(samples.split(sizes))), full, 0.0)
    # Three inputs at a time: 8 matrices of 16 by 16 in float64 for each of 3 outputs.
    memory = 3 * 8 * 3 * 16**2 * 8
    assert_same(matrices.analyze(model, samples, memory=memory), full)
    assert_same(matrices.estimate(model, samples, draws=2, memory=memory), drawn)


def raising(function, dims=0):
    def call(*arguments):
        raise RuntimeError("no batching rule")

    return call


def wrong(function, dims=0):
    return lambda *arguments: 1.01 * vmap(function, dims)(*arguments)


@pytest.mark.parametrize("broken", [raising, wrong])
def test_passes_that_cannot_be_batched_go_one_by_one(broken, monkeypatch):
    model, samples = network("dense")
    expected = matrices.analyze(model, samples)
    monkeypatch.setattr(matrices, "vmap", broken)
    assert_same(matrices.analyze(model, samples), expected)


def test_unused_parameters_carry_no_information():
    model, samples = network("dense")
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    tree = matrices.analyze(model, samples)
    assert all((tree["(model)"][quantity] == 0).all() for quantity in QUANTITIES)
    assert (tree["0"]["fisher"].values.diagonal() > 0).any()


def test_float32_loses_the_digits_of_float32():
    """A few hundred roundings of float32 (6e-8) where float64 has as many of its own."""
    model, samples = network("dense")
    tree = matrices.analyze(model, samples, dtype=torch.float32)
    assert tree.attrs["dtype"] == "float32"
    assert tree["0"]["fisher"].dtype == np.float64
    assert next(model.parameters()).dtype == torch.float64
    largest = matrices.analyze(model, samples)
    for name, node in largest.children.items():
        for quantity in ("fisher", "variance_1", "input_variance"):
            assert_close(tree[name][quantity].values, node[quantity].values, 1e-4)


def test_tree_is_labelled_and_survives_a_file(tmp_path):
    model, samples = network("dense")
    tree = matrices.analyze(model, samples, blocks="unit")
    assert tree["0.weight[2]"]["fisher"].dims == ("row", "column")
    assert tree["0.weight[2]"]["variance_2"].attrs["long_name"]
    tree.to_netcdf(tmp_path / "tree.nc")
    with xr.open_datatree(tmp_path / "tree.nc") as read:
        assert_same(read, tree, 0.0)
        assert (
            read["0.weight[2]"]["row"].values.tolist()
            == tree["0.weight[2]"]["row"].to_numpy().tolist()
        )
        assert read.attrs["blocks"] == "unit"


# ------------------------------------------------------------------- derivatives and bounds


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_are_those_of_the_outputs(seed):
    model, samples = random_network(seed), inputs(3)
    found = matrices.derivatives_of(model, samples.split(2))
    vector, of_sample = of_flat_parameters(model, lambda h: h)
    first = vmap(jacrev(of_sample), (None, 0))(vector, samples)
    second = vmap(jacrev(jacrev(of_sample)), (None, 0))(vector, samples)
    assert found.names == entries_of(model)
    assert_close(found.outputs, model(samples).detach(), TOLERANCE)
    assert_close(found.first, first, TOLERANCE)
    assert_close(found.second, second, TOLERANCE)
    assert_close(found.first_squared, (first**2).sum(1), TOLERANCE)
    assert_close(found.second_squared, (second**2).sum(1), TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_c_1_where_its_constants_are_known(seed):
    """Var Î1_ij ≤ ‖∂_i h‖² ‖∂_j h‖² γ̃max(M) and Var Î2_ij ≤ ‖∂²_ij h‖² σmax(I).

    Gaussian, variance 1: M_abcd = δ_ac δ_bd + δ_ad δ_bc, so γ̃max(M) = 2, and σmax(I) = 1 with
    equality.  Two classes of probabilities p and q: the residual is ±(1, −1) times q or p, so that
    γ̃max(M) = 4 p q (p − q)² and σmax(I) = 2 p q.
    """
    sample = inputs(1, seed=seed)
    for family, outputs in (("gaussian", 3), ("categorical", 2)):
        model = random_network(seed, outputs)
        tree = matrices.analyze(model, sample, family, blocks="full")["full"]
        found = matrices.derivatives_of(model, sample)
        p, q = torch.tensor(found.outputs[0, :2]).softmax(0).tolist()
        gamma, sigma = (2.0, 1.0) if outputs == 3 else (4 * p * q * (p - q) ** 2, 2 * p * q)
        bound_1 = gamma * np.outer(found.first_squared[0], found.first_squared[0])
        bound_2 = sigma * found.second_squared[0]
        rounding = 1 + TOLERANCE
        variance_1, variance_2 = tree["variance_1"].values, tree["variance_2"].values
        assert np.all(variance_1 <= rounding * bound_1 + TOLERANCE * bound_1.max())
        assert np.all(variance_2 <= rounding * bound_2 + TOLERANCE * bound_2.max())
        if family == "gaussian":
            assert_close(variance_1.diagonal(), bound_1.diagonal(), TOLERANCE)
            assert_close(variance_2, bound_2, TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_c_1_of_a_network_with_three_classes(seed):
    """With γ̃max(M) proven from above, and M summed over the labels."""
    model, sample = random_network(seed, 3), inputs(1, seed=seed)
    tree = matrices.analyze(model, sample, blocks="full")["full"]
    found = matrices.derivatives_of(model, sample)
    covariance, _, fourth = label_tensors(special.softmax(found.outputs[0]))
    excess = fourth - np.einsum("ab,cd->abcd", covariance, covariance)
    limits = bounds.theorem_c_1(
        found.first_squared,
        found.second_squared,
        spectra.gamma_max(excess[None]).upper,
        bounds.lemma_c_2(covariance[None]),
    )
    for name, limit in zip(("variance_1", "variance_2"), limits, strict=True):
        value = tree[name].values
        assert np.all(value <= limit[0] + TOLERANCE * limit.max())
        assert np.max(value / limit[0].max()) > 0.01


# ----------------------------------------------------------------------------------- errors


class Once(torch.autograd.Function):
    """No derivative of its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * slope * ctx.saved_tensors[0]


class OnlyOnce(nn.Linear):
    def forward(self, x):
        return Once.apply(super().forward(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: matrices.analyze(m, x, blocks="row"), "blocks: 'row' is not one of full"),
        (lambda m, x: matrices.analyze(m, x[:0]), "inputs: none were given"),
        (lambda m, x: matrices.analyze("net", x), "model: a str is not a torch.nn.Module"),
        (lambda m, x: matrices.analyze(m, x, "cauchy"), "family: 'cauchy' is not one of"),
        (lambda m, x: matrices.estimate(m, x, "exact"), "estimator: 'exact' is not one of score"),
        (lambda m, x: matrices.estimate(m, x, draws=0), "draws: 0 is not an integer of at least 1"),
        (lambda m, x: matrices.estimate(m, x, seed=-1), "seed: -1 is not an integer of at least 0"),
        (
            # 8 matrices for each of 3 outputs, of 16² numbers of 8 bytes
            lambda m, x: matrices.analyze(m, x, memory=49_151),
            r"0: a block of 16 parameters takes 49,152 bytes per input, beyond memory=49,151; .*"
            "choose smaller blocks .* or pass a larger memory=",
        ),
        (
            # twice 3 outputs, 35² numbers of 8 bytes
            lambda m, x: matrices.derivatives_of(m, x, memory=2 * 3 * 35**2 * 8),
            "inputs: second derivatives by 35 parameters at more than 2 of them exceed memory=",
        ),
        (
            lambda m, x: matrices.analyze(OnlyOnce(3, 3).double(), x),
            "model: PyTorch has no second derivatives of it",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(call, message):
    model, samples = network("dense")
    with pytest.raises(UserError, match=message) as caught:
        call(model, samples)
    assert "\n" not in str(caught.value)


def test_no_second_derivatives_are_needed_for_the_score():
    torch.manual_seed(0)
    model = OnlyOnce(3, 3).double()
    tree = matrices.estimate(model, inputs(3), "score")
    assert (tree["(model)"]["fisher"].values.diagonal() > 0).any()

"""The landscape: what is measured of each configuration, and what is said of it."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.func import functional_call, jacrev, vmap

import diagfim
from diagfim.errors import UserError
from diagfim.experiments import landscape as experiment
from diagfim.experiments import reading
from diagfim.figures.landscape import FIGURES
from diagfim.figures.style import save
from diagfim.latex import escape
from diagfim.report.landscape import claims, contents

SETTINGS = {
    "seed": 1,
    "dropout": 0.2,
    "optimiser": "adam",
    "datasets": ["one"],
    "activations": ["sigmoid", "tanh", "relu"],
    "base": {"depth": 2, "width": 6},
    "depths": [1, 2],
    "widths": [4, 6],
    "grid": "cross",
    "lenet": {"activations": ["tanh"], "inputs": 3},
    "samples": 60,
    "batch_size": 20,
    "learning_rate": 0.01,
    "stages": [0, 2],
    "inputs": 12,
    "kinks": {"betas": [1, 16], "inputs": 2, "coordinates": 6},
}


def images():
    """Ten classes that a network can tell apart: noise around random prototypes."""
    rng = np.random.default_rng(0)
    prototypes = rng.random((10, 784))

    def half(number):
        labels = rng.integers(10, size=number)
        grey = 0.7 * prototypes[labels] + 0.3 * rng.random((number, 784))
        return torch.from_numpy(grey.astype(np.float32)), torch.from_numpy(labels)

    return experiment.Images(half(80), half(40))


def measured(replicate):
    found = experiment.landscape(SETTINGS, {"one": images()}, replicate)
    groups = experiment.flatten(found, SETTINGS["base"])
    return {**groups, "kinks": experiment.kinks(SETTINGS, images(), replicate)}


@pytest.fixture(scope="module")
def groups():
    parts = [measured(replicate) for replicate in range(2)]
    return {name: xr.concat([part[name] for part in parts], dim="replicate") for name in parts[0]}


def test_grid():
    def shapes(**changes):
        found = experiment.configurations({**SETTINGS, **changes})
        return [(one.activation, one.depth, one.width) for one in found if one.network == "mlp"]

    assert shapes()[3:6] == [("tanh", 1, 6), ("tanh", 2, 4), ("tanh", 2, 6)]
    assert len(shapes(grid="product")) == 3 * 2 * 2
    assert [
        (one.activation, one.depth, one.width)
        for one in experiment.configurations(SETTINGS)
        if one.network == "lenet"
    ] == [("tanh", 4, 0)]


@pytest.mark.parametrize(("key", "among"), [("depth", "depths"), ("width", "widths")])
def test_base_must_be_in_the_grid(key, among):
    changed = {**SETTINGS, "base": {**SETTINGS["base"], key: 99}}
    with pytest.raises(UserError, match=rf"base\.{key}: 99 is not one of {among}"):
        experiment.configurations(changed)


@pytest.mark.parametrize("change", [{"activations": ["relu", "tanh"]}, {"stages": [0]}])
def test_a_grid_must_compare(change):
    with pytest.raises(UserError, match=f"landscape.{next(iter(change))}: "):
        experiment.configurations({**SETTINGS, **change})


def test_layer_sums_are_those_of_plain_autograd():
    """Sums over C labels with second derivatives of torch.func, in float64.

    Rounding: some thousand terms of relative error 2e-16 each, far below 1e-10.
    """
    torch.manual_seed(0)
    model = diagfim.networks.mlp(5, [4], 3, "tanh", 0.0).double().eval()
    inputs = torch.rand(7, 5, dtype=torch.float64)
    found = experiment.layer_sums(diagfim.analyze(model, inputs))

    names = list(dict(model.named_parameters()))
    shapes = [parameter.shape for parameter in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def outputs(theta, x):
        parts = theta.split([shape.numel() for shape in shapes])
        values = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional_call(model, values, x[None])[0]

    first = vmap(jacrev(outputs), (None, 0))(flat, inputs)
    second = torch.diagonal(vmap(jacrev(jacrev(outputs)), (None, 0))(flat, inputs), dim1=2, dim2=3)
    sigma = model(inputs).softmax(1).detach()[:, :, None]
    centred = first - (sigma * first).sum(1, keepdim=True)
    fisher = (sigma * centred**2).sum(1, keepdim=True)
    a = centred**2 - fisher
    b = -(second - (sigma * second).sum(1, keepdim=True))
    v1, v2, c12 = ((sigma * x * y).sum(1).mean(0) for x, y in ((a, a), (b, b), (a, b)))
    best = (v1 * v2 - c12**2) / (v1 + v2 - 2 * c12)
    hidden = torch.arange(len(flat)) < 4 * 5 + 4

    for layer, mask in (("dense1", hidden), ("dense2", ~hidden)):
        one = found.sel(layer=layer)
        variance = one["summed_draw_variance"]
        s1, s2, s12 = (float(value[mask].sum()) for value in (v1, v2, c12))
        expected = {
            "score": s1,
            "hessian": s2,
            "layer mix": (s1 * s2 - s12**2) / (s1 + s2 - 2 * s12),
            "parameter mix": float(best[mask].sum()),
        }
        for name, value in expected.items():
            assert float(variance.sel(estimator=name)) == pytest.approx(value, rel=1e-10, abs=1e-25)
        information = fisher[:, 0, mask]
        spread = float(information.var(0, correction=0).sum())
        assert float(one["summed_input_variance"]) == pytest.approx(spread, rel=1e-10)
        assert float(one["summed_fisher"]) == pytest.approx(float(information.mean(0).sum()))
        squares = float((information.mean(0) ** 2).sum())
        assert float(one["summed_fisher_squared"]) == pytest.approx(squares, rel=1e-10)
        wins = float((v1[mask] < v2[mask]).double().mean())
        assert float(one["score_better"]) == pytest.approx(wins, abs=1e-12)


def test_cells_are_the_layers_of_every_configuration(groups):
    layers, networks = groups["layers"], groups["networks"]
    assert networks.sizes["configuration"] == 3 * 3 + 1
    assert layers.sizes["cell"] == 3 * (2 + 3 + 3) + 5
    assert int(layers["last"].sum()) == networks.sizes["configuration"]
    assert list(reading.select(layers, network="lenet")["layer"].values) == [
        "conv1",
        "conv2",
        "dense1",
        "dense2",
        "dense3",
    ]
    assert int(networks["base"].sum()) == 3
    total = reading.select(layers, network="lenet")["summed_draw_variance"].sum("cell")
    whole = reading.select(networks, network="lenet")["summed_draw_variance"]
    np.testing.assert_allclose(
        total, whole.sel(estimator=total["estimator"]).isel(configuration=0), rtol=1e-12
    )


def test_orders_that_hold_by_definition(groups):
    variance = groups["networks"]["summed_draw_variance"]

    def of(name):
        return variance.sel(estimator=name)

    slack = 1 + 1e-9
    assert (of("parameter mix") <= of("layer mix") * slack).all()
    assert (of("layer mix") <= of("layer choice") * slack).all()
    assert (of("layer choice") <= of("score")).all()
    assert (of("layer choice") <= of("hessian")).all()


def test_training_moves_the_networks(groups):
    accuracy = groups["networks"]["accuracy"].sel(configuration=groups["networks"]["base"])
    assert float(accuracy.sel(epoch=2).mean()) > float(accuracy.sel(epoch=0).mean())


def test_a_configuration_is_the_same_in_any_grid(groups):
    alone = {**SETTINGS, "activations": ["tanh", "gelu"], "lenet": {"activations": [], "inputs": 3}}
    torch.rand(3)  # the state of the global generator does not matter
    found = experiment.landscape(alone, {"one": images()}, 1)
    again = experiment.flatten(found, SETTINGS["base"])["layers"]
    again = reading.select(again, activation="tanh")
    whole = groups["layers"].isel(replicate=1)
    whole = reading.select(whole, activation="tanh", network="mlp")
    xr.testing.assert_identical(again, whole.drop_vars("replicate", errors="ignore"))


def test_replicates_differ(groups):
    first, second = (groups["layers"]["summed_fisher"].isel(replicate=one) for one in (0, 1))
    assert not (first == second).where(first > 0, False).any()  # units of a ReLU may be dead


def test_hessian_deviation_sees_second_derivatives():
    """Of one unit h = softplus(θx) with logits (h, 0), against derivatives by hand."""

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(1, 2, bias=False)

        def forward(self, x):
            return self.dense(x)

    linear = nn.Sequential(Unit())
    curved = nn.Sequential(nn.Linear(1, 1), nn.Softplus(), nn.Linear(1, 2))
    inputs = torch.tensor([[0.7], [1.3]])
    # A linear map has no curvature: rounding alone, 2e-16 over probabilities that are not small.
    assert experiment.hessian_deviation(linear, inputs, 2, 0) < 1e-12
    assert experiment.hessian_deviation(curved, inputs, 2, 0) > 1e-3
    assert next(curved.parameters()).dtype == torch.float32


def test_relu_is_exact_and_softened_relu_is_not(groups):
    kinks = groups["kinks"]
    variance = kinks["summed_draw_variance"]
    assert (variance.sel(estimator="hessian", beta=np.inf) == 0).all()
    assert (variance.sel(estimator="score") > 0).all()
    assert (variance.sel(estimator="hessian", beta=[1, 16]) > 0).all()
    assert (kinks["hessian_deviation"].sel(beta=np.inf) < 1e-6).all()
    assert (kinks["hessian_deviation"].sel(beta=[1, 16]) > 1e-3).all()


def test_softened_relu_tends_to_the_relu():
    """|log(1 + exp(βz)) / β − max(z, 0)| <= ln 2 / β."""
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    z = torch.linspace(-2, 2, 101, dtype=torch.float64)
    for beta in (1.0, 10.0, 100.0):
        gap = (experiment.softened(model, beta)(z) - z.relu()).abs().max()
        assert float(gap) <= np.log(2) / beta + 1e-12
    assert (experiment.softened(model, np.inf)(z) == z.relu()).all()


def test_figures_are_drawn(groups, tmp_path):
    for name, draw in FIGURES.items():
        figure = draw(groups)
        save(figure, [str(tmp_path / f"{name}.png")], {})
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert all(axis.get_ylabel() or axis.get_yticks().size for axis in figure.axes)


def test_map_prints_the_ratio_of_every_hidden_layer(groups):
    layers = groups["layers"]
    shown = layers.isel(cell=np.isin(layers["width"].values, [6, 0])).median("replicate")
    variance = shown["summed_draw_variance"].isel(epoch=-1)
    with np.errstate(divide="ignore"):
        ratios = np.log10(variance.sel(estimator="score") / variance.sel(estimator="hessian"))
    expected = sorted(f"{value:.1f}" for value in ratios.values if np.isfinite(value))
    axis = FIGURES["map"](groups).axes[1]
    printed = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in axis.texts]
    assert sorted(text for text in printed if "." in text) == expected


def test_contents(groups):
    found = contents(groups)
    assert (found["replicates"], found["number"], found["cells"]) == (2, 10, 29)
    assert [(row["network"], row["activation"]) for row in found["rows"]] == [
        ("MLP", "sigmoid"),
        ("MLP", "tanh"),
        ("MLP", "relu"),
        ("LeNet", "tanh"),
    ]
    tanh = found["rows"][1]
    one = reading.select(groups["networks"], base=True, activation="tanh").isel(epoch=-1)
    noise = (one["summed_draw_variance"] / one["summed_fisher_squared"]) ** 0.5
    assert tanh["noise"]["score"]["median"] == pytest.approx(
        float(noise.sel(estimator="score").median())
    )
    assert tanh["hidden"] == 2 * 2
    assert found["gains"]["parameter_mix"]["median"] >= found["gains"]["layer_choice"]["median"] > 1
    assert [row["beta"] for row in found["kinks_rows"]] == [1, 16, np.inf]


def test_claims(groups):
    found = {claim.source: claim for claim in claims(groups)}
    assert found["Rem. 4.4, Sec. 5"].verdict == "reproduced"
    assert "60 of 60 last layers" not in found["Rem. 4.4, Sec. 5"].statistic
    assert "40 of 40 last layers" in found["Rem. 4.4, Sec. 5"].statistic
    assert found["Eqs. 2, 3, Sec. 7"].verdict == "corrected"
    for claim in found.values():
        escape(claim.statement + claim.statistic).encode("latin-1")


def bent(groups, name, change):
    one = groups["layers" if name == "layers" else name].copy(deep=True)
    change(one)
    return {**groups, name: one}


def verdict(groups, source, start):
    return next(
        one.verdict
        for one in claims(groups)
        if one.source == source and one.statement.startswith(start)
    )


def test_claims_can_fail(groups):
    def noise_in_last(layers):
        layers["summed_draw_variance"].loc[{"estimator": "hessian"}] = 1.0

    assert verdict(bent(groups, "layers", noise_in_last), "Rem. 4.4, Sec. 5", "In") == (
        "not reproduced"
    )

    def no_gain(networks):
        variance = networks["summed_draw_variance"]
        better = variance.sel(estimator=["score", "hessian"]).min("estimator")
        variance.loc[{"estimator": "layer choice"}] = better

    assert verdict(bent(groups, "networks", no_gain), "Sec. 7", "Using") == "not reproduced"

    def same_everywhere(layers):
        layers["summed_draw_variance"].loc[{"estimator": "score"}] = 1.0
        layers["summed_draw_variance"].loc[{"estimator": "hessian"}] = 2.0

    changed = bent(groups, "layers", same_everywhere)
    assert verdict(changed, "Sec. 5", "How") == "not reproduced"

    def noisy_relu(kinks):
        kinks["hessian_deviation"][:] = 0.1

    assert verdict(bent(groups, "kinks", noisy_relu), "Eqs. 2, 3, Sec. 7", "Î2") == "reproduced"

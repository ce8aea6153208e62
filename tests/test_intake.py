"""What may be handed over: every message of docs/what-is-refused.md, and all that is taken."""

import contextlib
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from reference import assert_close, chain, inputs
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.data import DataLoader, TensorDataset

import diagfim
from diagfim import matrices, reference
from diagfim.derivatives.engines import ENGINES
from diagfim.errors import UserError
from diagfim.families import Gaussian

PAGE = Path(__file__).parents[1] / "docs" / "what-is-refused.md"


# -------------------------------------------------------------------------------- networks


class Applied(nn.Module):
    """A Linear, and whatever is done with what it gives."""

    def __init__(self, function, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, outputs).double()
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))


class Counting(Applied):
    """Counts its passes in a buffer."""

    def __init__(self):
        super().__init__(lambda h: h)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


class Drop(nn.Module):
    """Dropout by the function, with no regard to the mode."""

    def forward(self, x):
        return F.dropout(x, 0.5)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x, mask):
        return self.inner(x) * mask


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 3)
        self.read = nn.Linear(3, 2)

    def forward(self, x):
        return self.read(self.table(x).mean(1))


class Positive(nn.Module):
    """Logarithms: NaN at negative inputs."""

    def forward(self, x):
        return x.log()


def dense(activation=nn.Tanh):
    return chain(activation, 2)


def sequential(*modules):
    torch.manual_seed(0)
    return nn.Sequential(*modules).double().eval()


def changed(change, model=None):
    """A model after some change, made without derivatives."""
    model = model or dense()
    with torch.no_grad():
        change(model)
    return model


def with_entry(value):
    return changed(lambda model: model[0].weight[1, 2].fill_(value))


def normalised(change=lambda norm: None):
    model = sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    return changed(lambda model: change(model[1]), model)


def replaced(name, value, model=None):
    """A model with another parameter under a name such as 0.weight."""
    model = model or dense()
    where, _, which = name.rpartition(".")
    setattr(model.get_submodule(where), which, value)
    return model


def compiled_in_place():
    model = dense()
    model[0].compile(backend="eager")
    return model


def named_with_a_slash():
    model = dense()
    model.add_module("a/b", nn.Linear(3, 3).double())
    return model


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(dense().float(), {nn.Linear})


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(dense())


def of_inference():
    with torch.inference_mode():
        return nn.Linear(3, 2)


def spent():
    batches = (one for one in [inputs(2)])
    list(batches)
    return batches


def analyze(model=None, samples=None, **options):
    return diagfim.analyze(dense() if model is None else model, _or(samples), **options)


def labelled(labels, family="categorical", samples=None):
    return diagfim.estimate(
        dense(),
        inputs(4) if samples is None else samples,
        "empirical",
        family=family,
        labels=labels,
    )


def drawn(**options):
    return diagfim.estimate(dense(), inputs(4), **options)


def _or(samples):
    return inputs(4) if samples is None else samples


NAN = torch.nan

REFUSED = {
    # ------------------------------------------------------------------------- the weights
    "a model in half precision": lambda: analyze(dense().half()),
    "a model in bfloat16": lambda: analyze(dense().bfloat16()),
    "one half-precision parameter among others": lambda: analyze(
        replaced("2.bias", nn.Parameter(torch.ones(3).half()))
    ),
    "a frozen parameter in half precision": lambda: analyze(
        replaced("2.bias", nn.Parameter(torch.ones(3).half(), requires_grad=False))
    ),
    "parameters of two precisions": lambda: analyze(
        replaced("2.bias", nn.Parameter(torch.ones(3)))
    ),
    "NaN in a weight": lambda: analyze(with_entry(NAN)),
    "infinity in a weight": lambda: analyze(with_entry(-torch.inf)),
    "a weight beyond the range of the dtype asked for": lambda: analyze(
        with_entry(1e300), dtype=torch.float32
    ),
    "NaN in the running statistics of a batch-norm": lambda: analyze(
        normalised(lambda norm: norm.running_mean.fill_(NAN))
    ),
    "infinity in them": lambda: analyze(
        normalised(lambda norm: norm.running_var[2].fill_(torch.inf))
    ),
    "a running variance below zero": lambda: analyze(
        normalised(lambda norm: norm.running_var.fill_(-1))
    ),
    "a complex parameter": lambda: analyze(
        replaced("2.bias", nn.Parameter(torch.ones(3, dtype=torch.complex128)))
    ),
    "a sparse parameter": lambda: analyze(
        replaced("2.weight", nn.Parameter(dense()[2].weight.detach().to_sparse()))
    ),
    "a parameter without entries": lambda: analyze(
        sequential(nn.Linear(3, 0), nn.Tanh(), nn.Linear(0, 2))
    ),
    "a lazy module that has seen no inputs": lambda: analyze(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LazyLinear(2))
    ),
    "a model on the meta device": lambda: analyze(dense().to("meta")),
    "parameters on two devices": lambda: analyze(
        replaced("2.bias", nn.Parameter(torch.ones(3, dtype=torch.float64, device="meta")))
    ),
    "a model made in inference mode": lambda: analyze(of_inference()),
    "no parameter that requires a gradient": lambda: analyze(dense().requires_grad_(False)),
    "no parameter at all": lambda: analyze(nn.Sequential(nn.BatchNorm1d(3, affine=False)).eval()),
    "a name with a slash": lambda: analyze(named_with_a_slash()),
    # --------------------------------------------------------------------------- the module
    "no module": lambda: analyze("net.pt"),
    "the class of a model": lambda: analyze(nn.Linear),
    "a compiled model": lambda: analyze(torch.compile(dense(), backend="eager")),
    "a layer compiled in place": lambda: analyze(compiled_in_place()),
    "a model of TorchScript": lambda: analyze(scripted()),
    "a data-parallel model": lambda: analyze(nn.DataParallel(dense())),
    "a quantised model": lambda: analyze(quantised()),
    "backward hooks": lambda: analyze(
        changed(lambda m: m[0].register_full_backward_hook(lambda *arguments: None))
    ),
    # -------------------------------------------------------------------------- the forward
    "dropout in training mode, at any depth": lambda: analyze(
        sequential(nn.Linear(3, 4), nn.Sequential(nn.Dropout(0.1)), nn.Linear(4, 2)).train()
    ),
    "batch-norm in training mode": lambda: analyze(normalised().train()),
    "attention with dropout in training mode": lambda: analyze(
        nn.MultiheadAttention(4, 2, dropout=0.1), inputs(2, 3, 4)
    ),
    "spectral_norm in training mode": lambda: analyze(
        sequential(parametrizations.spectral_norm(nn.Linear(3, 2))).train()
    ),
    "batch-norm without running statistics": lambda: analyze(
        sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    ),
    "an embedding with max_norm": lambda: analyze(nn.Embedding(5, 3, max_norm=1.0)),
    "random numbers in the forward": lambda: analyze(
        sequential(nn.Linear(3, 8), Drop(), nn.Linear(8, 2))
    ),
    "outputs that depend on the rest of the batch": lambda: analyze(
        sequential(nn.Linear(3, 4), Centred(), nn.Linear(4, 2))
    ),
    "a forward that writes to a buffer": lambda: analyze(Counting()),
    "a forward without derivatives": lambda: analyze(Applied(lambda h: h.detach())),
    "a forward that takes more than the inputs": lambda: analyze(Two().double()),
    # -------------------------------------------------------------------------- the outputs
    "a tuple": lambda: analyze(Applied(lambda h: (h, h))),
    "a dict, as of transformers": lambda: analyze(Applied(lambda h: {"logits": h, "loss": 0})),
    "one number per input": lambda: analyze(Applied(lambda h: h[:, 0])),
    "an output per position": lambda: analyze(sequential(nn.Linear(3, 2)), inputs(4, 5, 3)),
    "rows of something else than inputs": lambda: analyze(Applied(lambda h: h.reshape(-1, 1))),
    "another shape for a batch of one": lambda: analyze(Applied(torch.squeeze)),
    "whole numbers": lambda: analyze(Applied(lambda h: h.argmax(1, keepdim=True))),
    "another precision than the parameters'": lambda: analyze(Applied(lambda h: h.bfloat16())),
    "NaN at a later input": lambda: analyze(
        sequential(Positive(), nn.Linear(3, 2)),
        torch.cat([inputs(130).abs() + 1, -inputs(1).abs(), inputs(9).abs()]),
    ),
    # --------------------------------------------------------------------------- the inputs
    "features of another number": lambda: analyze(dense(), inputs(2, 5)),
    "whole numbers for a linear layer": lambda: analyze(dense(), torch.ones(2, 3).long()),
    "floating-point numbers for an embedding": lambda: analyze(Tokens(), torch.ones(2, 3)),
    "an index beyond an embedding, in a later batch": lambda: analyze(
        Tokens(), torch.cat([torch.ones(130, 3).long(), torch.full((1, 3), 5)])
    ),
    "an empty tensor": lambda: analyze(dense(), inputs(0)),
    "an empty iterable": lambda: analyze(dense(), []),
    "nothing but empty batches": lambda: analyze(dense(), [inputs(0), inputs(0)]),
    "a generator that was read already": lambda: analyze(dense(), spent()),
    "a scalar": lambda: analyze(dense(), torch.tensor(1.0)),
    "a number": lambda: analyze(dense(), 3),
    "a data set without a loader": lambda: analyze(dense(), TensorDataset(inputs(4))),
    "batches that are dicts": lambda: analyze(
        dense(), [{"input_ids": inputs(2), "attention_mask": inputs(2)}]
    ),
    "batches of three": lambda: analyze(dense(), [(inputs(2), inputs(2), inputs(2))]),
    "batches of strings": lambda: analyze(dense(), ["x"]),
    "an array of objects": lambda: analyze(dense(), np.array([["a", "b", "c"]], dtype=object)),
    "a sparse tensor": lambda: analyze(dense(), inputs(4).to_sparse()),
    "a tensor on the meta device": lambda: analyze(dense(), inputs(4).to("meta")),
    "batches of unlike shapes": lambda: analyze(dense(), [inputs(2), inputs(2), inputs(2, 4)]),
    "batches of unlike dtypes": lambda: analyze(dense(), [inputs(2), inputs(2).float()]),
    "NaN in the first input": lambda: analyze(dense(), NAN * inputs(2)),
    "infinity in a later batch": lambda: analyze(
        dense(), [inputs(60), inputs(2), torch.stack([inputs(3)[0], torch.inf * inputs(3)[1]])]
    ),
    # ----------------------------------------------------------------------------- the family
    "a name that is unknown": lambda: analyze(family="softmax"),
    "a class in place of an object": lambda: analyze(family=Gaussian),
    "what is no family": lambda: analyze(family=torch.softmax),
    "categorical, one output": lambda: analyze(Applied(lambda h: h, outputs=1)),
    "categorical, probabilities by a module": lambda: analyze(
        sequential(nn.Linear(3, 2), nn.Softmax(1))
    ),
    "categorical, probabilities by a function": lambda: analyze(Applied(lambda h: h.softmax(1))),
    "bernoulli, probabilities by a module": lambda: analyze(
        sequential(nn.Linear(3, 2), nn.Sigmoid()), family="bernoulli"
    ),
    "poisson, means beyond the range": lambda: analyze(
        Applied(lambda h: 1000 + h), family="poisson"
    ),
    "gaussian, a variance that is not positive": lambda: analyze(family=Gaussian([1.0, -1.0, 1.0])),
    "gaussian, a variance that is no number": lambda: analyze(family=Gaussian("small")),
    "gaussian, variances for other outputs": lambda: analyze(family=Gaussian([1.0, 2.0])),
    # ----------------------------------------------------------------------------- the labels
    "none for the empirical Fisher": lambda: labelled(None),
    "labels that nobody looks at": lambda: drawn(labels=torch.zeros(4).long()),
    "labels beside an iterable": lambda: labelled(torch.zeros(4).long(), samples=[inputs(4)]),
    "labels of another number": lambda: labelled(torch.zeros(5).long()),
    "labels in some batches only": lambda: labelled(
        None, samples=[(inputs(2), torch.zeros(2).long()), inputs(2)]
    ),
    "labels that are no numbers": lambda: labelled(["cat", "dog", "dog", "cat"]),
    "categorical, floating-point labels": lambda: labelled(torch.zeros(4)),
    "categorical, one-hot labels": lambda: labelled(torch.eye(3)[[0, 1, 2, 0]].long()),
    "categorical, labels out of range": lambda: labelled(np.array([1, 2, 3, 1])),
    "bernoulli, labels that are neither 0 nor 1": lambda: labelled(
        torch.full((4, 3), 0.5), "bernoulli"
    ),
    "poisson, negative counts": lambda: labelled(torch.full((4, 3), -1), "poisson"),
    "gaussian, targets of another shape": lambda: labelled(torch.zeros(4), "gaussian"),
    "gaussian, targets that are NaN": lambda: labelled(torch.full((4, 3), NAN), "gaussian"),
    # ---------------------------------------------------------------------------- the options
    "an unknown method": lambda: analyze(method="fast"),
    "a method that does not know the model": lambda: analyze(
        sequential(nn.LayerNorm(3), nn.Linear(3, 2)), method="dense"
    ),
    "a dtype that is too short": lambda: analyze(dtype=torch.float16),
    "a dtype of NumPy": lambda: analyze(dtype=np.float64),
    "dtype= for a model that cannot be copied": lambda: analyze(
        with_old_weight_norm(), dtype=torch.float32
    ),
    "no memory": lambda: analyze(memory=0),
    "memory that is no whole number": lambda: analyze(memory=1e9),
    "an unknown estimator": lambda: drawn(estimator="fisher"),
    "no draws": lambda: drawn(draws=0),
    "half a draw": lambda: drawn(draws=1.5),
    "a truth value for draws": lambda: drawn(draws=True),
    "a negative seed": lambda: drawn(seed=-1),
    "several estimators": lambda: drawn(estimator=["score", "hessian"]),
    # ------------------------------------------------------------------------------ the trees
    "no tree": lambda: diagfim.plan("tree.nc"),
    "a tree of estimate for a plan": lambda: diagfim.plan(drawn()),
    "the variance of the empirical Fisher": lambda: diagfim.variance(analyze(), "empirical"),
    "half a draw for a variance": lambda: diagfim.variance(analyze(), draws=0.5),
    "a relative error that is no number": lambda: diagfim.plan(analyze(), "10 %"),
    "a confidence in per cent": lambda: diagfim.plan(analyze(), confidence=95),
    "draws where they are to be planned": lambda: diagfim.plan(analyze(), draws=3),
    "seconds that are none": lambda: diagfim.plan(analyze(), seconds={"score": "fast"}),
}
"""What each row of the page's tables hands over, by its first column."""


# ------------------------------------------------------------------------------- what is taken

TOLERANCE = 1e-11
"""Of the largest entry of a tensor: rounding of float64, as in test_analysis."""


class Embracing(nn.Module):
    """Holds a scalar parameter and one that is unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.inner = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.inner(x) * self.scale


class TiedOnce(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.double()

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Remembering(nn.Module):
    """Keeps in attributes what it last saw, and how often."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 2).double()
        self.last, self.passes = None, 0

    def forward(self, x):
        self.last, self.passes = self.inner(x).tanh(), self.passes + 1
        return self.last


class Idle(nn.Module):
    """Draws a number in every pass and uses it in training only, as layer-drop does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 2).double()

    def forward(self, x):
        chance = torch.rand(())
        return self.inner(x) * (chance if self.training else 1.0)


def with_old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    model(inputs(2))
    return model


def with_hook(place, hook):
    model = dense(nn.Sigmoid)
    module = model if place is None else model[place]
    module.register_forward_hook(hook)
    return model


def overridden():
    """A model whose object, not its class, says what it computes."""
    model = dense()
    original = model[0].forward
    model[0].forward = lambda x: original(x).square()
    return model


MODELS = {
    "training mode where it makes no difference": lambda: dense().train(),
    "batch-norm and dropout in eval mode": lambda: sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2)
    ),
    "a scalar parameter, and one that is unused": Embracing,
    "tied weights": TiedOnce,
    "weight_norm": lambda: sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
    ),
    "weight_norm of old": with_old_weight_norm,
    "spectral_norm in eval mode": lambda: sequential(
        parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
    ),
    "an orthogonal parametrisation": lambda: sequential(
        parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley"),
        nn.Tanh(),
        nn.Linear(3, 2),
    ),
    "a forward hook on a layer": lambda: with_hook(0, lambda m, x, h: 2 * h),
    "a forward hook on the whole": lambda: with_hook(None, lambda m, x, h: h.sin()),
    "a forward hook on an activation": lambda: with_hook(1, lambda m, x, h: h * h),
    "a forward of the object's own": overridden,
    "log-softmax, of which logits differ by a constant": lambda: sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.LogSoftmax(1)
    ),
    "a forward that draws numbers and does not use them": lambda: Idle().eval(),
    "a forward that keeps what it saw": Remembering,
    "a frozen parameter": lambda: changed(lambda m: m[0].bias.requires_grad_(False)),
}


def expected_of(model, samples):
    """By plain autograd through the whole network, and with weight_norm by its formula.

    PyTorch's second derivatives of the fused function are wrong on CPUs.
    """

    def formula(v, g, dim):
        return v * (g / torch.norm_except_dim(v, 2, dim))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "_weight_norm", formula)
        patch.setattr(sys.modules["torch.nn.utils.weight_norm"], "_weight_norm", formula)
        return reference.analyze(model, samples)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_taken_is_right(kind):
    """Against the definition."""
    model, samples = MODELS[kind](), inputs(3)
    expected = expected_of(model, samples)
    tree = diagfim.analyze(model, samples)
    assert list(tree.children) == [n for n, p in model.named_parameters() if p.requires_grad]
    for name, values in expected.items():
        for quantity, value in values.items():
            # What vanishes is rounding, 1e-16 of numbers of the order of 1, on either side.
            scale = max(float(value.abs().max()), 1e-3)
            assert_close(tree[name][quantity], value, TOLERANCE, scale)


def same(tree, other):
    assert list(tree.children) == list(other.children)
    for name in other.children:
        xr.testing.assert_identical(tree[name].to_dataset(), other[name].to_dataset())


def inference(samples):
    with torch.inference_mode():
        return samples.clone()


INPUTS = {
    "a tensor that requires a gradient": lambda x: x.clone().requires_grad_(),
    "a tensor of inference mode": inference,
    "a NumPy array": lambda x: x.numpy(),
    "batches as NumPy arrays": lambda x: [x[:2].numpy(), x[2:].numpy()],
    "a list of tensors": lambda x: [x[:3], x[3:]],
    "a generator": lambda x: (one[None] for one in x),
    "batches that may be empty": lambda x: [x[:0], x[:3], torch.empty(0), x[3:]],
    "a DataLoader, its last batch smaller": lambda x: DataLoader(x, batch_size=3),
    "a DataLoader of inputs alone in a list": lambda x: DataLoader(TensorDataset(x), batch_size=3),
    "a DataLoader with labels": lambda x: DataLoader(
        TensorDataset(x, torch.zeros(len(x))), batch_size=3
    ),
    "pairs without labels": lambda x: [(x[:3], None), [x[3:], None]],
}


class Deciding(nn.Module):
    """Looks at its inputs, so that they are differentiated one by one, by reverse mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(x @ self.weight) if x.sum().item() > -100 else x[:, :2]


@pytest.mark.parametrize("model", [dense(), Deciding()])
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_come_in_many_forms(kind, model):
    """The same to the last digit: whatever they come in, they are cut into the same batches."""
    samples = inputs(7)
    same(diagfim.analyze(model, INPUTS[kind](samples)), diagfim.analyze(model, samples))


def test_labels_may_be_arrays():
    labels = torch.tensor([0, 1, 2, 0])
    for given in (labels.numpy(), labels.numpy().astype(np.int32), labels.tolist()):
        same(labelled(given), labelled(labels))


def test_numbers_of_numpy_are_numbers():
    tree = drawn(draws=np.int64(3), seed=np.uint8(1), memory=np.int32(2**20))
    same(tree, drawn(draws=3, seed=1, memory=2**20))


def test_batches_of_one_do_not_hide_that_inputs_act_on_each_other():
    model = sequential(nn.Linear(3, 4), Centred(), nn.Linear(4, 2))
    with pytest.raises(
        UserError, match=r"^1: Centred: the outputs of an input depend on the other"
    ):
        diagfim.analyze(model, DataLoader(inputs(3), batch_size=1))


def test_the_second_input_may_be_the_one_that_depends_on_the_first():
    with pytest.raises(UserError, match=r"^model: the outputs of an input depend on the other"):
        diagfim.analyze(Applied(lambda h: h.cumsum(0)), inputs(2))


def test_rare_chance_is_found_by_what_it_draws():
    """With a unit in twenty dropped, two passes of two inputs agree more often than not."""

    class Rare(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.05)

    model = sequential(nn.Linear(3, 3), Rare(), nn.Linear(3, 2))
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.raises(UserError, match="two passes over the same inputs differ"):
            diagfim.analyze(model, inputs(2))


def test_an_error_that_is_not_the_models_is_left_alone(monkeypatch):
    def broken(engine, samples):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(ENGINES["dense"], "at", broken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        diagfim.analyze(dense(), inputs(2))


def test_infinity_in_a_mask_is_no_mistake():
    model = dense()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    assert np.isfinite(diagfim.analyze(model, inputs(3))["0.weight"]["fisher"]).all()


# ------------------------------------------------------------------------ whatever is around it


CALLS = {
    "analyze": diagfim.analyze,
    "estimate": lambda *given: diagfim.estimate(*given, "mixed", draws=2),
    "matrices.analyze": lambda *given: matrices.analyze(*given, blocks="full"),
    "matrices.estimate": lambda *given: matrices.estimate(*given, "hessian", draws=2),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_context_of_the_call_changes_nothing(name):
    model, samples = sequential(nn.LayerNorm(3), nn.Linear(3, 2)), inputs(3)
    expected = CALLS[name](model, samples)
    for around in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            found = CALLS[name](model, samples.clone())
        same(found, expected)


def state_of(model):
    """All that a model holds, by identity, and what its tensors hold."""
    held = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            inner = sorted(map(str, value)) if isinstance(value, dict) else None
            held.append((name, key, id(value), inner))
    tensors = {
        name: (id(value), value.requires_grad, value.grad, value.detach().clone())
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    return held, tensors


def assert_untouched(model, before):
    held, tensors = state_of(model)
    assert held == before[0]
    for name, (identity, wanted, gradient, value) in before[1].items():
        assert tensors[name][:2] == (identity, wanted)
        assert tensors[name][2] is gradient
        assert torch.equal(tensors[name][3], value)


def interrupt(model, samples):
    """An analysis that is interrupted after a batch that was worked on."""

    def batches():
        yield from samples if isinstance(samples, list) else [samples.repeat(150, 1)]
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        diagfim.analyze(model, batches())


LEFT = {
    **{
        kind: MODELS[kind]
        for kind in (
            "batch-norm and dropout in eval mode",
            "weight_norm of old",
            "a forward hook on a layer",
            "a forward that keeps what it saw",
            "a frozen parameter",
        )
    },
    "chance": lambda: sequential(nn.Linear(3, 8), Drop(), nn.Linear(8, 2)),
    "dropout in training mode": lambda: sequential(nn.Linear(3, 2), nn.Dropout()).train(),
    "batch-norm in training mode": lambda: normalised().train(),
    "a forward that writes to a buffer": Counting,
    "a forward that takes other inputs": lambda: sequential(nn.Linear(4, 2)),
}


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("use", [diagfim.analyze, matrices.estimate, interrupt])
def test_the_model_is_left_as_it_was(kind, use):
    """After a result, after a refusal at the first or a later batch, and after an interruption."""
    model, samples = LEFT[kind](), inputs(2)
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    before, random = state_of(model), torch.get_rng_state()
    for given in (samples, [samples, samples.repeat(150, 1), NAN * samples]):
        with contextlib.suppress(UserError):
            use(model, given)
        assert_untouched(model, before)
    assert torch.equal(torch.get_rng_state(), random)


# ------------------------------------------------------------------------------- through a file


class Odd(nn.Module):
    """A kernel of five dimensions, a scalar, names that are numbers, a tied and a frozen weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, 2, 2)
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 3))
        self.inner[2].weight = self.inner[0].weight
        self.inner[3].bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.double()

    def forward(self, x):
        return self.inner(self.convolution(x).flatten(2).tanh().mean(2) * self.scale)


def test_a_file_holds_all_that_is_needed(tmp_path):
    """Whatever is told from a tree is told from the reopened one, to the last digit."""
    tree = diagfim.analyze(Odd(), inputs(3, 1, 2, 3, 2), probes=True)
    mixed = diagfim.estimate(Odd(), inputs(3, 1, 2, 3, 2), "mixed", draws=3)
    for name, one in (("tree", tree), ("mixed", mixed)):
        one.to_netcdf(tmp_path / f"{name}.nc")
    with (
        xr.open_datatree(tmp_path / "tree.nc") as read,
        xr.open_datatree(tmp_path / "mixed.nc") as read_mixed,
    ):
        assert read["convolution.weight"]["fisher"].shape == (2, 1, 2, 2, 2)
        assert read["scale"]["fisher"].shape == ()
        assert {"inner.0.weight", "inner.0.bias"} < set(read.children)
        assert {"inner.2.weight", "inner.3.bias"}.isdisjoint(read.children)
        same(read, tree)
        same(read_mixed, mixed)
        for estimator in ("score", "mixed", "hutchinson"):
            same(*(diagfim.variance(one, estimator, 7, 100) for one in (read, tree)))
        same(
            diagfim.variance(read, "mixed", weights=read_mixed),
            diagfim.variance(tree, "mixed", weights=mixed),
        )
        for options in ({}, {"over": "distribution", "level": "layer"}):
            xr.testing.assert_identical(
                diagfim.plan(read, 0.05, **options), diagfim.plan(tree, 0.05, **options)
            )
            same(*(diagfim.plan_parameters(one, 0.05, **options) for one in (read, tree)))
        assert diagfim.summarize(read).equals(diagfim.summarize(tree))


# -------------------------------------------------------------------------------------- the page


def rows_of_the_page():
    """What is handed over and the message, by the rows of the tables that have one."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"\| (.+?) \| `(.+)` \|", line) for line in lines]
    return {row[1]: row[2] for row in found if row}


def test_every_message_is_on_the_page():
    assert list(rows_of_the_page()) == list(REFUSED)


@pytest.mark.refused("model, inputs or options that cannot be analysed")
@pytest.mark.parametrize(("what", "message"), rows_of_the_page().items())
def test_the_page_says_what_is_said(what, message):
    """To the letter, but for what is PyTorch's to say: an ellipsis."""
    with pytest.raises(UserError) as caught:
        REFUSED[what]()
    pattern = ".+".join(map(re.escape, message.split("…")))
    assert re.fullmatch(pattern, str(caught.value)), caught.value


# ------------------------------------------------------------------------ the same for every door


@pytest.mark.refused("the same, handed to every function")
@pytest.mark.parametrize(
    "call",
    [
        lambda *given: diagfim.estimate(*given, "score"),
        lambda *given: diagfim.measure_seconds(*given, ["exact"], repeats=1),
        matrices.analyze,
        matrices.estimate,
        matrices.derivatives_of,
        reference.analyze,
    ],
)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: with_entry(NAN), "0.weight: holds NaN or infinity, first at [1, 2]"),
        (lambda: dense().half(), "0.weight: dtype torch.float16"),
        (lambda: normalised().train(), "1: BatchNorm1d in training mode"),
        (
            lambda: sequential(nn.Linear(3, 8), Drop(), nn.Linear(8, 2)),
            "1: Drop: two passes over the same inputs differ",
        ),
        (lambda: sequential(nn.Linear(5, 2)), "inputs: the model does not take a batch of shape"),
        (lambda: Applied(lambda h: (h, h)), "model: its outputs are tuple"),
    ],
)
def test_every_function_looks_at_what_it_is_given(call, model, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        call(model(), inputs(3))

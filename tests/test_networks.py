"""Networks by configuration, and their weights on disk."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from torch import nn

from diagfim import networks
from diagfim.errors import UserError


def small(hidden=(4, 3), activation="sigmoid"):
    return networks.mlp(5, hidden, 2, activation, 0.2)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3, 2)])
def test_names_and_shapes(hidden):
    model = small(hidden)
    depth = len(hidden)
    names = [f"{kind}{k}" for k in range(1, depth + 1) for kind in ("dense", "activation")]
    assert [name for name, _ in model.named_children()] == [*names, "dropout", f"dense{depth + 1}"]
    widths = (5, *hidden, 2)
    shapes = []
    for k in range(depth + 1):
        shapes.append((f"dense{k + 1}.weight", (widths[k + 1], widths[k])))
        shapes.append((f"dense{k + 1}.bias", (widths[k + 1],)))
    assert [(name, tuple(value.shape)) for name, value in model.named_parameters()] == shapes


@pytest.mark.parametrize(("name", "kind"), networks.ACTIVATIONS.items())
def test_every_hidden_layer_has_the_activation(name, kind):
    model = small(activation=name)
    assert type(model.activation1) is type(model.activation2) is kind
    assert kind.__name__.lower() == name


def test_forward_pass_by_hand():
    model, x = small().double().eval(), torch.randn(3, 5, dtype=torch.float64)
    a = x
    for dense in (model.dense1, model.dense2):
        a = torch.sigmoid(a @ dense.weight.T + dense.bias)
    assert torch.allclose(model(x), a @ model.dense3.weight.T + model.dense3.bias, rtol=1e-12)


def test_dropout_before_the_last_layer_only():
    model = small().train()
    assert [name for name, one in model.named_modules() if isinstance(one, nn.Dropout)] == [
        "dropout"
    ]
    assert model.dropout.p == 0.2


# --------------------------------------------------------------------------- convolutional


@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
def test_lenet_has_the_layers_of_lenet(activation):
    model = networks.lenet(activation)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    weights = {name: shape for name, shape in shapes.items() if name.endswith("weight")}
    assert weights == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "dense1.weight": (120, 400),
        "dense2.weight": (84, 120),
        "dense3.weight": (10, 84),
    }
    assert sum(value.numel() for value in model.parameters()) == 61_706
    curved = [one for one in model if type(one) is networks.ACTIVATIONS[activation]]
    assert len(curved) == 4
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_a_residual_block_by_hand():
    torch.manual_seed(0)
    for block in (networks.BasicBlock(3, 3, 1), networks.BasicBlock(3, 5, 2)):
        x = torch.randn(4, 3, 8, 8)
        block.train()(x)  # so that the statistics are not the initial ones
        block.eval()
        a = torch.relu(block.norm1(block.conv1(x)))
        a = block.norm2(block.conv2(a))
        assert torch.allclose(block(x), torch.relu(a + block.shortcut(x)))
    assert type(networks.BasicBlock(3, 3, 1).shortcut) is nn.Identity
    assert block(x).shape == (4, 5, 4, 4)


def test_small_resnet_has_a_block_per_stage():
    model = networks.small_resnet(channels=2, widths=(4, 6, 8), classes=7).eval()
    blocks = [one for one in model if isinstance(one, networks.BasicBlock)]
    assert [one.conv2.out_channels for one in blocks] == [4, 6, 8]
    assert [one.conv1.stride for one in blocks] == [(1, 1), (2, 2), (2, 2)]
    x = torch.randn(3, 2, 16, 16)
    assert model(x).shape == (3, 7)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)


# --------------------------------------------------------------------------------- on disk


def test_round_trip(tmp_path):
    model, other = small().train(), small().train()
    networks.save(model, tmp_path / "new folder" / "weights.safetensors")
    loaded = networks.load(other, tmp_path / "new folder" / "weights.safetensors")
    assert loaded is other
    assert not loaded.training
    for (name, value), (same, found) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert name == same
        assert torch.equal(value, found)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["weights.safetensors"]


def test_weights_in_float32_are_loaded_into_float64(tmp_path):
    model = small()
    networks.save(model, tmp_path / "w.safetensors")
    loaded = networks.load(small().double(), tmp_path / "w.safetensors")
    assert loaded.dense1.weight.dtype == torch.float64
    assert torch.equal(loaded.dense1.weight, model.dense1.weight.double())


def test_a_file_says_where_it_comes_from_and_is_the_same_twice(tmp_path):
    about = {f"key {number}": "value" for number in range(10)}
    model = small()
    for name in ("one", "two"):
        networks.save(model, tmp_path / name, about)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert json.loads(file.metadata()["origin"]) == about


def test_save_is_all_or_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    networks.save(small(), path)
    before = path.read_bytes()
    unsaveable = small()
    unsaveable.dense2 = unsaveable.dense1  # safetensors refuses tensors that share memory
    with pytest.raises(RuntimeError, match="share memory"):
        networks.save(unsaveable, path)
    assert path.read_bytes() == before


def weights_with(path, value):
    model = small()
    with torch.no_grad():
        model.dense2.bias[1] = value
    networks.save(model, path)


FAULTS = {
    "missing": (lambda path: None, "not a readable safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"dense1.weight": [1.0]})),
        "not a readable safetensors file",
    ),
    "torch.save": (
        lambda path: torch.save(small().state_dict(), path),
        "not a readable safetensors file",
    ),
    "NaN": (lambda path: weights_with(path, float("nan")), "tensor dense2.bias holds NaN"),
    "infinity": (
        lambda path: weights_with(path, float("inf")),
        "tensor dense2.bias holds NaN or inf",
    ),
    "shape": (
        lambda path: networks.save(networks.mlp(5, [4, 2], 2, "sigmoid", 0), path),
        r"tensor dense2.bias has shape \(2,\), the network expects \(3,\)",
    ),
    "one layer less": (
        lambda path: networks.save(networks.mlp(5, [4], 3, "sigmoid", 0), path),
        r"tensor dense3.bias is missing, the network expects shape \(2,\)",
    ),
    "one layer more": (
        lambda path: networks.save(networks.mlp(5, [4, 3, 3], 2, "sigmoid", 0), path),
        r"tensor dense3.bias has shape \(3,\), .* tensor dense4.bias \(2,\) is not in the network",
    ),
}


@pytest.mark.parametrize(("write", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faulty_weights_are_refused_in_one_line(tmp_path, write, message):
    path = tmp_path / "weights"  # the name must not decide
    write(path)
    model = small()
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(UserError, match=message) as refusal:
        networks.load(model, path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_weights_are_refused(tmp_path, kept):
    path = tmp_path / "w.safetensors"
    networks.save(small(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        networks.load(small(), path)


def test_pickled_weights_are_never_executed(tmp_path):
    """Loading does not unpickle: a file that would write another one upon loading does not."""

    class Mark:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps(Mark()))
    with pytest.raises(UserError):
        networks.load(small(), path)
    assert not (tmp_path / "executed").exists()

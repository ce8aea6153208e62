"""What a peer does to PyTorch stays within the test that calls it."""

import logging
import warnings

import pytest
import torch
from calls import needed
from torch.nn.modules import module as modules


def _state() -> dict[str, object]:
    """Whatever a library could change for everyone else."""
    hooks = {name: list(value) for name, value in vars(modules).items() if name.endswith("_hooks")}
    return hooks | {
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "forward": modules.Module.__call__,
        "threads": torch.get_num_threads(),
        "logging": logging.root.level,
    }


@pytest.fixture(autouse=True)
def unchanged(request):
    """No global hook, dtype or random state is left behind; what peers warn of is theirs.

    The modules in `PEERS` of a test file are imported here and not at its top, where every run of
    the other tests would wait for them.
    """
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed(*getattr(request.module, "PEERS", ()))
        before = _state()
        torch.manual_seed(0)
        yield
    assert _state() == before


@pytest.fixture
def double():
    """float64 by default, which NNGeometry needs for more than float32 digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

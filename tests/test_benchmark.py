"""What the benchmark measures, and that the libraries it sets diagfim beside compute the same."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from diagfim import arrays, benchmark
from diagfim.report.costs import benchmark_table


def network(widths=(9, 7, 6, 5, 4), dtype=torch.float32):
    """Random weights large enough for curvature to matter, as after training."""
    torch.manual_seed(3)
    modules = []
    for fan_in, width in pairwise(widths):
        modules += [nn.Linear(fan_in, width), nn.Sigmoid()]
    model = nn.Sequential(*modules[:-1]).to(dtype)
    with torch.no_grad():
        for value in model.parameters():
            value *= 4
    return model


def data(n=40, features=9, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, features, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(4, (n,), generator=generator)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""

    class Clock:
        now = 0.0

        def takes(self, seconds):
            def work():
                self.now += seconds

            return work

    one = Clock()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: one.now)
    return one


# ------------------------------------------------------------------------------- measuring


def test_peak_memory_of_known_allocations():
    def work():
        a = torch.zeros(1000)
        b = a + 1  # 8,000 bytes
        del a
        c = b * 2
        return torch.cat([b, c])  # 16,000 bytes

    assert benchmark.peak_memory(work) == 16_000
    assert benchmark.peak_memory(lambda: None) == 0


def test_peak_memory_counts_what_is_left_and_not_what_is_freed_of_earlier_calls():
    weight = torch.zeros(500, 500, requires_grad=True)

    def work():
        weight.grad = None
        (3 * weight).sum().backward()

    first, second = benchmark.peak_memory(work), benchmark.peak_memory(work)
    assert first == second == pytest.approx(4 * 500 * 500, rel=1e-3)


def test_every_round_times_every_task_once(clock):
    calls = []

    def noted(name, seconds):
        work = clock.takes(seconds)

        def noting():
            calls.append(name)
            work()

        return noting

    seconds = benchmark.interleaved({"slow": noted("slow", 2.0), "fast": noted("fast", 0.01)}, 6)
    assert set(seconds) == {"slow", "fast"}
    assert seconds["slow"] == pytest.approx(np.full(6, 2.0))
    assert seconds["fast"] == pytest.approx(np.full(6, 0.01))
    warmed = calls[4:]  # two calls each
    assert [name for name in warmed if name == "slow"] == ["slow"] * 6
    assert warmed.count("fast") == 12  # once untimed before every timing
    for number in range(6):
        assert sorted(warmed[3 * number : 3 * number + 3]) == ["fast", "fast", "slow"]


def test_medians_quartiles_and_ratios_of_a_run(clock, monkeypatch):
    durations = iter([9.0, 9.0, *[1.0, 5.0, 2.0, 4.0, 3.0]])
    tasks = [
        benchmark.Task(benchmark.YARDSTICK, "PyTorch", clock.takes(0.5)),
        benchmark.Task("new", "diagfim", lambda: clock.takes(next(durations, 0.0))()),
    ]
    monkeypatch.setattr(benchmark, "tasks", lambda *_: tasks)
    monkeypatch.setattr(benchmark, "agreement", lambda *_: {})
    groups = benchmark.compare([network()], *data(), rounds=5)
    assert list(groups) == ["tasks"]
    one = groups["tasks"].isel(network=0)
    assert one["network"].item() == "9-7-6-5-4"
    assert one["seconds"].sel(task="new").values == pytest.approx([2, 3, 4])
    assert one["ratio"].values == pytest.approx([1, 6])
    assert one["library"].values.tolist() == ["PyTorch", "diagfim"]


# ----------------------------------------------------------------------------------- peers


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            "backpack",
            [
                "SumGradSquared, one label",
                "DiagGGNExact",
                "DiagHessian, one label",
                "BatchDiagHessian, one label",
            ],
        ),
        ("nngeometry", ["PMatDiag of the FIM"]),
    ],
)
def test_peers_compute_the_same(package, names):
    pytest.importorskip(package)
    dtype = torch.float64 if package == "backpack" else torch.float32
    model, (inputs, labels) = network(dtype=dtype), data(dtype=dtype)
    found = {
        peer.name: peer
        for peer in benchmark.peers(model, inputs, labels)
        if peer.library.lower() == package
    }
    assert list(found) == names
    for peer in found.values():
        theirs, ours = peer.values(peer.work()), peer.ours()
        assert set(theirs) == set(ours) == {name for name, _ in model.named_parameters()}
        for name, value in model.named_parameters():
            assert theirs[name].shape == ours[name].shape == value.shape
            limit = 1e-10 if dtype == torch.float64 else 1e-4
            scale = ours[name].abs().max()
            assert scale > 0
            assert (theirs[name] - ours[name]).abs().max() <= limit * scale, (peer.name, name)


def test_agreement_sees_a_difference(monkeypatch):
    pytest.importorskip("backpack")
    model, (inputs, labels) = network(), data()
    close = benchmark.agreement(model, inputs, labels)
    assert max(close.values()) < 1e-4
    original = benchmark.hessian_diagonal
    monkeypatch.setattr(
        benchmark,
        "hessian_diagonal",
        lambda *given: {name: 1.5 * value for name, value in original(*given).items()},
    )
    far = benchmark.agreement(model, inputs, labels)
    assert far["BackPACK DiagHessian, one label"] == pytest.approx(1 / 3, rel=1e-3)
    assert far["BackPACK DiagGGNExact"] == close["BackPACK DiagGGNExact"]


def test_the_diagonal_of_one_labels_hessian_is_that_of_autograd():
    model, (inputs, labels) = network((3, 4, 3, 4), torch.float64), data(6, 3, torch.float64)
    found = benchmark.hessian_diagonal(model, inputs, labels)
    parameters = dict(model.named_parameters())

    def loss(values):
        outputs = torch.func.functional_call(model, values, (inputs,))
        return nn.functional.cross_entropy(outputs, labels)

    hessians = torch.func.hessian(loss)({k: v.detach() for k, v in parameters.items()})
    for name, value in parameters.items():
        full = hessians[name][name].reshape(value.numel(), value.numel())
        torch.testing.assert_close(found[name].flatten(), full.diagonal(), rtol=1e-9, atol=1e-12)


def test_absent_peers_leave_no_row(monkeypatch):
    for package in ("backpack", "nngeometry", "nngeometry.metrics", "nngeometry.object"):
        monkeypatch.setitem(sys.modules, package, None)
    model, (inputs, labels) = network(), data()
    assert benchmark.peers(model, inputs, labels) == []
    libraries = {task.library for task in benchmark.tasks(model, inputs, labels)}
    assert libraries == {"PyTorch", "diagfim"}
    groups = benchmark.compare([model], inputs, labels, rounds=1)
    assert "agreement" not in groups


# ------------------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("widths", "flops"),
    [
        ((784, 128, 128, 128, 10), 2 * 128**3),
        ((784, 128, 128, 10), 0),
        ((5, 2, 3, 4, 6, 7), 2 * (4 * 3 * 2 + 6 * 4 * 3 + 6 * 3 * 2)),
    ],
)
def test_operations_of_the_per_sample_jacobians(widths, flops):
    assert benchmark.jacobian_flops(network(widths)) == flops


def test_floor_and_shares():
    model = network()
    names = [benchmark.FIVE, benchmark.FIRST, benchmark.BOTH]
    timed = xr.Dataset(
        {"seconds": (("network", "task", "quantile"), np.array([[[8.0], [1.0], [5.0]]]))},
        coords={"network": [benchmark.label(model)], "task": names, "quantile": [0.5]},
    )
    found = benchmark.products(model, timed, inputs=100, rate=2 * 5 * 6 * 7 * 50.0)
    assert float(found["floor"]) == pytest.approx(2.0)
    assert float(found["share"]) == pytest.approx(0.25)
    assert float(found["second_share"]) == pytest.approx(0.5)


def test_rate_of_the_machine():
    assert 1e8 < benchmark.matrix_rate(repetitions=1) < 1e15


# --------------------------------------------------------------------------------- the file

OPTIONS = {"batch_size": 50, "optimiser": "adam", "learning_rate": 0.01, "seed": 2}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A file as the rule writes it, of small networks."""
    inputs, labels = data(3000)
    models = [network((9, 7, 6, 4)), network()]
    groups = benchmark.compare(models, inputs[:32], labels[:32], rounds=2)
    groups["products"] = benchmark.products(models[1], groups["tasks"], 32, 1e9)
    epoch = benchmark.trainer(network(), (inputs, labels), **OPTIONS)
    groups["whole"] = benchmark.whole_set(models[1], inputs, epoch).assign(samples=len(inputs))
    groups["convolutional"] = benchmark.convolutional(
        {"LeNet": nn.Sequential(nn.Flatten(), network())},
        (inputs.reshape(-1, 1, 3, 3), labels),
        (inputs[:50].reshape(-1, 1, 3, 3), labels[:50]),
        **OPTIONS,
    )
    groups["/"] = xr.Dataset(attrs={"batch": 32, **benchmark.machine()})
    path = tmp_path_factory.mktemp("results") / "benchmark.nc"
    arrays.write(path, groups, "Durations", OPTIONS)
    return path


def test_training_goes_on_where_it_was():
    model, train_set = network(), data(300)
    epoch = benchmark.trainer(model, train_set, **OPTIONS)
    before = [value.clone() for value in model.parameters()]
    epoch()
    between = [value.clone() for value in model.parameters()]
    epoch()
    assert not model.training
    for one, two, three in zip(before, between, model.parameters(), strict=True):
        assert not torch.equal(one, two)
        assert not torch.equal(two, three)


def test_the_file_holds_what_was_measured(measured):
    with arrays.read(measured) as tree:
        assert tree.attrs["threads"] == torch.get_num_threads()
        assert tree.attrs["processor"]
        assert tree.attrs["torch"] in torch.__version__
        timed = tree["tasks"].to_dataset()
        assert timed["network"].values.tolist() == ["9-7-6-4", "9-7-6-5-4"]
        assert bool((timed["seconds"] > 0).all())
        assert bool((timed["memory"] > 0).all())
        assert bool((timed["ratio"].sel(task=benchmark.YARDSTICK) == 1).all())
        small, large = tree["whole/memory"].values
        assert large <= 1.05 * small  # however many the inputs
        images = tree["convolutional"].to_dataset()
        assert images["method"].item() == "dense"
        assert int(images["parameters"][0]) == sum(v.numel() for v in network().parameters())


def test_the_page_of_text_holds_the_numbers_of_the_file(measured, capsys):
    assert benchmark.main([str(measured)]) == 0
    page = capsys.readouterr().out
    assert page.startswith("32 inputs, ")
    assert max(map(len, page.splitlines())) < 220
    with arrays.read(measured) as tree:
        timed = tree["tasks"].to_dataset()
        for task in timed["task"].values:
            rows = [line for line in page.splitlines() if line.startswith(f"{task} ")]
            assert len(rows) == 2, task
            for row, one in zip(rows, timed.sel(task=task)["seconds"], strict=True):
                assert f"{1e3 * float(one.sel(quantile=0.5)):.2f}" in row
        assert f"{float(tree['whole/memory'][-1]) / 1e6:.1f} MB at 3,000" in page
    assert "LeNet (" in page


def test_what_is_no_benchmark_is_one_line(tmp_path, capsys):
    assert benchmark.main([str(tmp_path / "missing.nc")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "missing.nc" in error


def test_what_the_report_prints_of_it(measured):
    with arrays.read(measured) as tree:
        found = benchmark_table(tree)
        timed = tree["tasks"].to_dataset()
        assert found["networks"] == ["9--7--6--4", "9--7--6--5--4"]
        assert [row["task"] for row in found["rows"]] == timed["task"].values.tolist()
        five = next(row for row in found["rows"] if row["task"] == benchmark.FIVE)
        exact = timed.sel(task=benchmark.FIVE).isel(network=1)
        assert five["networks"][1]["ratio"] == float(exact["ratio"])
        assert five["networks"][1]["megabytes"] == float(exact["memory"]) / 1e6
        assert found["epochs_seconds"] == 8 * float(tree["whole/epoch_seconds"])
        assert [one["inputs"] for one in found["memory"]] == [1000, 3000]
        deviations = {one["peer"]: one["deviation"] for one in found["deviations"]}
        if "agreement" in tree.children:
            assert max(deviations.values()) == float(tree["agreement/deviation"].max())

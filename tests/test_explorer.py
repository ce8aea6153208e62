"""The interactive page: what it holds is what the results hold, and in a browser it works."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import xarray as xr
from browser import chromium, visit
from gathered import gathered

import diagfim
from diagfim.arrays import ALL, layer_sums
from diagfim.experiments import frontier as measuring
from diagfim.explorer import charts, contents
from diagfim.explorer.page import page
from diagfim.precision import rule_factors
from diagfim.variances import values_of

MOST = 5_000_000


@pytest.fixture(scope="module")
def tree():
    """What `analyze` finds of a small network at ten inputs."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 6),
        torch.nn.Tanh(),
        torch.nn.Linear(6, 4),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 3),
    )
    return diagfim.analyze(model.double(), torch.randn(10, 5).double(), probes=True)


@pytest.fixture(scope="module")
def measured(tree):
    """The groups of "frontier", as its experiment makes them, of one replicate without a clock."""
    inputs, draws = [10, 40], [1, 4]
    zero = xr.zeros_like(
        measuring.layer_sums({name: one**2 for name, one in values_of(tree, "fisher").items()})
    )
    predicted = measuring.predict(tree, zero, zero + 1, inputs, draws)
    errors = xr.Dataset(
        {"squared_error": predicted.expand_dims(repetition=2), "predicted_squared_error": predicted}
    )
    seconds = predicted.isel(layer=0, drop=True).expand_dims(repetition=2) * 0 + 0.01
    seconds = seconds * predicted["inputs"] * predicted["draws"]
    return {
        "errors": errors.expand_dims(replicate=1),
        "seconds": xr.Dataset({"seconds": seconds}).expand_dims(replicate=1),
    }


SETTINGS = {
    "fixed": {"recorded_draws": 1000},
    "measured": "sigmoid",
    "experiments": {
        "frontier": {"pool": 40},
        "landscape": {"inputs": 40, "samples": 500, "lenet": {"inputs": 5}},
    },
}


@pytest.fixture(scope="module")
def surveyed():
    """The groups of "landscape": two networks, at initialisation and after an epoch."""
    cells = [("tanh", 1, 1), ("tanh", 1, 2), ("relu", 1, 1), ("relu", 1, 2)]
    # by epoch, estimator and cell; the parameter mix is as good as the better of both
    variance = np.array(
        [
            [[1.0, 2, 3, 4], [8, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
            [[6.0, 2, 3, 4], [3, 0, 0, 0], [3, 0, 0, 0], [3, 0, 0, 0]],
        ]
    )
    names = ["score", "hessian", "layer mix", "parameter mix"]
    layers = xr.Dataset(
        {
            "summed_draw_variance": (("epoch", "estimator", "cell"), variance),
            "summed_input_variance": (("epoch", "cell"), np.full((2, 4), 0.5)),
            "summed_fisher_squared": (("epoch", "cell"), np.full((2, 4), 0.01)),
            "score_better": (("epoch", "cell"), [[1.0, 0, 0, 0], [0.25, 0, 0, np.nan]]),
        },
        {
            "epoch": [0, 1],
            "estimator": names,
            "layer": ("cell", ["0", "2"] * 2),
            "dataset": ("cell", ["mnist"] * 4),
            "network": ("cell", ["mlp"] * 4),
            "activation": ("cell", [cell[0] for cell in cells]),
            "depth": ("cell", [cell[1] for cell in cells]),
            "width": ("cell", [8] * 4),
            "position": ("cell", [cell[2] for cell in cells]),
        },
    )
    scale = xr.DataArray([1.0, 2.0, 3.0], dims="replicate")
    summed = layers["summed_draw_variance"] * scale
    return {"layers": layers.expand_dims(replicate=3).assign(summed_draw_variance=summed)}


def own():
    """A network that was not trained here: one stage, one replicate, at one input alone."""
    fixed = gathered(replicates=1)["fixed"].isel(epoch=[0])
    history = gathered(replicates=1)["history"].isel(epoch=[0])
    return {"fixed": fixed, "history": history.drop_sel(set="train")}


# ------------------------------------------------------------------------------------ contents


def test_a_network_is_what_the_summary_has():
    groups = gathered()
    record = contents.network("sigmoid", groups)
    assert record["unit"] == "epoch"
    assert record["layers"] == ["layer 1", "layer 2", "layer 3", "layer 4"]
    kind, fixed = record["kinds"]["fixed"], groups["fixed"]
    assert kind["epochs"] == list(range(9))
    assert [run["name"] for run in kind["runs"]] == [
        f"replicate {number}, test input {6 + number}" for number in (1, 2, 3)
    ]
    exact = fixed["exact_variance"].isel(input=0)
    at = {"layer": "dense3", "epoch": 4, "estimator": "score"}
    for name, value in zip(
        ("least", "median", "greatest"), sorted(exact.sel(at).values), strict=True
    ):
        assert kind[name]["exact"]["score"][2][4] == pytest.approx(value, rel=1e-4)
    run = kind["runs"][1]
    one = fixed.isel(replicate=1, input=0).sel(layer="dense2", epoch=3)
    for estimator in ("score", "hessian"):
        of = one.sel(estimator=estimator)
        found = run["empirical"][estimator][1][3]
        np.testing.assert_allclose(found, of["empirical_variance"].values, rtol=1e-4)
        for bound in ("theorem 5.2", "true eigenvalue"):
            assert run["bounds"][bound][estimator][1][3] == pytest.approx(
                float(of["bound_variance"].sel(bound=bound)), rel=1e-4
            )
    joint = record["kinds"]["joint"]
    assert joint["median"]["share"]["hessian"][0][0] == 0.25
    assert "bounds" not in joint["median"]


def test_a_network_of_ones_own_has_stages_and_no_test_set():
    record = contents.network("mine", own())
    assert record["unit"] == "stage"
    assert list(record["kinds"]) == ["fixed"]
    assert record["kinds"]["fixed"]["runs"] == []
    assert record["kinds"]["fixed"]["epochs"] == [0]


def test_layers_of_a_deep_network_keep_different_names():
    names = [f"transformer.h.{number}.attention.c_proj" for number in (0, 1)]
    deep = xr.Dataset(coords={"layer": names})
    assert contents.layer_names(deep) == names
    assert contents.layer_names(deep.isel(layer=[0])) == ["transfor…on.c_proj"]
    assert contents.layer_names(xr.Dataset(coords={"layer": ["dense1", "network"]})) == [
        "layer 1",
        "whole network",
    ]


def test_hundreds_of_runs_leave_room():
    datasets = dict.fromkeys(map(str, range(20)), gathered(replicates=40))
    found = contents.contents(datasets, {}, SETTINGS)
    assert len(found["networks"]) == 20
    assert "medians over the replicates only" in found["note"]
    assert all(one["kinds"]["fixed"]["runs"] == [] for one in found["networks"])
    assert size(found["networks"]) < contents.ROOM
    assert len(page(found, [], {"source": "diagfim"}, "").encode()) < MOST


def size(found):
    return len(json.dumps(found, separators=(",", ":")))


@pytest.mark.parametrize("detail", contents.DETAILS)
def test_networks_take_no_more_room_than_was_thought(detail):
    """With numbers of as many digits as there can be."""
    groups = gathered(replicates=2)
    for kind in ("fixed", "joint"):
        groups[kind] = groups[kind] * 1.2345e-200 / 9
    least = contents.network("sigmoid", groups | {"history": gathered()["history"]}, detail)
    thought = contents._bytes(groups, detail)
    assert 0.6 * thought < size(least) <= thought


def test_what_still_does_not_fit_is_left_out_and_said():
    datasets = {f"network {number}": gathered() for number in range(4)}
    least = contents.DETAILS[-1]
    each = contents._bytes(datasets["network 0"], least)
    found, note = contents.networks(datasets, room=2 * each)
    assert [one["name"] for one in found] == ["network 0", "network 1"]
    assert found[0]["kinds"]["fixed"]["epochs"] == [0, 2, 4, 6, 8]
    assert note == f"{least.note} Of 4 networks the first 2 are here."
    found, note = contents.networks(datasets, room=4 * each)
    assert len(found) == 4
    assert note == least.note


def test_the_landscape_has_medians(surveyed):
    tanh, relu = contents.landscape(surveyed)
    assert (tanh["name"], relu["name"]) == ("tanh 1 × 8", "relu 1 × 8")
    assert tanh["epochs"] == [0, 1]
    assert tanh["score"] == [[2, 4], [12, 4]]
    assert tanh["hessian"] == [[16, 0], [6, 0]]
    assert relu["better"] == [[0, 0], [0, None]]


def test_the_frontier_is_what_was_measured(measured):
    found = contents.frontier(measured, "sigmoid")
    assert found["layers"] == ["layer 0", "layer 2", "layer 4", "whole network"]
    assert found["inputs"] == [10, 40]
    calls = {(one["estimator"], one["draws"]): one for one in found["calls"]}
    assert ("exact", None) in calls
    assert ("score", 4) in calls
    assert ("exact", 4) not in calls
    error = measured["errors"]["squared_error"].isel(replicate=0, repetition=0) ** 0.5
    expected = error.sel(estimator="score", draws=4, inputs=40)
    found_errors = [row[1] for row in calls["score", 4]["median"]]
    np.testing.assert_allclose(found_errors, expected, rtol=1e-4)
    assert calls["score", 4]["seconds"] == pytest.approx([0.4, 1.6])


def test_the_planner_has_what_planning_reckons_with(tree, measured):
    found = contents.frontier_plan(measured, "sigmoid", 40)
    assert sorted(found["of_draw"]) == sorted(diagfim.variances.UNBIASED)
    size = np.array(
        list(layer_sums({k: v**2 for k, v in values_of(tree, "fisher").items()}).values())
    )
    spread = np.array(list(layer_sums(values_of(tree, "input_variance")).values()))
    np.testing.assert_allclose(found["of_inputs"], [spread / size], rtol=1e-12)
    score = np.array(list(layer_sums(values_of(tree, "variance_1")).values()))
    np.testing.assert_allclose(found["of_draw"]["score"], [score / size], rtol=1e-9)
    assert found["of_draw"]["hessian"][0][-1] == 0


def test_plans_of_the_landscape(surveyed):
    tanh, _ = contents.landscape_plans(surveyed, SETTINGS["experiments"]["landscape"])
    assert tanh["of_draw"]["score"] == [[200, 400], [1200, 400]]
    assert tanh["of_draw"]["mixed"] == [[200, 0], [600, 0]]
    assert tanh["of_inputs"] == [[50, 50], [50, 50]]
    assert "40 test inputs" in tanh["about"]


def test_rules_are_those_of_planning():
    found = contents.contents({"sigmoid": gathered()}, {}, SETTINGS)
    assert found["landscape"] is found["frontier"] is None
    assert found["plans"] == []
    for confidence, rules in found["rules"].items():
        for error in contents.ERRORS:
            for rule, factor in rule_factors(error, float(confidence)).items():
                assert rules[rule] / error**2 == pytest.approx(factor, rel=1e-14)
    assert contents.ERRORS[0] == 0.005
    assert contents.ERRORS[-1] == 0.5


def test_what_is_no_number_is_none():
    values = np.array([1 / 3, np.nan, np.inf, -np.inf, 0.0, 123456.0])
    assert contents.rounded(values) == [0.33333, None, None, None, 0, 123460]
    assert contents.rounded(values, None)[0] == 1 / 3


# -------------------------------------------------------------------------------------- the file


class Parts(HTMLParser):
    """Texts of the scripts of a page, by id, and addresses that it would load."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.loads, self.tags, self.at = {}, [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.at = given.get("id", "program") if tag == "script" else None
        for key in ("src", "href", "srcset", "data", "poster"):
            if given.get(key) and not given[key].startswith("#"):
                self.loads.append(given[key])

    def handle_data(self, data):
        if self.at:
            self.scripts[self.at] = self.scripts.get(self.at, "") + data

    def handle_endtag(self, tag):
        self.at = None


HOSTILE = "</script><script>document.title='x'</script>\u2028<img src=x onerror=alert(1)>"


HEADLINES = [{"title": "bounds", "value": "0 of 7 broken", "meaning": HOSTILE}]


@pytest.fixture(scope="module")
def text(surveyed, measured):
    datasets = {"sigmoid": gathered(), HOSTILE: own()}
    experiments = {"landscape": surveyed, "frontier": measured}
    found = contents.contents(datasets, experiments, SETTINGS)
    return page(found, HEADLINES, {"source": f"diagfim {HOSTILE}", "seed": "7"}, f"name: {HOSTILE}")


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_the_file_is_whole_and_names_do_no_harm(text):
    found = Parts(text)
    assert found.loads == []
    assert found.tags.count("script") == 4
    assert "img" not in found.tags
    shown = json.loads(found.scripts["contents"], parse_constant=no_constant)
    assert [one["name"] for one in shown["networks"]] == ["sigmoid", HOSTILE]
    drawn = json.loads(found.scripts["specifications"], parse_constant=no_constant)
    assert set(drawn) == set(charts.CHARTS)
    assert "\u2028" not in found.scripts["contents"]
    assert len(text.encode()) < 2_000_000


def test_equal_results_give_equal_files(text, surveyed, measured):
    datasets = {"sigmoid": gathered(), HOSTILE: own()}
    experiments = {"landscape": surveyed, "frontier": measured}
    found = contents.contents(datasets, experiments, SETTINGS)
    about = {"source": f"diagfim {HOSTILE}", "seed": "7"}
    assert page(found, HEADLINES, about, f"name: {HOSTILE}") == text


def test_what_is_switched_off_is_said():
    found = Parts(page(contents.contents({"sigmoid": gathered()}, {}, SETTINGS), [], {}, ""))
    assert found.tags.count("section") == 5
    assert found.tags.count("select") == 5


# ----------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def visited(browser, address):
    with visit(browser, address, viewport={"width": 1200, "height": 900}) as found:
        ready(found.page)
        yield found


@pytest.fixture
def opened(visited, address):
    """The page as it opens; whatever a test does with it, it asks for nothing and has no fault."""
    visited.page.evaluate(
        "() => new Promise(done => { document.activeElement.blur();"
        " if (location.hash === '#theme=') done();"
        " addEventListener('hashchange', done, { once: true }); location.hash = '#theme='; })"
    )
    ready(visited.page)
    yield visited.page
    assert visited.requests == [address]
    assert visited.problems == []


def ready(page):
    """Wait until all of the latest choice is drawn."""
    page.wait_for_selector("html[data-ready]", state="attached")


def drawn(page, panel):
    """The marks of a chart, once what was changed is drawn."""
    ready(page)
    return page.locator(f"#{panel} .chart svg").evaluate("one => one.outerHTML")


def says(page, panel):
    return page.locator(f"#{panel} .says").inner_text()


def move(page, slider, value):
    page.locator(slider).evaluate(
        "(one, value) => { one.value = value;"
        " one.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def chosen(page, **options):
    for name, value in options.items():
        page.select_option(f"#{name}", value)


CHANGES = {
    "network": lambda page: chosen(page, network=HOSTILE),
    "where": lambda page: chosen(page, kind="joint"),
    "layer": lambda page: chosen(page, layer="2"),
    "run": lambda page: chosen(page, run="2"),
    "epoch": lambda page: move(page, "#epoch", 2),
    "draws": lambda page: move(page, "#number", 2),
    "an estimator": lambda page: page.uncheck("#show-hessian"),
    "the mix": lambda page: page.uncheck("#show-mixed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_choice_changes_what_is_drawn_and_said(opened, change):
    before = drawn(opened, "draws"), says(opened, "draws")
    CHANGES[change](opened)
    after = drawn(opened, "draws"), says(opened, "draws")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert opened.title() == "How wrong is your Fisher diagonal?"


def test_what_is_said_is_what_was_found(opened):
    exact = gathered()["fixed"]["exact_variance"].isel(input=0, epoch=-1).median("replicate")
    score, hessian = (float(exact.sel(layer="dense1", estimator=name)) for name in contents.BOTH)
    found = says(opened, "draws")
    assert found.startswith("sigmoid, layer 1, epoch 8, at a test input: with N = 1,000 draws")
    for value in (score, hessian):
        mantissa, power = f"{(value / 1000) ** 0.5:.2e}".split("e")
        digits = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        assert f"{mantissa} × 10{digits}" in found
    assert "Î₁ (score-based) is the better one: its variance is 4 times smaller" in found
    chosen(opened, layer="3")
    drawn(opened, "draws")
    assert "Î₂ (Hessian-based) does not vary" in says(opened, "draws")
    chosen(opened, kind="joint")
    drawn(opened, "draws")
    assert "25 % of its square from the inputs" in says(opened, "draws")


def test_a_click_on_a_map_chooses(opened):
    opened.locator("#map .chart svg .layer_1_marks text").nth(9 + 3).click()
    drawn(opened, "map")
    assert opened.locator("#layer").input_value() == "1"
    assert says(opened, "draws").startswith("sigmoid, layer 2, epoch 3")
    opened.locator("#shapes .chart svg .layer_1_marks text").nth(2).click()
    drawn(opened, "plan")
    assert says(opened, "plan").startswith("relu 1 × 8")


def test_maps_count_and_name_the_better_one(opened):
    assert "0 of 7 broken" in opened.locator(".headlines").inner_text()
    assert "36 cells" in says(opened, "map")
    assert "Î₁ is better in 27 and Î₂ in 9" in says(opened, "map")
    words = opened.locator("#map .chart svg .layer_1_marks text").all_text_contents()
    assert len(words) == 36
    assert words[0].startswith("●")
    assert words[-1].startswith("■")
    assert says(opened, "shapes") == "2 networks, 4 layers: Î₁ is better in 0 and Î₂ in 4."
    chosen(opened, stage="0", activation="tanh")
    before = drawn(opened, "shapes")
    assert says(opened, "shapes") == "1 network, 2 layers: Î₁ is better in 1 and Î₂ in 1."
    chosen(opened, stage="1")
    assert drawn(opened, "shapes") != before


def test_the_frontier_shows_the_part_and_the_estimators_that_are_chosen(opened):
    before = drawn(opened, "frontier")
    chosen(opened, part="0")
    after = drawn(opened, "frontier")
    assert after != before
    opened.uncheck("#show-mixed")
    assert drawn(opened, "frontier").count("<path") < after.count("<path")


def saved(page, panel):
    """What the button under a chart saves: columns, and rows of text."""
    page.locator(f"#{panel} details").evaluate("one => { one.open = true; }")
    with page.expect_download() as download:
        page.locator(f"#{panel} details button").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    return columns, rows


PLANS = [
    # ε, confidence, rule, what is planned, and the number that is given
    (0.1, "0.95", "clt", "draws", "10"),
    (0.02, "0.99", "chebyshev", "draws", "10"),
    (0.5, "0.9", "clt", "inputs", "1"),
    (0.005, "0.95", "chebyshev", "inputs", "100"),
]


@pytest.mark.parametrize("setting", PLANS, ids=str)
def test_the_planner_says_what_planning_does(opened, tree, setting):
    error, confidence, rule, goal, given = setting
    move(opened, "#error", contents.ERRORS.index(error))
    chosen(opened, confidence=confidence, rule=rule, goal=goal, given=given)
    drawn(opened, "plan")
    over = {"over": "inputs"} if goal == "draws" else {"over": "distribution", "draws": int(given)}
    names = list(diagfim.variances.UNBIASED)
    planned = diagfim.plan(tree, error, float(confidence), estimators=names, **over)
    quantity = "draws_per_input" if goal == "draws" else "number_of_inputs"
    columns, rows = saved(opened, "plan")
    assert columns[:2] == ["layer", "estimator"]
    assert len(rows) == len(names) * 4
    keys = {name: key for key, name in charts.NAMES.items()}
    layers = {"layer 0": "0", "layer 2": "2", "layer 4": "4", "every layer": ALL}
    for layer, name, number in rows:
        at = {"layer": layers[layer], "estimator": keys[name], "rule": rule}
        assert float(number) == float(planned[quantity].sel(at)), at
    every = planned[quantity].sel(layer=ALL, rule=rule, estimator="score")
    assert f"Î₁ (score-based): {int(every):,}" in says(opened, "plan")


def test_tables_have_what_is_drawn(opened):
    columns, rows = saved(opened, "draws")
    assert columns == [
        "draws N", "estimator", "exact variance", "empirical variance",
        "bound, Theorem 5.2", "bound, largest eigenvalue",
    ]  # fmt: skip
    assert len(rows) == 9
    exact = gathered()["fixed"]["exact_variance"].isel(input=0, epoch=-1).median("replicate")
    of = exact.sel(layer="dense1", estimator="score")
    assert float(rows[0][2]) == pytest.approx(float(of) / 100, rel=1e-4)
    assert float(rows[0][4]) == pytest.approx(50 * float(of) / 100, rel=1e-4)
    mixed = gathered()["fixed"]["mixed_variance"].isel(input=0, epoch=-1).median("replicate")
    assert rows[2][1] == "best mix of both"
    assert float(rows[2][2]) == pytest.approx(float(mixed.sel(layer="dense1")) / 100, rel=1e-4)
    assert rows[2][3:] == ["", "", ""]  # no estimates of it, and no bounds
    opened.locator("#draws tbody tr").nth(8).wait_for()  # a table is written once it is opened
    assert opened.locator("#draws tbody tr").count() == 9
    chosen(opened, layer="1")
    drawn(opened, "draws")
    assert saved(opened, "draws")[1] != rows


def test_an_address_brings_a_choice_back(opened, browser, address):
    chosen(opened, kind="joint", layer="2", rule="chebyshev")
    chosen(opened, of="1")
    move(opened, "#number", 4)
    opened.uncheck("#show-exact")
    drawn(opened, "draws")
    where = opened.evaluate("location.href")
    with visit(browser, where) as again:
        ready(again.page)
        for panel in ("draws", "map", "shapes", "frontier", "plan"):
            assert says(again.page, panel) == says(opened, panel)
        assert again.problems == []
    with visit(browser, f"{address}#network=none&layer=99&epoch=x&theme=y") as wrong:
        ready(wrong.page)
        assert says(wrong.page, "draws").startswith("sigmoid, layer 1")
        assert wrong.problems == []


def test_it_works_by_keyboard_alone(browser, address):
    with visit(browser, address) as found:
        ready(found.page)
        walk(found.page)
        assert found.problems == []


def walk(opened):
    """Tab through the page, and change what can be changed."""
    press = opened.keyboard.press
    focused = "document.activeElement.id || document.activeElement.className"
    press("Tab")
    assert opened.evaluate(focused) == "skip"
    found = []
    for _ in range(40):
        press("Tab")
        name = opened.evaluate(focused)
        found.append(name)
        outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", name
        before = drawn(opened, "plan"), says(opened, "draws")
        if name in ("layer", "rule"):
            press("ArrowDown")
        elif name in ("epoch", "error"):
            press("ArrowLeft")
        elif name == "show-score":
            press("Space")
        else:
            continue
        after = drawn(opened, "plan"), says(opened, "draws")
        assert before != after, name
        if name == "error":
            break
    assert [name for name in found if name in ("network", "layer", "epoch", "show-score")] == [
        "network", "layer", "epoch", "show-score",
    ]  # fmt: skip
    assert found[-1] == "error"


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, k) => sum + one * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  const found = [];
  const written = "h1, h2, p, label, legend, summary, select, button, dt, dd, td, th, .step, text";
  for (const one of document.querySelectorAll(written)) {
    if (!one.textContent.trim() || !one.getClientRects().length) continue;
    if (one.closest(".mark-text.role-mark")) continue;  // in cells; the key has all their colours
    if (one.disabled) continue;
    const style = getComputedStyle(one);
    const colour = one.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(rgb(colour)), light(behind(one))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), one.tagName + " " + one.textContent.slice(0, 30)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_and_all_is_readable(browser, address, scheme):
    size = {"width": 360, "height": 740}
    with visit(browser, address, viewport=size, color_scheme=scheme, has_touch=True) as found:
        ready(found.page)
        for panel in ("draws", "plan"):
            found.page.locator(f"#{panel} summary").click()
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = found.page.evaluate(
            "[...document.querySelectorAll('select, input, svg, section')]"
            ".filter(one => one.getBoundingClientRect().right > 360).map(one => one.id)"
        )
        assert wide == []
        contrasts = found.page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        paper = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
        other = {"light": "dark", "dark": "light"}[scheme]
        found.page.select_option("#theme", other)
        drawn(found.page, "draws")
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
        assert found.requests == [address]
        assert found.problems == []


def test_one_network_of_ones_own_and_no_experiments(browser, tmp_path):
    path = tmp_path / "explorer.html"
    found = contents.contents({"mine": own()}, {}, SETTINGS)
    path.write_text(page(found, [], {"source": "diagfim"}, "seed: 7"), encoding="utf-8")
    with visit(browser, path.as_uri()) as opened:
        ready(opened.page)
        assert says(opened.page, "draws").startswith("mine, layer 1, stage 0")
        assert opened.page.locator("#epoch").is_disabled()
        assert opened.page.locator("#run").is_disabled()
        off = opened.page.locator(".off").all_text_contents()
        assert len(off) == 3
        assert all("enabled: true" in sentence for sentence in off)
        assert opened.requests == [path.as_uri()]
        assert opened.problems == []

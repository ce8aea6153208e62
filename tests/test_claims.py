"""Every verdict follows its evidence: what holds is reproduced, and one bent fact turns it."""

import numpy as np
import pytest
from gathered import gathered

from diagfim import claims

N = 5000


def verdict(claim, datasets):
    return claim(datasets, N).verdict


OF_SIGMOID = [claim for claim, _ in claims.CLAIMS + claims.OF_ACTIVATION["sigmoid"]]


@pytest.mark.parametrize("claim", OF_SIGMOID, ids=lambda claim: claim.__name__)
def test_what_holds_is_reproduced(claim):
    found = claim(gathered(), N)
    assert found.verdict == "reproduced", found
    assert found.statistic


def bent(kind, name, where, factor):
    """Multiply one variable at one place, leaving all else as it is."""
    datasets = gathered()
    array = datasets[kind][name].copy()
    array.loc[where] = array.loc[where] * factor
    datasets[kind] = datasets[kind].assign({name: array})
    return datasets


FIRST = {"replicate": 0}


@pytest.mark.parametrize(
    ("claim", "kind", "name", "where", "factor", "expected"),
    [
        (claims.unbiased, "fixed", "normal_largest", {}, 3.0, "not reproduced"),
        (claims.unbiased, "joint", "exponent", {}, 10.0, "not reproduced"),
        (
            claims.inverse_in_draws,
            "fixed",
            "empirical_variance",
            {"draws": 100},
            3.0,
            "not reproduced",
        ),
        (
            claims.inverse_in_draws,
            "fixed",
            "empirical_variance",
            {"replicate": 1, "draws": 100},
            3.0,
            "not reproduced",
        ),
        (
            claims.score_wins_below,
            "fixed",
            "exact_variance",
            {"replicate": 2, "layer": "dense1", "epoch": 5, "estimator": "score"},
            5.0,
            "not reproduced",
        ),
        (
            claims.score_wins_below,
            "fixed",
            "exact_variance",
            {"estimator": "score"},
            5.0,
            "not reproduced",
        ),
        (
            claims.last_layer,
            "fixed",
            "exact_variance",
            {"layer": "dense1", "estimator": "score"},
            100.0,
            "not reproduced",
        ),
        (
            claims.first_layer_tightness,
            "fixed",
            "bound_variance",
            {**FIRST, "layer": "dense1", "estimator": "score"},
            10.0,
            "not reproduced",
        ),
        (
            claims.first_layer_scale,
            "fixed",
            "exact_variance",
            {"layer": "dense1"},
            np.exp(7),
            "not reproduced",
        ),
        (claims.not_negligible, "fixed", "fisher", {"epoch": 8}, 1e4, "not reproduced"),
    ],
)
def test_one_bent_fact_turns_the_verdict(claim, kind, name, where, factor, expected):
    assert verdict(claim, bent(kind, name, where, factor)) == expected


def test_one_broken_bound_refuses_the_theorem():
    datasets = gathered()
    broken = datasets["fixed"]["bounds_broken"].copy()
    broken[{dim: 0 for dim in broken.dims}] = 1
    datasets["fixed"] = datasets["fixed"].assign(bounds_broken=broken)
    found = claims.bounds_hold(datasets, N)
    assert found.verdict == "not reproduced"
    assert found.statistic.startswith("1 of ")


def test_one_wrong_constant_refuses_unbiasedness():
    datasets = gathered()
    wrong = datasets["joint"]["wrong_constants"].copy()
    wrong[{dim: 0 for dim in wrong.dims}] = 1
    datasets["joint"] = datasets["joint"].assign(wrong_constants=wrong)
    assert verdict(claims.unbiased, datasets) == "not reproduced"


def test_late_change_is_no_early_change():
    datasets = gathered()
    fixed = datasets["fixed"]
    epoch = fixed["epoch"]
    late = fixed["exact_variance"].isel(epoch=0, drop=True) * np.exp(0.1 * epoch + (epoch > 5))
    datasets["fixed"] = fixed.assign(exact_variance=late.transpose(*fixed["exact_variance"].dims))
    assert verdict(claims.early_dynamics, datasets) == "not reproduced"
    assert verdict(claims.early_change, datasets) == "not reproduced"


def test_a_family_pools_all_tests():
    datasets = gathered(replicates=3)
    found = claims.family(datasets["fixed"])
    # 3 replicates, 4 layers, 9 epochs, 1 input, 2 estimators
    assert found.tests == 100 * 3 * 4 * 9 * 2
    assert found.normal_tests == 90 * 3 * 4 * 9 * 2
    assert found.within_two == pytest.approx(0.95)
    assert found.probability == 1.0
    assert found.accepted


def vanishing():
    """Gathered data of which nothing but a thousandth is left after the first epoch."""
    datasets = gathered()
    fixed = datasets["fixed"]
    left = np.where(fixed["epoch"] > 0, 1e-3, 1.0)
    first = fixed.isel(epoch=0, drop=True)
    datasets["fixed"] = fixed.assign(
        {name: first[name] * (fixed["epoch"] * 0 + left) for name in ("fisher", "exact_variance")}
    )
    return datasets


def test_what_vanishes_is_seen_to():
    datasets = vanishing()
    assert verdict(claims.present_at_first, datasets) == "reproduced"
    assert verdict(claims.quickly_gone, datasets) == "reproduced"
    for claim in (claims.present_at_first, claims.quickly_gone):
        assert verdict(claim, gathered()) == "not reproduced"


def test_one_quantity_that_stays_is_not_gone():
    datasets = vanishing()
    fisher = datasets["fixed"]["fisher"].copy()
    where = {"replicate": 1, "layer": "dense4"}
    fisher.loc[where] = fisher.loc[where].isel(epoch=0)
    datasets["fixed"] = datasets["fixed"].assign(fisher=fisher)
    found = claims.quickly_gone(datasets, N)
    assert found.verdict == "not reproduced"
    assert "holds in 2 of 3 replicates" in found.statistic


def test_every_claim_says_where_it_stands():
    for activation, number in (("sigmoid", 10), ("logsigmoid", 7), ("gelu", 5)):
        found = claims.decide(gathered(), N, activation)
        assert len(found) == number
        assert all(one.source for one in found)


def test_a_network_without_joint_draws_is_decided_at_its_inputs():
    datasets = gathered()
    del datasets["joint"]
    found = claims.unbiased(datasets, N)
    assert found.verdict == "reproduced"
    assert "test set" not in found.statistic


def test_activations_differ_where_replicates_do_not_overlap():
    one, other = gathered(), gathered()
    found = claims.tightness_by_activation({"a": one, "b": other})
    assert found.verdict == "not reproduced"
    other["fixed"] = other["fixed"].assign(bound_variance=2 * other["fixed"]["bound_variance"])
    assert claims.tightness_by_activation({"a": one, "b": other}).verdict == "reproduced"
    assert "b: V1: 100" in claims.tightness_by_activation({"a": one, "b": other}).statistic


def test_slopes_rest_on_variances_that_are_known():
    """One input whose rare labels were hardly drawn has no say; alone, it decides nothing."""
    datasets = bent("fixed", "empirical_variance", {"replicate": 1, "draws": 100}, 3.0)
    fixed = datasets["fixed"]
    rare = fixed["other_labels"].copy()
    rare.loc[{"replicate": 1, "epoch": slice(2, None)}] = 10.0
    datasets["fixed"] = fixed.assign(other_labels=rare)
    assert verdict(claims.inverse_in_draws, datasets) == "not reproduced"
    datasets = gathered()
    variance = datasets["fixed"]["empirical_variance"].copy()
    where = {"replicate": 1, "epoch": 5, "draws": 100}
    variance.loc[where] = variance.loc[where] * 1e6
    datasets["fixed"] = datasets["fixed"].assign(
        empirical_variance=variance, other_labels=0 * datasets["fixed"]["other_labels"]
    )
    assert verdict(claims.inverse_in_draws, datasets) == "not reproduced"

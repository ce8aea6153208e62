"""Random streams named by what is drawn."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagfim.seeding import InputStreams, integer, stream

keys = st.lists(st.integers(0, 2**32 - 1) | st.text(max_size=8), max_size=4)


@given(seed=st.integers(0, 2**64), path=keys)
def test_equal_paths_give_equal_draws(seed, path):
    first = stream(seed, *path).random(4)
    stream(seed + 1, *path).random(3)  # what else is drawn meanwhile does not matter
    assert stream(seed, *path).random(4).tolist() == first.tolist()
    assert integer(seed, *path) == integer(seed, *path)


@given(paths=st.lists(keys.map(tuple), min_size=2, max_size=6, unique=True))
def test_different_paths_give_different_draws(paths):
    draws = {tuple(stream(1, *path).integers(2**63, size=2).tolist()) for path in paths}
    assert len(draws) == len(paths)


def test_different_seeds_give_different_draws():
    assert len({integer(seed, "labels") for seed in range(100)}) == 100


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("7",), (7,)),
        (("labels", 1, 2), ("labels", 2, 1)),
        (("a", "b"), ("ab",)),
        ((), (0,)),
        ((5,), (5, 0)),
        ((0, 5), (5,)),
    ],
    ids=repr,
)
def test_paths_that_look_alike(one, other):
    assert integer(1, *one) != integer(1, *other)


def test_streams_are_those_of_seed_sequences():
    """Written out, so that a change of any word shows: "labels" has the SHA-256 d772ebb4…."""
    expected = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(42, spawn_key=(0xD772EBB4, 3)))
    )
    assert stream(42, "labels", 3).random(3).tolist() == expected.random(3).tolist()


def test_streams_are_uncorrelated():
    """20 streams of 4,000 normal numbers: every correlation within 5 standard errors of 0."""
    draws = np.stack([stream(3, "labels", k).normal(size=4000) for k in range(20)])
    for one, other in combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) <= 5 / np.sqrt(4000)


def test_seeds_for_other_generators_fill_63_bits():
    seeds = np.array([integer(0, k) for k in range(200)])
    assert np.all((seeds >= 0) & (seeds < 2**63))
    # Each bit is set in 100 ± 5 · 7 of them.
    bits = (seeds[:, None] >> np.arange(63)) & 1
    assert np.all(np.abs(bits.sum(0) - 100) <= 5 * np.sqrt(50))


def test_negative_seed():
    with pytest.raises(ValueError, match="non-negative"):
        stream(-1)


# ------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("number", [1, 4, 5, 30])
def test_uniforms_of_an_input_do_not_depend_on_its_batch(number):
    whole = InputStreams(3, 0, 20).uniforms(number)
    assert whole.shape == (20, number)
    for start, count in ((0, 7), (7, 13), (19, 1)):
        part = InputStreams(3, start, count).uniforms(number)
        assert np.array_equal(part, whole[start : start + count])
    assert not np.array_equal(InputStreams(4, 0, 20).uniforms(number), whole)


def test_generators_of_an_input_do_not_depend_on_its_batch():
    whole = [rng.random(3) for rng in InputStreams(3, 0, 6).generators()]
    part = [rng.random(3) for rng in InputStreams(3, 4, 2).generators()]
    assert np.array_equal(part, whole[4:])


def test_draws_of_different_inputs_are_independent():
    """40,000 uniforms in twenty bins, and 39,999 correlations of neighbours: |z| below 4."""
    everything = [InputStreams(3, 0, 10_000).uniforms(4).ravel()]
    everything.append(
        np.concatenate([rng.random(4) for rng in InputStreams(3, 0, 10_000).generators()])
    )
    for values in everything:
        assert len(np.unique(values)) == values.size
        observed, _ = np.histogram(values, bins=20, range=(0, 1))
        assert abs(np.sum((observed - 2000) ** 2 / 2000) - 19) / np.sqrt(38) < 4
        centred = values - 0.5
        assert abs(np.sum(centred[1:] * centred[:-1]) * 12 / np.sqrt(values.size)) < 4
    assert not np.intersect1d(*everything).size

"""Random streams that depend on what is drawn, never on when or where it is drawn."""

import hashlib
import operator
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np

Key = str | SupportsIndex


def stream(seed: int, *keys: Key) -> np.random.Generator:
    """Return the generator named by a seed and a path of keys.

    Equal arguments give equal draws on every machine, in any order of calls and for any chunking;
    different paths give streams that are independent for all practical purposes.

    Parameters
    ----------
    seed : int
        Root seed, non-negative.
    *keys : str or int below 2³²
        Path of the stream, for example ``("mlp", 0, "labels", 5000)``.  Strings enter through their
        SHA-256, so that adding a network to a study moves no other network's draws.

    Returns
    -------
    numpy.random.Generator
        A PCG64 generator on ``SeedSequence(seed, spawn_key=...)``.

    Examples
    --------
    >>> from diagfim.seeding import stream
    >>> bool(stream(1, "labels", 7).random() == stream(1, "labels", 7).random())
    True
    """
    spawn_key = tuple(_word(key) for key in keys)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))


class InputStreams:
    """Random streams of successive inputs, each by the seed and its position in the data alone.

    What is drawn for an input does not depend on the batch that it comes in.

    Parameters
    ----------
    seed : int
        Non-negative.
    start, count : int
        Position of the first input, and how many there are.

    Examples
    --------
    >>> from diagfim.seeding import InputStreams
    >>> whole, rest = InputStreams(1, 0, 3).uniforms(2), InputStreams(1, 2, 1).uniforms(2)
    >>> bool((whole[2:] == rest).all())
    True
    """

    def __init__(self, seed: int, start: int, count: int) -> None:
        self._seed = np.random.SeedSequence(seed)
        self._start = start
        self.count = count

    def uniforms(self, number: int) -> np.ndarray:
        """Uniforms on [0, 1), so many for each input: (count, number)."""
        steps = -(-number // _PER_STEP)
        bits = np.random.Philox(self._seed).advance(self._start * steps)
        values = np.random.Generator(bits).random((self.count, steps * _PER_STEP))
        return np.asarray(values[:, :number])

    def generators(self) -> Iterator[np.random.Generator]:
        """One generator for each input in turn; use it before the next one is taken.

        It is one generator whose counter is set to the position, at a tenth of the cost of a new
        one.
        """
        bits = np.random.Philox(self._seed)
        rng = np.random.Generator(bits)
        fresh = bits.state
        for position in range(self._start, self._start + self.count):
            fresh["state"]["counter"][3] = position + 1  # 0 is where `uniforms` are
            bits.state = fresh
            yield rng


_PER_STEP = 4
"""Numbers of 64 bits that one step of Philox's counter gives."""


def integer(seed: int, *keys: Key) -> int:
    """Return the 63-bit seed named by a path of keys, for generators that are not NumPy's."""
    return int(stream(seed, *keys).integers(2**63))


def _word(key: Key) -> int:
    if isinstance(key, str):
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return operator.index(key)

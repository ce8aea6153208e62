"""Random streams that depend on what is drawn, never on when or where it is drawn."""

import hashlib
import operator
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


def integer(seed: int, *keys: Key) -> int:
    """Return the 63-bit seed named by a path of keys, for generators that are not NumPy's."""
    return int(stream(seed, *keys).integers(2**63))


def _word(key: Key) -> int:
    if isinstance(key, str):
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return operator.index(key)

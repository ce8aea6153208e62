"""MNIST for the examples: the images in `resources`, read with the standard library and NumPy."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[1] / "resources" / "MNIST" / "raw"


def load(part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images of the training or the test set.

    Parameters
    ----------
    part : {"train", "t10k"}
    count : int

    Returns
    -------
    images : tensor, (count, 1, 28, 28)
        Grey levels in [0, 1].
    labels : tensor, (count,)
    """
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + count * 28 * 28), np.uint8, offset=16)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
    images = torch.from_numpy(pixels.reshape(count, 1, 28, 28).astype(np.float32) / 255)
    return images, torch.from_numpy(labels.astype(np.int64))

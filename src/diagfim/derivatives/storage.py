"""Factored derivatives as netCDF groups, and back."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from diagfim.derivatives.factored import AffineFactors, Derivatives, Entries


def to_groups(epochs: Sequence[Derivatives]) -> dict[str, xr.Dataset]:
    """Stack the derivatives of the same inputs at several epochs into labelled groups.

    Parameters
    ----------
    epochs : sequence of Derivatives
        NumPy or CPU torch arrays, one entry per epoch.

    Returns
    -------
    dict of str to Dataset
        ``outputs`` (epoch, input, output) at the root; ``inputs`` (epoch, input, column), ``first``
        and ``second`` (epoch, input, output, unit) under ``factors/<first parameter of a layer>``.
    """
    groups = {
        "/": xr.Dataset(
            {"outputs": (("epoch", "input", "output"), _stack([one.outputs for one in epochs]))}
        )
    }
    for index, layer in enumerate(epochs[0].layers):
        same = [one.layers[index] for one in epochs]
        wide = ("epoch", "input", "output", "unit")
        groups[f"factors/{layer.parameters[0]}"] = xr.Dataset(
            {
                "inputs": (("epoch", "input", "column"), _stack([one.inputs for one in same])),
                "first": (wide, _stack([one.first for one in same])),
                "second": (wide, _stack([one.second for one in same])),
            },
            attrs={
                "weight": layer.weight,
                "bias": layer.bias or "",
                "entries": json.dumps(layer.entries.shapes if layer.entries else []),
            },
        )
    return groups


def from_tree(tree: xr.DataTree) -> list[Derivatives]:
    """Read back what `to_groups` made, one entry per epoch, as NumPy arrays."""
    outputs = tree.to_dataset()["outputs"].values
    layers = [node.to_dataset().load() for node in tree["factors"].children.values()]
    return [
        Derivatives(
            outputs[epoch],
            tuple(
                AffineFactors(
                    layer.attrs["weight"],
                    layer.attrs["bias"] or None,
                    inputs=layer["inputs"].values[epoch],
                    first=layer["first"].values[epoch],
                    second=layer["second"].values[epoch],
                    entries=_entries(layer.attrs["entries"]),
                )
                for layer in layers
            ),
        )
        for epoch in range(len(outputs))
    ]


def to_numpy(derivatives: Derivatives) -> Derivatives:
    """Views of CPU torch tensors as NumPy arrays."""
    return Derivatives(
        np.asarray(derivatives.outputs),
        tuple(
            replace(
                layer,
                inputs=np.asarray(layer.inputs),
                first=np.asarray(layer.first),
                second=np.asarray(layer.second),
            )
            for layer in derivatives.layers
        ),
    )


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([np.asarray(array) for array in arrays])


def _entries(text: str) -> Entries | None:
    shapes = json.loads(text)
    return Entries(tuple((name, tuple(shape)) for name, shape in shapes)) if shapes else None

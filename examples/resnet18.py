"""torchvision's ResNet-18 on images of 64 x 64: what its Fisher diagonal costs.

The score-based estimate takes one backward pass per draw and image, whatever the number of classes:
it is the one to use with a thousand of them.  The Hessian-based one takes a pass per class, which
is cheap with the ten of one's own task.  ReLU and max-pooling make the network piecewise linear in
every single parameter, so that ∂²h is zero wherever it exists, which is everywhere but at the
kinks, a set of probability zero.  Î2 = ∂²F is then the exact diagonal of its images, without noise
from labels, and Î1 must be away from it by no more than its own exact error.

The weights are random unless a safetensors file is named; as they come from no training, one pass
over other images in training mode sets the statistics of the batch normalisation.

    python examples/resnet18.py [--weights resnet18.safetensors]
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import digits
import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import resnet18

import diagfim


class Found(NamedTuple):
    """What the example computes."""

    model: nn.Module
    inputs: Tensor
    """(few, 3, 64, 64), those of the Hessian-based estimate and of the exact diagonal."""
    score: xr.DataTree
    hessian: xr.DataTree
    exact: xr.DataTree
    table: pd.DataFrame
    agreement: pd.DataFrame
    """Distance of Î1 from Î2 in norm beside its exact standard error, relative, by layer."""
    seconds: dict[str, float]


def pictures(count: int, size: int) -> Tensor:
    """Digits, standardised and enlarged to colour images: (count, 3, size, size)."""
    images, _ = digits.load("t10k", count)
    images = (images - images.mean()) / images.std()
    return interpolate(images, size=(size, size), mode="bilinear").expand(-1, 3, -1, -1)


def network(weights: Path | None, batch: Tensor) -> nn.Module:
    """ResNet-18 in eval mode, with weights from a file or at random."""
    if weights is not None:
        state = load_file(weights)
        model = resnet18(num_classes=len(state["fc.bias"]))
        model.load_state_dict(state)
        return model.eval()
    model = resnet18(weights=None).train()
    with torch.no_grad():
        model(batch)
    return model.eval()


def main(
    weights: Path | None = None, size: int = 64, many: int = 100, few: int = 5, classes: int = 10
) -> Found:
    """Estimate with all of torchvision's classes, then compare on a new head of a few."""
    torch.manual_seed(0)
    images = pictures(many + 100, size)
    model = network(weights, images[many:])
    seconds = {}

    start = time.perf_counter()
    score = diagfim.estimate(model, images[:many], "score", draws=1)
    seconds[f"score, {many} inputs"] = time.perf_counter() - start

    # The head of one's own task, as before fine-tuning.
    model.fc = nn.Linear(model.fc.in_features, classes)
    inputs = images[:few]
    start = time.perf_counter()
    hessian = diagfim.estimate(model, inputs, "hessian", draws=1)
    seconds[f"hessian, {few} inputs, {classes} classes"] = time.perf_counter() - start
    start = time.perf_counter()
    exact = diagfim.analyze(model, inputs)
    seconds[f"analyze, {few} inputs, {classes} classes"] = time.perf_counter() - start
    again = diagfim.estimate(model, inputs, "score", draws=1, seed=1, errors=False)
    agreement = compare(again, hessian, diagfim.variance(exact, "score", draws=1))
    return Found(model, inputs, score, hessian, exact, diagfim.summarize(score), agreement, seconds)


def compare(score: xr.DataTree, hessian: xr.DataTree, noise: xr.DataTree) -> pd.DataFrame:
    """‖Î1 − Î2‖ and the root of its expected square, in units of ‖Î2‖, by parameter tensor."""
    rows = {}
    for name, node in hessian.children.items():
        scale = np.linalg.norm(node["fisher"].values)
        distance = np.linalg.norm((score[name]["fisher"] - node["fisher"]).values)
        expected = float(noise[name]["total_variance"].sum()) ** 0.5
        rows[name] = {"distance": distance / scale, "expected": expected / scale}
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, help="safetensors file of a torchvision resnet18")
    found = main(parser.parse_args().weights)
    some = "^conv1|0.conv1|fc|every"
    print(found.table.filter(regex=some, axis="index").to_string(), "\n")
    print(f"‖Î1 − Î2‖ / ‖Î2‖ at {len(found.inputs)} inputs, and its exact root mean square")
    print(found.agreement.filter(regex=some, axis="index").round(2).to_string(), "\n")
    print(pd.Series(found.seconds, name="seconds").round(1).to_string())

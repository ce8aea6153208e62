"""A transformer: token inputs, attention and layer normalisation, without any layer-wise rule.

The first token of a sequence points at a place, and the label is the symbol there, but one label in
ten is any symbol.  A `torch.nn.TransformerEncoderLayer` learns to look it up.  No engine that
knows its layers takes such a network; "auto" then chooses the one that takes all, "autodiff", whose
second derivatives cost a forward pass per unit or entry of the parameters.  PyTorch's fast path for
encoders in eval mode, which cannot be differentiated, is switched off meanwhile.
"""

import time
from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import diagfim

PLACES, SYMBOLS = 6, 5


class Found(NamedTuple):
    """What the example computes."""

    model: nn.Module
    tokens: Tensor
    accuracy: float
    """At labels without errors."""
    exact: xr.DataTree
    score: xr.DataTree
    table: pd.DataFrame
    seconds: dict[str, float]


class Transformer(nn.Module):
    """One encoder layer on learnt embeddings of tokens and places, read off at the first token."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS + PLACES, width)
        self.place = nn.Parameter(torch.randn(1 + PLACES, width) / 2)
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, 2 * width, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, symbols) of tokens (n, 1 + places)."""
        return self.head(self.encoder(self.symbol(tokens) + self.place)[:, 0])


def sample(count: int, wrong: float = 0.1) -> tuple[Tensor, Tensor]:
    """Tokens (count, 1 + places), a pointer and then symbols; labels (count,), some replaced."""
    pointers = torch.randint(PLACES, (count,))
    symbols = torch.randint(SYMBOLS, (count, PLACES))
    labels = symbols[torch.arange(count), pointers]
    labels = torch.where(torch.rand(count) < wrong, torch.randint(SYMBOLS, (count,)), labels)
    return torch.cat([SYMBOLS + pointers[:, None], symbols], dim=1), labels


def train(model: nn.Module, steps: int) -> None:
    """Adam on fresh sequences."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        tokens, labels = sample(64)
        optimiser.zero_grad()
        cross_entropy(model(tokens), labels).backward()
        optimiser.step()


def main(steps: int = 500, inputs: int = 40) -> Found:
    """Train, estimate, analyse."""
    torch.manual_seed(0)
    model = Transformer()
    train(model, steps)
    model.eval()  # no dropout: the Fisher information is that of a deterministic network
    tokens, labels = sample(1000, wrong=0.0)
    with torch.no_grad():
        accuracy = (model(tokens).argmax(1) == labels).double().mean().item()

    seconds = {}
    start = time.perf_counter()
    score = diagfim.estimate(model, tokens, "score", draws=1)
    seconds["score, 1,000 inputs"] = time.perf_counter() - start
    start = time.perf_counter()
    exact = diagfim.analyze(model, tokens[:inputs])
    seconds[f"analyze, {inputs} inputs"] = time.perf_counter() - start
    return Found(model, tokens, accuracy, exact, score, diagfim.summarize(exact), seconds)


if __name__ == "__main__":
    found = main()
    print(found.table.to_string(), "\n")
    print("one label for each of 1,000 inputs")
    print(diagfim.summarize(found.score).to_string(), "\n")
    print(f"accuracy {found.accuracy:.3f}, method {found.exact.attrs['method']}")
    print(pd.Series(found.seconds, name="seconds").round(1).to_string())

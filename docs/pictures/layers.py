"""The picture of the first page: a network after training, its layers and its estimators."""

import matplotlib.pyplot as plt
import torch
from torch import nn

import diagfim
from diagfim import plot

torch.manual_seed(0)
labels = torch.arange(480) % 4
images = 0.6 * torch.randn(480, 1, 8, 8)
for row, column, label in ((0, 0, 0), (0, 4, 1), (4, 0, 2), (4, 4, 3)):
    images[labels == label, :, row : row + 4, column : column + 4] += 0.5  # a bright quarter

model = nn.Sequential(
    nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 2), nn.Tanh(), nn.Flatten(),
    nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 4),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

exact = diagfim.analyze(model, images)
drawn = diagfim.estimate(model, images, "score", draws=1, seed=0)
_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
plot.layers({"exact": exact, "one draw": drawn}, ax=left).set_xlim(1e-3, 1e-1)
plot.convergence(exact, ax=right)

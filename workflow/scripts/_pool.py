"""Derivatives of a network over the test set, batch by batch, as NumPy arrays."""

import torch

from diagfim import arrays, networks, training
from diagfim.derivatives import dense, storage


class Pool:
    """The first inputs of the test set, and a network that checkpoints are loaded into."""

    def __init__(self, images_path, network, size, batch_size):
        with arrays.read(images_path) as tree:
            images = torch.from_numpy(tree["test/images"].values[:size])
        self.inputs = training.images_to_inputs(images, torch.float64)
        self.batch_size = batch_size
        self.model = networks.mlp(
            self.inputs.shape[1], network["hidden"], 10, network["activation"], 0
        ).double()

    def batches(self, checkpoint):
        model = networks.load(self.model, checkpoint)
        for batch in self.inputs.split(self.batch_size):
            yield storage.to_numpy(dense.derivatives(model, batch))

    def outputs(self, checkpoint):
        model = networks.load(self.model, checkpoint)
        for batch in self.inputs.split(self.batch_size):
            with torch.no_grad():
                yield model(batch).numpy()

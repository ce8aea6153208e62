"""A network of the study and its inputs: trained here on images, or the user's own."""

import torch

from diagfim import arrays, intake, networks, training
from diagfim.derivatives import dense, storage
from diagfim.derivatives.kept import keep
from diagfim.errors import UserError
from diagfim.loading import build_model, load_weights, open_data


def open_network(snakemake, dtype=torch.float64):
    """The network of a job, whose input ``inputs`` is a data set of images or a user's data."""
    settings = snakemake.params.settings["network"]
    kind = Own if "factory" in settings else Trained
    return kind(settings, snakemake.input.inputs, dtype)


class Network:
    """In a precision for model and inputs; `load` fills it with the weights of a stage."""

    def first(self, key, number):
        """Positions of the first inputs, as many as the configuration's key says."""
        if number > self.size:
            raise UserError(
                f"config: {key} is {number}, but {self.path} has {self.size} inputs; lower it"
            )
        return range(number)

    def batches(self, positions, batch_size):
        """Inputs batch by batch."""
        for start in range(0, len(positions), batch_size):
            yield self.take(positions[start : start + batch_size])

    def derivatives_of(self, positions, batch_size):
        """Derivatives batch by batch, as NumPy arrays."""
        return map(self.derivatives, self.batches(positions, batch_size))

    def outputs_of(self, positions, batch_size):
        """Outputs batch by batch."""
        for inputs in self.batches(positions, batch_size):
            with torch.no_grad():
                yield self.model(inputs)


class Trained(Network):
    """A multilayer perceptron of the study, and the test set."""

    def __init__(self, settings, path, dtype):
        self.path = path
        self._dtype = dtype
        with arrays.read(path) as tree:
            self._images = torch.from_numpy(tree["test/images"].values)
            self._labels = torch.from_numpy(tree["test/labels"].values)
        self.size = len(self._images)
        self.model = networks.mlp(
            self._images[0].numel(), settings["hidden"], 10, settings["activation"], 0
        ).to(dtype)

    def load(self, weights):
        networks.load(self.model, weights)

    def take(self, positions):
        return training.images_to_inputs(self._images[torch.as_tensor(positions)], self._dtype)

    def labels(self, positions):
        return self._labels[torch.as_tensor(positions)]

    def derivatives(self, inputs):
        return storage.to_numpy(dense.derivatives(self.model, inputs))


class Own(Network):
    """What a factory returns, with a user's weights, at a user's data."""

    def __init__(self, settings, path, dtype):
        self.path = path
        self._dtype = dtype
        self._samples = open_data(path, **settings.get("images", {}))
        self.size = len(self._samples)
        self.model = build_model(settings["factory"]).to(dtype)
        self._shapes = {
            name: tuple(value.shape)
            for name, value in self.model.named_parameters()
            if value.requires_grad
        }

    def load(self, weights):
        load_weights(self.model, weights)
        example = self.take(range(min(2, self.size)))
        self._engine = intake.Network(
            self.model, example, "categorical", "auto", None, 2**25
        ).engine

    def take(self, positions):
        inputs = self._samples.take(positions)
        return inputs.to(self._dtype) if inputs.is_floating_point() else inputs

    def labels(self, positions):
        return self._samples.labels(positions)

    def derivatives(self, inputs):
        return storage.to_numpy(keep(self._engine.at(inputs), self._shapes))

"""Results as PyTorch tensors, under the names and in the shapes of a model's ``state_dict``."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diagfim.errors import UserError
from diagfim.variances import values_of


def to_state_dict(
    tree: xr.DataTree, model: nn.Module | None = None, quantity: str = "fisher"
) -> dict[str, Tensor]:
    """A quantity of every parameter as a tensor, for penalties, merging or a Laplace posterior.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze`, `estimate` or `variance` returned, or what was read back from a file.
    model : torch.nn.Module, optional
        The one that was analysed.  The tensors then have the dtype and the device of its
        parameters, and a parameter that it uses under several names stands under each of them, as
        in its ``state_dict``.  Without it they are on the CPU and in the dtype of the analysis.
    quantity : str
        A variable of the tree, such as "fisher", "standard_error" or "variance_1".

    Returns
    -------
    dict of str to tensor
        In the order of the model.  Parameters that require no gradient and buffers are left out.

    Raises
    ------
    UserError
        If the tree does not hold the quantity, or belongs to another model.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Linear(3, 2)
    >>> fisher = diagfim.to_state_dict(diagfim.analyze(model, torch.rand(100, 3)), model)
    >>> {name: tuple(value.shape) for name, value in fisher.items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> anchor = {name: value.detach().clone() for name, value in model.named_parameters()}
    >>> penalty = sum(
    ...     (fisher[name] * (value - anchor[name]) ** 2).sum() / 2
    ...     for name, value in model.named_parameters()
    ... )
    >>> penalty.item()
    0.0
    """
    for name, node in tree.children.items():
        if quantity not in node:
            raise UserError(
                f"quantity: {name} has no {quantity!r}; it has {', '.join(map(str, node.dataset))}"
            )
    values = values_of(tree, quantity)
    if model is None:
        dtype = getattr(torch, tree.attrs.get("dtype", "float64"))
        return {name: torch.from_numpy(np.array(one)).to(dtype) for name, one in values.items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first_name = {id(one): name for name, one in reversed(parameters.items())}
    for name, value in values.items():
        found = tuple(parameters[name].shape) if name in parameters else None
        if found != value.shape:
            raise UserError(
                f"model: {name} has the shape {value.shape} in the tree, but "
                f"{'is no parameter' if found is None else found} in the model; pass the model "
                "that was analysed"
            )
    return {
        name: torch.from_numpy(np.array(values[first_name[id(one)]])).to(one.device, one.dtype)
        for name, one in parameters.items()
        if first_name[id(one)] in values
    }

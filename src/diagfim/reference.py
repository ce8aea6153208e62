"""The same quantities by their definitions: slow, obvious, for checking your own layers.

Derivatives come from autograd through the whole network, one Hessian per output and input, and
moments from the definition of a variance.  Nothing here knows of layers, factors, directions or
streams, nor shares a line with what computes fast; memory is that of a full Hessian.  It trusts
PyTorch, whose own second derivatives of ``weight_norm`` and ``cdist`` are wrong.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from diagfim.derivatives.fitness import attention_by_formula, examine

Named = dict[str, Tensor]


@attention_by_formula()
def derivatives(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Named, Named]:
    """Outputs and their first and second derivatives by every parameter, one input at a time.

    Parameters
    ----------
    model : torch.nn.Module
        Any, in eval mode; float64 to see anything finer than seven digits.
    inputs : tensor, (n, ...)

    Returns
    -------
    outputs : tensor, (n, T)
    first, second : dict of str to tensor
        By parameter that requires a gradient: ∂h_t/∂θ_i and ∂²h_t/∂θ_i², ``(n, T, *shape)``.

    Raises
    ------
    UserError
        If the model is none that `diagfim.analyze` would take.
    """
    examine(model, inputs[:2])
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    outputs, firsts, seconds = [], [], []
    for one in inputs:

        def of(values: Named, one: Tensor = one) -> Tensor:
            found = functional_call(model, values, (one[None],), tie_weights=True)
            assert isinstance(found, Tensor)
            return found[0]

        outputs.append(of(parameters))
        firsts.append(jacrev(of)(parameters))
        second = {}
        for name, value in parameters.items():

            def of_one(flat: Tensor, name: str = name, shape: torch.Size = value.shape) -> Tensor:
                return of({**parameters, name: flat.reshape(shape)})

            hessian = jacrev(jacrev(of_one))(value.flatten())
            second[name] = hessian.diagonal(dim1=-2, dim2=-1).reshape(-1, *value.shape)
        seconds.append(second)
    return (
        torch.stack(outputs),
        {name: torch.stack([first[name] for first in firsts]) for name in parameters},
        {name: torch.stack([second[name] for second in seconds]) for name in parameters},
    )


def analyze(model: nn.Module, inputs: Tensor, family: str = "categorical") -> dict[str, Named]:
    """What `diagfim.analyze` returns, by enumeration of the labels or in closed form.

    Parameters
    ----------
    model, inputs
        As for `derivatives`.
    family : {"categorical", "gaussian"}

    Returns
    -------
    dict of str to dict of str to tensor
        By parameter, then ``fisher``, ``variance_1``, ``variance_2``, ``covariance_12`` and
        ``input_variance``, in the shape of the parameter.

    Raises
    ------
    KeyError
        If the family is another one.

    Examples
    --------
    >>> import torch
    >>> from diagfim import reference
    >>> model = torch.nn.Linear(2, 3).double()
    >>> found = reference.analyze(model, torch.ones(4, 2, dtype=torch.float64))
    >>> found["weight"]["fisher"].shape
    torch.Size([3, 2])
    """
    outputs, first, second = derivatives(model, inputs)
    moments = {"categorical": _categorical, "gaussian": _gaussian}[family]
    found = {}
    for name in first:
        at_input = [moments(*one) for one in zip(outputs, first[name], second[name], strict=True)]
        fisher, *others = (torch.stack(values) for values in zip(*at_input, strict=True))
        found[name] = {
            "fisher": fisher.mean(0),
            **dict(
                zip(
                    ("variance_1", "variance_2", "covariance_12"),
                    (value.mean(0) for value in others),
                    strict=True,
                )
            ),
            "input_variance": fisher.var(0, correction=0),
        }
    return found


def _categorical(outputs: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    """I, V1, V2 and C12 of one input from the two estimators at every label."""
    sigma = outputs.softmax(0)

    def mean(values: Tensor) -> Tensor:
        weights = sigma.reshape(-1, *[1] * (values.ndim - 1))
        return (weights * values).sum(0)

    score = (first - mean(first)) ** 2
    # −∂² log p(c) = ∂²F − ∂²h_c with ∂²F = Σ σ_c ∂²h_c + Σ σ_c (∂h_c − mean)²
    hessian = mean(second) + mean(score) - second
    score_noise, hessian_noise = score - mean(score), hessian - mean(hessian)
    return (
        mean(score),
        mean(score_noise**2),
        mean(hessian_noise**2),
        mean(score_noise * hessian_noise),
    )


def _gaussian(outputs: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    """Proposition 5.1, at unit variance."""
    fisher = (first**2).sum(0)
    return fisher, 2 * fisher**2, (second**2).sum(0), torch.zeros_like(fisher)

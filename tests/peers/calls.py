"""One call of each peer, its result by parameter as it comes: nothing is divided or multiplied.

The page "Which Fisher am I getting?" names these calls.
"""

import copy

import pytest
import torch
from comparing import Named
from networks import Setting
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def needed(*modules: str) -> None:
    """Skip the test where a peer is not installed, or does not import with this PyTorch."""
    for module in modules:
        pytest.importorskip(module, exc_type=ImportError)


def split(setting: Setting, flat: Tensor) -> Named:
    """A flat vector by parameter, in the order of the model."""
    pieces = flat.split([value.numel() for value in setting.parameters.values()])
    named = zip(setting.parameters.items(), pieces, strict=True)
    return {name: piece.reshape(value.shape) for (name, value), piece in named}


# ------------------------------------------------------------------------------- BackPACK


def backpack(
    setting: Setting,
    extension: str,
    field: str,
    reduction: str = "sum",
    labels: Tensor | None = None,
    **options: int,
) -> Named:
    """A quantity that BackPACK leaves on the parameters."""
    from backpack import backpack as context
    from backpack import extend, extensions

    model = copy.deepcopy(setting.model)
    # Its converter turns a forward method into layers that it knows, where it can.
    model = extend(model, use_converter=not isinstance(model, nn.Sequential))
    loss = extend(setting.loss(reduction=reduction))
    with context(getattr(extensions, extension)(**options)):
        loss(model(setting.inputs), setting.labels if labels is None else labels).backward()
    return {name: getattr(value, field).detach() for name, value in model.named_parameters()}


# ----------------------------------------------------------------------------- NNGeometry


def nngeometry(setting: Setting, variant: str, trials: int | None = None, batch: int = 5) -> Named:
    """Diagonal of NNGeometry's Fisher matrix, or of its Monte Carlo estimate with `trials`."""
    from nngeometry.metrics import FIM, FIM_MonteCarlo
    from nngeometry.object import PMatDiag

    model, inputs = copy.deepcopy(setting.model), setting.inputs.clone()
    loader = DataLoader(TensorDataset(inputs), batch_size=batch)
    if trials is None:
        matrix = FIM(model, loader, PMatDiag, variant=variant)
    else:
        matrix = FIM_MonteCarlo(model, loader, PMatDiag, variant=variant, trials=trials)
    return split(setting, matrix.get_diag().detach())


def nngeometry_hessian(setting: Setting, batch: int = 5) -> Named:
    """Diagonal of NNGeometry's Hessian of the mean loss; it makes the whole matrix."""
    from nngeometry.hessian import Hessian
    from nngeometry.object import PMatDense

    loader = DataLoader(TensorDataset(setting.inputs, setting.labels), batch_size=batch)
    model, loss = copy.deepcopy(setting.model), setting.loss(reduction="mean")
    matrix = Hessian(model, loader, PMatDense, function=loss)
    return split(setting, matrix.to_torch().diagonal().detach())


def nngeometry_jacobian(setting: Setting) -> Tensor:
    """∂h, (T, n, P), of NNGeometry's Jacobian backend."""
    from nngeometry.backend import TorchHooksJacobianBackend

    backend = TorchHooksJacobianBackend(copy.deepcopy(setting.model))
    loader = DataLoader(TensorDataset(setting.inputs.clone()), batch_size=5)
    return backend.get_jacobian(loader).detach()


# ----------------------------------------------------------------------------- curvlinops


def curvlinops(
    setting: Setting,
    operator: str,
    reduction: str = "mean",
    labels: Tensor | None = None,
    batch: int = 5,
    **options: int,
) -> Named:
    """Diagonal of one of curvlinops' operators, by applying it to the unit vectors."""
    import curvlinops as library

    model = copy.deepcopy(setting.model)
    labels = setting.labels if labels is None else labels
    found = getattr(library, operator)(
        model,
        setting.loss(reduction=reduction),
        list(model.parameters()),
        list(zip(setting.inputs.split(batch), labels.split(batch), strict=True)),
        **options,
    )
    unit = torch.eye(found.shape[1], dtype=setting.inputs.dtype)
    return split(setting, (found @ unit).diagonal())


# --------------------------------------------------------------------------------- Laplace


def laplace(setting: Setting, backend: str, batch: int = 5, **options: object) -> Named:
    """Diagonal that `DiagLaplace` fits, before the prior is added."""
    from laplace import DiagLaplace, curvature

    kind = "regression" if setting.loss is nn.MSELoss else "classification"
    fitted = DiagLaplace(
        copy.deepcopy(setting.model),
        kind,
        backend=getattr(curvature, backend),
        backend_kwargs=options,
    )
    fitted.fit(DataLoader(TensorDataset(setting.inputs, setting.labels), batch_size=batch))
    return split(setting, fitted.H.detach())


# ------------------------------------------------------------------------------------ ASDL


def asdl(setting: Setting, kind: str, **options: object) -> Named:
    """Diagonal of one of ASDL's Fisher matrices, with the data size that makes it a mean."""
    from asdl import fisher, grad_maker, matrices

    model = copy.deepcopy(setting.model)
    config = fisher.FisherConfig(
        fisher_type=getattr(matrices, f"FISHER_{kind}"),
        fisher_shapes=[matrices.SHAPE_DIAG],
        loss_type=grad_maker.LOSS_MSE
        if setting.loss is nn.MSELoss
        else grad_maker.LOSS_CROSS_ENTROPY,
        data_size=len(setting.inputs),
        **options,
    )
    maker = fisher.get_fisher_maker(model, config)
    outputs = maker.setup_model_call(model, setting.inputs)
    maker.setup_logits_repr(outputs)
    maker.setup_loss_call(setting.loss(reduction="sum"), outputs, setting.labels)
    maker.forward_and_backward()
    return _asdl_diagonals(model, "fisher")


def asdl_hessian(setting: Setting) -> Named:
    """Diagonal of ASDL's Hessian of the summed loss; it makes the matrix of every layer."""
    from asdl import hessian, matrices

    model = copy.deepcopy(setting.model)
    maker = hessian.HessianMaker(model, hessian.HessianConfig(hessian_shapes=[matrices.SHAPE_DIAG]))
    outputs = maker.setup_model_call(model, setting.inputs)
    maker.setup_loss_call(setting.loss(reduction="sum"), outputs, setting.labels)
    maker.forward_and_backward()
    return _asdl_diagonals(model, "hessian")


def _asdl_diagonals(model: nn.Module, field: str) -> Named:
    return {
        f"{prefix}.{name}": getattr(getattr(module, field).diag, name).detach()
        for prefix, module in model.named_modules()
        if hasattr(module, field)
        for name, _ in module.named_parameters(recurse=False)
    }


# ---------------------------------------------------------------------------------- Opacus


def opacus(setting: Setting, reduction: str = "mean") -> Named:
    """Per-sample gradients, (n, ...) each, of Opacus."""
    from opacus import GradSampleModule

    # It records nothing in eval mode.
    model = GradSampleModule(copy.deepcopy(setting.model).train(), loss_reduction=reduction)
    setting.loss(reduction=reduction)(model(setting.inputs), setting.labels).backward()
    return {name: value.grad_sample for name, value in model._module.named_parameters()}

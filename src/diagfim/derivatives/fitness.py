"""Whether a network can be analysed at all: every refusal, by name, before any work.

What can be seen without running the network is looked at first: what kind of module it is, its
weights, and modules that draw or mix in training mode.  Then it is run on one or two inputs, on
copies of its weights: two passes must agree, and so must a batch and its inputs one by one.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import batchnorm, dropout, instancenorm
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves

from diagfim.errors import UserError

FLOATS = (torch.float32, torch.float64)
"""What can be computed in: squares of derivatives leave the range of anything shorter."""

_WRAPPERS = {
    "OptimizedModule": ("as torch.compile makes", "_orig_mod"),
    "DataParallel": ("which spreads a batch over devices", "module"),
    "DistributedDataParallel": ("which spreads a batch over devices", "module"),
}
"""By class: what a wrapper is, and where it keeps the module itself."""


def examine(model: nn.Module, example: Tensor) -> Tensor:
    """Outputs at a few inputs of a network that has been looked at from all sides.

    Parameters
    ----------
    model : torch.nn.Module
    example : tensor, (n, ...)
        One or two inputs, of the device and the dtype of the model.

    Returns
    -------
    tensor, (n, T)

    Raises
    ------
    UserError
        As every function below.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.fitness import examine
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout())
    >>> examine(model.eval(), torch.ones(2, 3)).shape
    torch.Size([2, 2])
    >>> examine(model.train(), torch.ones(2, 3))
    Traceback (most recent call last):
    diagfim.errors.UserError: 1: Dropout in training mode draws at random; call model.eval() first
    """
    look_at_module(model)
    look_at_values(model)
    look_at_numbers(model)
    look_at_modes(model)
    return try_out(model, example)


# ------------------------------------------------------------------------------ without a pass


def look_at_module(model: object) -> None:
    """Refuse what is no module of plain Python, down to the last one.

    Parameters
    ----------
    model : object
        Whatever a user gave.

    Raises
    ------
    UserError
        If it is no module; or one in it is compiled, scripted, quantised or spread over devices, or
        has backward hooks.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model: a {_article(model)} is not a torch.nn.Module")
    for name, module in model.named_modules():
        kind = type(module)
        where = f"{name or 'model'}: {kind.__name__}"
        if kind.__name__ in _WRAPPERS:
            what, inner = _WRAPPERS[kind.__name__]
            raise UserError(f"{where}, {what}; pass {name or 'model'}.{inner} in its place")
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{where}, of TorchScript, cannot be called on other weights; pass the module that "
                "it was made from"
            )
        if module._compiled_call_impl is not None:
            raise UserError(
                f"{where} was compiled in place by its compile(); pass the model without that"
            )
        if "quantized" in kind.__module__.split("."):
            raise UserError(
                f"{where} is quantised: its weights are integers, with no derivatives; pass the "
                "model from before the quantisation"
            )
        if module._backward_hooks or module._backward_pre_hooks:
            raise UserError(
                f"{where} has backward hooks, which may change its gradients; remove them"
            )


def look_at_values(model: nn.Module) -> None:
    """Refuse parameters and buffers that cannot be differentiated by, or have no value.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    UserError
        If nothing requires a gradient, or a tensor is not initialised, not dense, complex, empty,
        on another device than the rest, or made in inference mode, or its name cannot be one in a
        file.
    """
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise UserError(
                f"{name}: not initialised yet, as lazy modules start; run the model once on some "
                "inputs"
            )
    first: tuple[str, Tensor] | None = None
    for name, value in model.named_parameters():
        if value.layout != torch.strided:
            raise UserError(f"{name}: layout {value.layout}; make it dense, with to_dense()")
        if value.is_inference():
            raise UserError(
                f"{name}: made in torch.inference_mode, where nothing has derivatives; pass "
                "copy.deepcopy(model), made outside of it"
            )
        if first is not None and value.device != first[1].device:
            raise UserError(
                f"{name}: on {value.device}, but {first[0]} on {first[1].device}; put the whole "
                "model on one device, with values for all its parameters"
            )
        first = first or (name, value)
        if value.requires_grad:
            if value.is_complex():
                raise UserError(
                    f"{name}: dtype {value.dtype}; the Fisher information is that of real "
                    "parameters: hold its real and imaginary parts apart"
                )
            if not value.numel():
                raise UserError(
                    f"{name}: shape {tuple(value.shape)}, with no entries to analyse; set "
                    "requires_grad to False"
                )
            if "/" in name:
                raise UserError(
                    f"{name}: '/' parts the groups of a tree; rename the module, or set "
                    "requires_grad to False"
                )
    if not any(value.requires_grad for value in model.parameters()):
        raise UserError("model: no parameter requires a gradient; there is nothing to analyse")
    if first is not None and first[1].device.type == "meta":
        raise UserError(f"{first[0]}: on the meta device, without values; load the weights first")


@torch.no_grad()
def look_at_numbers(model: nn.Module) -> None:
    """Refuse weights that are short, of several precisions, or not finite.

    Parameters
    ----------
    model : torch.nn.Module
        As `look_at_values` lets pass.

    Raises
    ------
    UserError
        The message names the parameter or the buffer.
    """
    first: tuple[str, torch.dtype] | None = None
    for name, value in model.named_parameters():
        if not value.is_floating_point():
            continue  # whole numbers, which no one can differentiate by: a constant
        if value.dtype not in FLOATS:
            raise UserError(
                f"{name}: dtype {value.dtype}; convert the model to float32 or float64, or pass "
                "dtype=torch.float32"
            )
        first = first or (name, value.dtype)
        if value.dtype != first[1]:
            raise UserError(
                f"{name}: dtype {value.dtype}, but {first[0]} has {first[1]}; convert the model to "
                "one of them, or pass dtype=torch.float64"
            )
        if not is_finite(value):
            raise UserError(
                f"{name}: holds NaN or infinity, first at {_place(value)}; the network is not "
                "usable as it is"
            )
    for name, buffer in model.named_buffers():
        if not buffer.is_floating_point() or is_finite(buffer):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        # Infinity elsewhere is a mask as likely as a mistake: attention has such buffers.
        if buffer.isnan().any() or isinstance(owner, batchnorm._NormBase):
            raise UserError(
                f"{name}: this buffer holds NaN or infinity, first at {_place(buffer)}; the "
                "network is not usable as it is"
            )


def look_at_modes(model: nn.Module) -> None:
    """Refuse modules that are known to give an input more than one output.

    A module in training mode is fine if that makes no difference to what it does.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    UserError
        The message names the first such module.
    """
    for name, module in model.named_modules():
        where = f"{name or 'model'}: {type(module).__name__}"
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise UserError(
                f"{where} with max_norm={module.max_norm} changes its weights in every pass; set "
                "max_norm to None"
            )
        if isinstance(module, batchnorm._BatchNorm) and module.running_mean is None:
            raise UserError(
                f"{where} without running statistics makes an output depend on the other inputs; "
                "replace it, or train it with track_running_stats=True"
            )
        if module.training and (what := _in_training(module)):
            raise UserError(f"{where} in training mode {what}; call model.eval() first")


def _in_training(module: nn.Module) -> str | None:
    """What a module does in training mode that it does not do otherwise."""
    if isinstance(module, dropout._DropoutNd) and module.p > 0:
        return "draws at random"
    if isinstance(module, nn.RReLU) and module.lower < module.upper:
        return "draws at random"
    if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
        return "draws at random"
    if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
        return "draws at random"
    if isinstance(module, batchnorm._BatchNorm):
        return "makes an output depend on the other inputs"
    tracks = isinstance(module, instancenorm._InstanceNorm) and module.track_running_stats
    if tracks or isinstance(module, parametrizations._SpectralNorm):
        return "changes its buffers in every pass"
    if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
        return "changes the buffers of its spectral_norm in every pass"
    return None


def is_finite(values: Tensor) -> bool:
    """Whether every entry is; a sum is finite only if its terms are, and ten times cheaper."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _place(values: Tensor) -> str:
    """Index of the first entry that is not finite, as Python writes it."""
    return str((~values.isfinite()).nonzero()[0].tolist())


def _article(value: object) -> str:
    return f"class, {value.__name__}," if isinstance(value, type) else type(value).__name__


# --------------------------------------------------------------------------------- with a pass


def try_out(model: nn.Module, example: Tensor) -> Tensor:
    """Outputs at a few inputs, of a network that treats inputs one by one and alike every time.

    The passes are made on copies of the weights, and leave the global random numbers alone.

    Parameters
    ----------
    model : torch.nn.Module
        As the functions above let pass.
    example : tensor, (n, ...)
        One or two inputs, on its device.

    Returns
    -------
    tensor, (n, T)

    Raises
    ------
    UserError
        If the model does not take the inputs; its outputs are no finite tensor (n, T) of floating
        point; they are random, depend on the other inputs of a batch, or on no parameter; or a pass
        changes a parameter or a buffer.

    Notes
    -----
    Passes are compared to within a thousand roundings of the largest output, not exactly: a batch
    of another size is summed in another order, and on a GPU so is the same batch.  Chance that
    small has no more effect than rounding has.  A pass that moves PyTorch's random numbers is
    repeated more often: at small rates, two passes may agree by chance.
    """
    cuda = [example.device] if example.is_cuda else []
    with torch.random.fork_rng(devices=cuda), attention_by_formula():
        trial = _Trial(model)
        state = _random_state(example.device)
        with torch.no_grad():
            outputs: Tensor = trial.run(example)
        _look_at_shape(outputs, len(example))
        _look_at_precision(outputs, trial.wanted)
        trial.look_at_changes()
        look_at_outputs(model, example, outputs)
        drew = not torch.equal(state, _random_state(example.device))
        with torch.enable_grad():
            again = trial.run(example)
        with torch.no_grad():
            others = [trial.run(example) for _ in range(_REPEATS if drew else 0)]
            if any(_differ(outputs, one) for one in (again.detach(), *others)):
                raise _random_outputs(model, example)
            if len(example) > 1:
                _look_at_rows(trial, example, outputs)
    if trial.wanted and not again.requires_grad:
        raise UserError(
            "model: its outputs depend on no parameter that requires a gradient; take no_grad, "
            "detach or the like out of its forward"
        )
    return outputs


_REPEATS = 20
"""Passes beyond the second one of a network that draws random numbers, used or not."""


class _Trial:
    """A model on copies of its parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._values = {
            name: value.detach().clone().requires_grad_(value.requires_grad)
            for name, value in chain(model.named_parameters(), model.named_buffers())
        }
        self.wanted = [one for one in self._values.values() if one.requires_grad]

    def run(self, inputs: Tensor) -> Any:
        """Whatever the model makes of the inputs; its own complaints are the user's to read."""
        with named(self.model, inputs):
            return functional_call(self.model, self._values, (inputs,))

    def look_at_changes(self) -> None:
        """Refuse a pass that wrote into one of the copies."""
        for name, value in self._values.items():
            if value._version:
                raise UserError(
                    f"{name}: written to by the forward of the model; make it a function of its "
                    "inputs and parameters alone, by model.eval() if that is for training"
                )


_COMPLAINTS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
)
"""What modules raise at inputs that they do not take."""


@contextmanager
def named(model: nn.Module, inputs: Tensor, start: int = 0) -> Iterator[None]:
    """What a model raises at inputs that it does not take, with where and why.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : tensor, (n, ...)
        Those it is called with inside.
    start : int
        Position of the first of them.

    Raises
    ------
    UserError
        If the model by itself raises an error at the inputs; what else is raised is left alone.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except _COMPLAINTS as error:
        where = _raised_in(model, inputs)
        if where is None:
            raise
        raise _does_not_take(model, inputs, error, where, start) from error


def _does_not_take(
    model: nn.Module, inputs: Tensor, error: Exception, module: str, start: int
) -> UserError:
    reason = line(error)
    remedy = "pass (n, ...), n inputs of the shape that it takes"
    if isinstance(error, IndexError):
        remedy = "pass indices that it has entries for"
    elif isinstance(error, TypeError) and "argument" in reason and "forward" in reason:
        remedy = "wrap it in a module whose forward takes the inputs alone"
    elif inputs.is_floating_point() and any(
        isinstance(one, nn.Embedding | nn.EmbeddingBag) for one in model.modules()
    ):
        remedy = "pass indices as whole numbers, with inputs.long()"
    elif not inputs.is_floating_point():
        remedy = "pass floating-point numbers, with inputs.float(), if that is what it takes"
    where = f", from position {start} on" if start else ""
    return UserError(
        f"inputs: the model does not take a batch of shape {tuple(inputs.shape)} and dtype "
        f"{inputs.dtype}{where}: {reason}{module}; {remedy}"
    )


def line(error: BaseException) -> str:
    """The first line of what an exception says, without a full stop."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


@torch.no_grad()
def _raised_in(model: nn.Module, inputs: Tensor) -> str | None:
    """The innermost module that raises at some inputs, but for the model itself, if one does."""
    entered: list[str] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(module: nn.Module, arguments: Any, name: str = name) -> None:
                entered.append(f", in {name} ({type(module).__name__})" if name else "")

            def leave(module: nn.Module, arguments: Any, result: Any) -> None:
                entered.pop()

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        try:
            model(inputs)
        except _COMPLAINTS:
            return entered[-1] if entered else ""
    return None


def _look_at_shape(outputs: Any, n: int) -> None:
    expected = f"expected a tensor (inputs, outputs), here of {n} rows"
    wrap = "wrap it in a module whose forward returns one, such as"
    if isinstance(outputs, Mapping):
        keys = ", ".join(map(str, outputs))
        raise UserError(
            f"model: its outputs are {type(outputs).__name__} with {keys}; {expected}; {wrap} "
            f"model(x)[{next(iter(outputs), 'logits')!r}]"
        )
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"model: its outputs are {type(outputs).__name__}; {expected}; {wrap} model(x)[0]"
        )
    if outputs.ndim != 2 or len(outputs) != n or not outputs.shape[1]:
        remedy = {
            1: f"; {wrap} model(x)[:, None]",
            3: f"; {wrap} model(x)[:, -1], of one position, or model(x).flatten(1), of targets "
            "that are independent given x",
        }.get(outputs.ndim, "")
        raise UserError(f"model: its outputs are {tuple(outputs.shape)}; {expected}{remedy}")
    if not outputs.is_floating_point():
        raise UserError(
            f"model: its outputs are {outputs.dtype}; expected floating point, such as logits"
        )


def _look_at_precision(outputs: Tensor, parameters: list[Tensor]) -> None:
    for one in parameters[:1]:
        if outputs.dtype != one.dtype:
            raise UserError(
                f"model: its outputs are {outputs.dtype}, its parameters {one.dtype}; take the "
                "casts, or autocast, out of its forward"
            )


def look_at_outputs(model: nn.Module, inputs: Tensor, outputs: Tensor, start: int = 0) -> None:
    """Refuse outputs that are not finite, and say where that comes from.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : tensor, (n, ...)
    outputs : tensor, (n, T)
    start : int
        Position of the first of the inputs.

    Raises
    ------
    UserError
        The message names the input, and the first module that makes NaN or infinity of it.
    """
    if is_finite(outputs):
        return
    row = int((~outputs.isfinite()).any(1).nonzero()[0])
    if not is_finite(inputs[row]):
        raise UserError(
            f"inputs: the one at position {start + row}, counted from 0, holds NaN or infinity, "
            "and so do the outputs there; leave it out"
        )
    culprit = next(
        (
            call.who
            for call in _recorded(model, inputs[row : row + 1])
            if all(map(is_finite, call.taken)) and not all(map(is_finite, call.given))
        ),
        "model",
    )
    raise UserError(
        f"{culprit}: NaN or infinite outputs at the input at position {start + row}, counted from "
        "0, whose values are finite; the network is not usable as it is there"
    )


def _look_at_rows(trial: _Trial, example: Tensor, outputs: Tensor) -> None:
    """Refuse outputs of a batch that are not those of its inputs one by one."""
    for row in range(2):
        one = slice(row, row + 1)
        alone = trial.run(example[one])
        if not isinstance(alone, Tensor) or alone.shape != outputs[one].shape:
            found = tuple(alone.shape) if isinstance(alone, Tensor) else type(alone).__name__
            raise UserError(
                f"model: a batch of one input has outputs {found}; expected "
                f"{tuple(outputs[one].shape)}; do not squeeze the axis of the inputs"
            )
        if _differ(outputs[one], alone):
            whole, part = _recorded(trial.model, example), _recorded(trial.model, example[one])
            raise UserError(
                f"{_culprit(whole, part, one)}: the outputs of an input depend on the other "
                "inputs of its batch; only networks that treat inputs one by one have a Fisher "
                "information per input"
            )


def _random_outputs(model: nn.Module, example: Tensor) -> UserError:
    """The error of a network that is random, naming the module that is."""
    pairs = ((_recorded(model, example), _recorded(model, example)) for _ in range(_REPEATS))
    who = next((who for one, other in pairs if (who := _culprit(one, other)) != "model"), "model")
    return UserError(
        f"{who}: two passes over the same inputs differ; call model.eval(), and make its forward "
        "deterministic"
    )


def _differ(one: Any, other: Any) -> bool:
    """Whether two results are not the same to rounding."""
    if one.shape != other.shape:
        return True
    if not one.is_floating_point():
        return not torch.equal(one, other)
    if not one.numel():
        return False
    rounding = 1e3 * torch.finfo(one.dtype).eps * one.abs().max()
    return not bool((one - other).abs().max() <= rounding)


@dataclass(frozen=True)
class _Call:
    """One call of a module in a pass: "name: kind", and the tensors that it took and gave."""

    who: str
    taken: list[Tensor]
    given: list[Tensor]


@torch.no_grad()
def _recorded(model: nn.Module, inputs: Tensor) -> list[_Call]:
    """The calls of a pass in the order in which they end: those of the parts before the whole's."""
    calls: list[_Call] = []

    def tensors(values: Any) -> list[Tensor]:
        return [one.clone() for one in tree_leaves(values) if isinstance(one, Tensor)]

    with ExitStack() as stack:
        for name, module in model.named_modules():
            taken: list[list[Tensor]] = []

            def enter(module: Any, arguments: Any, kept: list[list[Tensor]] = taken) -> None:
                kept.append(tensors(arguments))

            def leave(
                module: Any,
                arguments: Any,
                result: Any,
                who: str = f"{name}: {type(module).__name__}" if name else "model",
                kept: list[list[Tensor]] = taken,
            ) -> None:
                calls.append(_Call(who, kept.pop(), tensors(result)))

            stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        model(inputs)
    return calls


def _culprit(one: list[_Call], other: list[_Call], rows: slice = slice(None)) -> str:
    """The first module that gives something else in another pass, for the same that it took.

    Parameters
    ----------
    one, other : list of _Call
    rows : slice
        The inputs of the first pass that are those of the other.
    """

    def differ(mine: list[Tensor], theirs: list[Tensor]) -> bool:
        pairs = zip(mine, theirs, strict=False)
        return any(_differ(a[rows] if a.ndim else a, b) for a, b in pairs)

    for mine, theirs in zip(one, other, strict=False):
        if mine.who != theirs.who:
            break
        if differ(mine.given, theirs.given) and not differ(mine.taken, theirs.taken):
            return mine.who
    return "model"


def given_by(model: nn.Module, inputs: Tensor, kinds: Iterable[str]) -> str | None:
    """The module of one of some kinds whose result the outputs are, if there is one.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : tensor, (n, ...)
    kinds : iterable of str
        Names of classes.

    Returns
    -------
    str or None
        Such as "4: Softmax".
    """
    kinds = set(kinds)
    layers = {name: one for name, one in model.named_modules() if type(one).__name__ in kinds}
    if not layers:
        return None
    results: list[tuple[str, Tensor]] = []
    with torch.no_grad(), ExitStack() as stack:
        for name, module in layers.items():
            label = f"{name or 'model'}: {type(module).__name__}"

            def keep(module: Any, arguments: Any, result: Any, label: str = label) -> None:
                results.append((label, result))

            stack.callback(module.register_forward_hook(keep).remove)
        place = model(inputs).data_ptr()
    return next((label for label, result in results if result.data_ptr() == place), None)


# ---------------------------------------------------------------------------------- surroundings


@contextmanager
def attention_by_formula() -> Iterator[None]:
    """Attention by matrix products: fused kernels and nested tensors lack derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def undisturbed(model: object) -> Iterator[None]:
    """Derivatives as PyTorch has them by default, and the model put back as it was, come what may.

    Whatever the caller's context is: inference mode, no_grad or autocast.  What a forward keeps in
    attributes, such as tables of positions, may be of a transformation that is over by then: so
    attributes, modes and hooks are restored, after an error and an interruption too.

    Parameters
    ----------
    model : object
        Whatever a user gave; nothing is kept of what is no module.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    kept = [(vars(one), dict(vars(one)), _contents(one)) for one in modules]
    devices = {"cpu", *(one.device.type for module in modules for one in module.parameters())}
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in filter(torch.amp.is_autocast_available, devices):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for now, before, contents in kept:
            for name, content in contents.items():
                before[name].clear()
                before[name].update(content)
            now.clear()
            now.update(before)


def _contents(module: nn.Module) -> dict[str, dict[Any, Any]]:
    """Copies of the tables of parameters, buffers, parts and hooks that a module keeps."""
    return {name: dict(one) for name, one in vars(module).items() if isinstance(one, dict)}


def _random_state(device: torch.device) -> Tensor:
    """Of PyTorch's global generators that a pass may draw from."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state

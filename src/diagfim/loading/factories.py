"""A network from the Python function that makes it."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from diagfim.errors import UserError


def build_model(factory: str) -> nn.Module:
    """Call the function that makes a network.

    Parameters
    ----------
    factory : str
        ``path/to/my_model.py:build`` or ``package.module:build``.  The function takes no arguments
        and returns the network; a class that needs none will do.  While it runs, the folder of the
        file, or the current one for a module, is on Python's path, so that the code may import its
        neighbours.

    Returns
    -------
    torch.nn.Module
        In eval mode, with whatever weights the function left in it.

    Raises
    ------
    UserError
        If there is no such file, module or function, it fails, or it returns something else.

    Examples
    --------
    >>> from diagfim.loading import build_model
    >>> build_model("torch.nn:Identity")
    Identity()
    >>> build_model("torch.nn:Identify")
    Traceback (most recent call last):
    diagfim.errors.UserError: torch.nn:Identify: no 'Identify' in torch.nn; did you mean 'Identity'?
    """
    place, colon, name = factory.rpartition(":")
    if not (colon and place and name):
        raise UserError(
            f"{factory}: names no function; write the file, a colon and the function, such as "
            "my_model.py:build"
        )
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    with _importable(Path(place).resolve().parent if is_file else Path.cwd()):
        module = _import_file(Path(place)) if is_file else _import_module(place)
        function = _function(factory, module, place, name)
        try:
            model = function()
        except (Exception, SystemExit) as error:
            raise UserError(f"{factory}: it failed: {_told(error)}") from None
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{factory}: it returned a {type(model).__name__}; expected a torch.nn.Module"
        )
    return model.eval()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, which hides no other module."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the Python file of the network")
    name = f"diagfim_factory_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the module look for it under its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path}: it cannot be imported: {_told(error)}") from None
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
            hint = "; install it, or name a file: path/to/my_model.py:build"
        raise UserError(f"{name}: it cannot be imported: {_told(error)}{hint}") from None


def _function(factory: str, module: ModuleType, place: str, name: str) -> Callable[[], Any]:
    """The function of that name, if it can be called without arguments."""
    found: Callable[[], Any] | None = getattr(module, name, None)
    if found is None:
        raise UserError(f"{factory}: no {name!r} in {place}; {_instead(module, name)}")
    if not callable(found) or isinstance(found, nn.Module):
        raise UserError(
            f"{factory}: {name} is a {type(found).__name__}, not a function; write one that "
            f"returns the network, def build(): return {name}"
        )
    try:
        signature = inspect.signature(found)
    except ValueError:  # some functions in C tell nothing
        return found
    needed = [
        one.name
        for one in signature.parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise UserError(
            f"{factory}: {name} needs the arguments {', '.join(needed)}; give them defaults, or "
            "name a function that takes none"
        )
    return found


def _instead(module: ModuleType, name: str) -> str:
    public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    if close := get_close_matches(name, public, 1):
        return f"did you mean {close[0]!r}?"
    own = [key for key in public if getattr(module, key).__module__ == module.__name__]
    return f"it has {', '.join(own)}" if own else "it defines no function at all"


def _told(error: BaseException) -> str:
    """An exception of somebody else's code in a line, with the place in it."""
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    # What the user wrote, not the inside of the library that complained about it.
    own = [one for one in places if "site-packages" not in one.filename] or places
    own = [one for one in own if not one.filename.startswith(_STANDARD)] or own
    return f"{said} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else said


_STANDARD = str(Path(os.__file__).parent)

"""What the commands of ``diagfim`` hand over: tables, strict JSON and netCDF files."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diagfim.errors import UserError
from diagfim.whole import whole


@dataclass(frozen=True)
class Report:
    """The result of a command.

    Attributes
    ----------
    text : str
        For people.
    content : dict
        The same for programs.
    tree : xarray.DataTree or None
        Every parameter's values, where ``--output`` writes them.
    passed : bool
        False where something was checked and found wrong.
    """

    text: str
    content: dict[str, Any]
    tree: xr.DataTree | None = None
    passed: bool = True

    def json(self) -> str:
        """The content as JSON by RFC 8259, which knows neither NaN nor infinity: they are null."""
        return json.dumps(plain(self.content), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """A value with Python's own types only, and None for numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.cli.output import plain
    >>> plain({"draws": np.float64("inf"), "sizes": (np.int64(3), 4.0)})
    {'draws': None, 'sizes': [3, 4.0]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(frame: pd.DataFrame, digits: str = ".3g") -> str:
    """A frame with the names of its rows on the left, and floats in a format.

    Examples
    --------
    >>> import pandas as pd
    >>> from diagfim.cli.output import table
    >>> layers = pd.Index(["0", "2"], name="layer")
    >>> print(table(pd.DataFrame({"fisher": [1 / 3, 1e-9]}, index=layers)))
    layer  fisher
        0   0.333
        2   1e-09
    """
    return frame.reset_index().to_string(index=False, float_format=f"{{:{digits}}}".format)


def check_target(path: Path, sources: Sequence[Path | None]) -> None:
    """Find out before the work that a file cannot, or should not, be written after it.

    Raises
    ------
    UserError
        If its folder is missing or may not be written to, or it is one of the sources.
    """
    if any(one is not None and one.resolve() == path.resolve() for one in sources):
        raise UserError(f"--output: {path} is what is read; give the name of another file")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise UserError(f"--output: {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output: {path}: you may not write into {path.parent}")


def write(tree: xr.DataTree, path: Path) -> None:
    """Write a netCDF-4 file, whole or not at all.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    with whole(path) as partial:
        tree.to_netcdf(partial, engine="netcdf4")

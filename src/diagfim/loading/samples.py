"""Inputs in a file or a folder, and their labels, read a piece at a time."""

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch
from torch import Tensor

from diagfim.errors import UserError


class Samples(ABC):
    """Inputs in a file or a folder, with their labels if it has any, read when they are wanted.

    Attributes
    ----------
    path : pathlib.Path
    labelled : bool
        Whether there are labels.
    classes : tuple of str
        Names of the labels, where they are known.
    """

    labelled: bool
    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, scale: "_Scale | None") -> None:
        self.path = path
        self._scale = scale

    @abstractmethod
    def __len__(self) -> int:
        """The number of inputs."""

    @abstractmethod
    def _inputs(self, positions: Sequence[int]) -> np.ndarray:
        """Inputs (n, ...) as they are stored."""

    @abstractmethod
    def _labels(self, positions: Sequence[int]) -> np.ndarray | None:
        """Their labels as they are stored, if there are any."""

    def take(self, positions: Sequence[int]) -> Tensor:
        """Inputs at some positions: (n, ...).

        Raises
        ------
        UserError
            If a position does not exist, or what is there cannot be read or is not finite.
        """
        self._check(positions)
        values = _numbers(self.path, "inputs", self._inputs(positions))
        self._check_finite("inputs", values, positions)
        if self._scale is not None:
            values = self._scale(self.path, values)
        return _tensor(values)

    def labels(self, positions: Sequence[int] | None = None) -> Tensor | None:
        """Labels at some positions, by default all, (n,) or (n, T); None if there are none."""
        positions = range(len(self)) if positions is None else positions
        self._check(positions)
        found = self._labels(positions)
        if found is None:
            return None
        values = _numbers(self.path, "labels", found)
        self._check_finite("labels", values, positions)
        return _tensor(values)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> "Batches":
        """The inputs from `start` on and before `stop`, in pieces of a size.

        Raises
        ------
        UserError
            If there are not as many.
        """
        end = len(self) if stop is None else stop
        if not 0 <= start < end <= len(self) or size < 1:
            raise UserError(
                f"{self.path}: inputs {start} to {end} by {size} were asked for; it has {len(self)}"
            )
        return Batches(self, size, start, end)

    def _check(self, positions: Sequence[int]) -> None:
        if not len(positions):
            raise UserError(f"{self.path}: no position was given; it has 0 to {len(self) - 1}")
        for one in positions:
            if not 0 <= one < len(self):
                raise UserError(f"{self.path}: it has {len(self)} inputs, and none at {one}")

    def _check_finite(self, kind: str, values: np.ndarray, positions: Sequence[int]) -> None:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{self.path}: {kind}[{positions[int(finite.argmin())]}] holds NaN or infinity; "
                "leave it out or mend it"
            )


@dataclass(frozen=True)
class Batches:
    """Consecutive samples in pieces; every loop over them reads them anew.

    Attributes
    ----------
    samples : Samples
    size : int
        Of a piece; the last one may be smaller.
    start, stop : int
        Positions of the first sample, and of the one after the last.
    """

    samples: Samples
    size: int
    start: int
    stop: int

    @property
    def total(self) -> int:
        """The number of samples, which a progress bar wants to know."""
        return self.stop - self.start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the inputs (n, ...) and the labels (n, ...) or None."""
        for first in range(self.start, self.stop, self.size):
            positions = range(first, min(first + self.size, self.stop))
            yield self.samples.take(positions), self.samples.labels(positions)


def open_data(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Samples:
    """Open inputs that lie in a file or a folder.

    =================  ==========================================================================
    ``.npz``           arrays ``inputs`` (n, ...) and, if there are any, ``labels`` (n,) or (n, T)
    ``.nc``, ``.nc4``  variables of the same names; read a piece at a time
    a folder           images, or a folder of them for every class; the classes in the order of
                       their names are the labels 0, 1, ...; RGB, (3, height, width), in [0, 1]
    =================  ==========================================================================

    A file with a single array or variable needs no name for it.  Floating-point numbers stay what
    they are, and integers become int64, which embeddings want.  Images in arrays of 8 bits are
    scaled as those of a folder are if `mean` or `std` is given (0 and 1 do nothing else), since
    such an array may as well hold the bytes of a text.

    Parameters
    ----------
    path : path
    size : int or (int, int), optional
        Height and width to which images of a folder are stretched, with an antialiasing bilinear
        filter and without cropping; needed where they are not all of one size.
    mean, std : float or sequence of float, optional
        Subtracted, and then divided by, one for each channel (the axis after that of the samples)
        or one for all.

    Returns
    -------
    Samples

    Raises
    ------
    UserError
        If the path is missing or of no known kind, an array is missing or not of numbers, or the
        labels are not as many as the inputs.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from diagfim.loading import open_data
    >>> path = tempfile.mkdtemp() + "/test.npz"
    >>> np.savez(path, inputs=np.zeros((5, 3), np.float32), labels=np.arange(5))
    >>> samples = open_data(path)
    >>> [(tuple(x.shape), y.tolist()) for x, y in samples.batches(4)]
    [((4, 3), [0, 1, 2, 3]), ((1, 3), [4])]
    """
    path = Path(path)
    scale = None if mean is None and std is None else _scale(mean, std)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; give {_KNOWN}")
    if path.is_dir():
        return Images(path, scale, _size(size))
    kind = _FILES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: of no known kind; give {_KNOWN}")
    if size is not None:
        raise UserError(f"size: {path} is no folder of images; leave it out")
    return kind(path, scale)


_KNOWN = "a .npz file, a netCDF file (.nc) or a folder of images"


_UNREADABLE = (
    *(OSError, EOFError, ValueError, zipfile.BadZipFile),
    *(MemoryError, OverflowError),  # more numbers than there can be
    RuntimeError,  # encrypted, or compressed in a way that is unknown
)


class Arrays(Samples):
    """The arrays of a ``.npz`` file, in memory."""

    def __init__(self, path: Path, scale: "_Scale | None") -> None:
        super().__init__(path, scale)
        try:
            with np.load(path, allow_pickle=False) as file:
                if isinstance(file, np.ndarray):  # a .npy file by the name of .npz
                    self._values, self._targets = file, None
                else:
                    inputs, labels = _names(path, file.files)
                    self._values = file[inputs]
                    self._targets = None if labels is None else file[labels]
        except _UNREADABLE as error:
            if isinstance(error, UserError):
                raise
            if "pickle" in str(error):
                raise UserError(
                    f"{path}: holds pickled objects, which are never opened; save arrays of "
                    "numbers with numpy.savez"
                ) from None
            raise UserError(f"{path}: not a readable .npz file ({error})") from None
        _check_arrays(self.path, self._values, self._targets)
        self.labelled = self._targets is not None

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self._values)

    def _inputs(self, positions: Sequence[int]) -> np.ndarray:
        return np.asarray(self._values[_index(positions)])

    def _labels(self, positions: Sequence[int]) -> np.ndarray | None:
        return None if self._targets is None else np.asarray(self._targets[_index(positions)])


class Variables(Samples):
    """The variables of a netCDF file, read when they are wanted."""

    def __init__(self, path: Path, scale: "_Scale | None") -> None:
        super().__init__(path, scale)
        try:
            self._file = netCDF4.Dataset(path)
        except OSError as error:
            raise UserError(f"{path}: not a readable netCDF file ({error})") from None
        variables = self._file.variables
        coordinates = set(self._file.dimensions)
        inputs, labels = _names(path, [name for name in variables if name not in coordinates])
        self._values = variables[inputs]
        self._targets = None if labels is None else variables[labels]
        _check_arrays(self.path, self._values, self._targets)
        self.labelled = self._targets is not None

    def __len__(self) -> int:
        """The number of inputs."""
        return int(self._values.shape[0])

    def _inputs(self, positions: Sequence[int]) -> np.ndarray:
        return self._slice("inputs", self._values, positions)

    def _labels(self, positions: Sequence[int]) -> np.ndarray | None:
        if self._targets is None:
            return None
        return self._slice("labels", self._targets, positions)

    def _slice(self, kind: str, variable: Any, positions: Sequence[int]) -> np.ndarray:
        """Values at some positions, of which runs are read in one go."""
        try:
            parts = [np.ma.asarray(variable[start:stop]) for start, stop in _runs(positions)]
        except (OSError, RuntimeError) as error:
            raise UserError(f"{self.path}: its {kind} cannot be read ({error})") from None
        masks = np.concatenate([np.ma.getmaskarray(part) for part in parts])
        missing = masks.reshape(len(masks), -1).any(axis=1)
        if missing.any():
            raise UserError(
                f"{self.path}: {kind}[{positions[int(missing.argmax())]}] has missing values; "
                "leave it out or fill them in"
            )
        return np.concatenate([part.data for part in parts])


_FILES: dict[str, type[Arrays] | type[Variables]] = {
    ".npz": Arrays,
    ".nc": Variables,
    ".nc4": Variables,
}

IMAGES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Endings of images; other files in a folder are passed over."""


class Images(Samples):
    """The images of a folder, in the order of their names, or of a folder for every class."""

    def __init__(self, path: Path, scale: "_Scale | None", size: tuple[int, int] | None) -> None:
        super().__init__(path, scale)
        self._open = _pillow(path)
        self._size = size
        self._files = _images(path)
        self._classes: list[int] = []
        folders = sorted(one for one in path.iterdir() if one.is_dir() and one.name[0] != ".")
        if folders and self._files:
            raise UserError(
                f"{path}: holds images and folders both; put every image into the folder of its "
                "class, or none"
            )
        if folders:
            by_class = {one.name: _images(one) for one in folders}
            for name, files in by_class.items():
                if not files:
                    raise UserError(f"{path / name}: no image in it; remove the folder or fill it")
            self.classes = tuple(by_class)
            self._files = [one for files in by_class.values() for one in files]
            self._classes = [k for k, files in enumerate(by_class.values()) for _ in files]
        self.labelled = bool(folders)
        if not self._files:
            raise UserError(f"{path}: no image in it; expected {', '.join(sorted(IMAGES))}")

    def __len__(self) -> int:
        """The number of images."""
        return len(self._files)

    def _inputs(self, positions: Sequence[int]) -> np.ndarray:
        images = [self._image(self._files[one]) for one in positions]
        return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)

    def _labels(self, positions: Sequence[int]) -> np.ndarray | None:
        if not self.labelled:
            return None
        return np.array([self._classes[one] for one in positions], dtype=np.int64)

    def _image(self, path: Path) -> np.ndarray:
        """An image as (height, width, 3) bytes."""
        values = self._open(path, self._size)
        if self._size is None and values.shape != self._shape:
            raise UserError(
                f"{path}: an image of {_text(values.shape)}, but the first one is of "
                f"{_text(self._shape)}; pass size= (--size) to stretch all to one"
            )
        return values

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """Height and width of the first image, and so of all, and its channels."""
        return self._open(self._files[0], None).shape


def _text(shape: Sequence[int]) -> str:
    return f"{shape[0]} by {shape[1]} pixels"


def _images(folder: Path) -> list[Path]:
    return sorted(
        one
        for one in folder.iterdir()
        if one.suffix.lower() in IMAGES and one.name[0] != "." and one.is_file()
    )


def _pillow(folder: Path) -> Callable[[Path, tuple[int, int] | None], np.ndarray]:
    """A reader of images as bytes (height, width, 3), stretched if a size is given."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError(
            f"{folder}: images need Pillow, which is not installed: pip install 'diagfim[images]'"
        ) from None

    def read(path: Path, size: tuple[int, int] | None) -> np.ndarray:
        try:
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise UserError(
                        f"{path}: pixels of more than 8 bits (mode {file.mode}); convert the image "
                        "to 8 bits, or put the values into a .npz or netCDF file"
                    )
                image = file.convert("RGB")
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not a readable image ({error})") from None
        if size is not None:
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(image)

    return read


@dataclass(frozen=True)
class _Scale:
    """(x − mean) / std by channel, of what is in [0, 1] if it came in 8 bits."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, path: Path, values: np.ndarray) -> np.ndarray:
        if values.dtype == np.uint8:
            values = values.astype(np.float32) / np.float32(255)
        if values.dtype.kind != "f":
            raise UserError(
                f"mean, std: {path} holds {values.dtype}; they are for floating-point numbers and "
                "for bytes"
            )
        mean = self._fit("mean", self.mean, path, values)
        std = self._fit("std", self.std, path, values)
        return np.asarray((values - mean) / std)

    @staticmethod
    def _fit(key: str, given: tuple[float, ...], path: Path, values: np.ndarray) -> np.ndarray:
        channels = values.shape[1] if values.ndim > 1 else 1
        if len(given) not in (1, channels):
            raise UserError(
                f"{key}: {len(given)} values for the {channels} channels of {path}; give one for "
                "each, or one for all"
            )
        shape = (-1, *(1 for _ in values.shape[2:])) if values.ndim > 1 else (-1,)
        return np.array(given, dtype=values.dtype).reshape(shape)


def _scale(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> _Scale:
    means, stds = (
        tuple(map(float, np.atleast_1d(default if one is None else one)))
        for one, default in ((mean, 0.0), (std, 1.0))
    )
    if not np.all(np.isfinite(means)):
        raise UserError(f"mean: {mean} is not finite; give the means of the channels in [0, 1]")
    if not (np.all(np.isfinite(stds)) and min(stds) > 0):
        raise UserError(f"std: {std} is not positive; give the deviations of the channels")
    return _Scale(means, stds)


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UserError(f"size: {size} is not positive; give the height and width in pixels")
    return height, width


def _names(path: Path, found: Sequence[str]) -> tuple[str, str | None]:
    """The names of the inputs and of the labels among those of a file."""
    if "inputs" in found:
        return "inputs", "labels" if "labels" in found else None
    if len(found) == 1 and found[0] != "labels":
        return found[0], None
    raise UserError(
        f"{path}: no array named 'inputs'; it has {', '.join(map(repr, found)) or 'none at all'}"
    )


def _check_arrays(path: Path, inputs: Any, labels: Any) -> None:
    """Look at the dtypes and shapes of what a file holds, before anything is read."""
    for kind, array in (("inputs", inputs), ("labels", labels)):
        if array is None:
            continue
        if not isinstance(array.dtype, np.dtype) or array.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: its {kind} are of dtype {array.dtype}; expected floating-point numbers "
                "or integers"
            )
        if not array.shape:
            raise UserError(f"{path}: its {kind} are a single number; expected an array (n, ...)")
    if not inputs.shape[0]:
        raise UserError(f"{path}: no input in it; give at least one")
    if labels is not None and labels.shape[0] != inputs.shape[0]:
        raise UserError(
            f"{path}: {labels.shape[0]} labels beside {inputs.shape[0]} inputs; give one for each"
        )


def _numbers(path: Path, kind: str, values: np.ndarray) -> np.ndarray:
    """Values of a dtype that PyTorch computes with, bytes still as bytes."""
    if values.dtype.kind == "f":
        # Bytes the other way round, and longdouble, are unknown to PyTorch.
        return values.astype(f"=f{min(values.dtype.itemsize, 8)}", copy=False)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise UserError(f"{path}: its {kind} hold integers beyond 64 bits with sign")
    return values.astype(np.int64, copy=False)


def _tensor(values: np.ndarray) -> Tensor:
    if values.dtype == np.uint8:
        values = values.astype(np.int64)
    # A copy, for the file's own memory may be read-only or may be kept.
    return torch.from_numpy(np.array(values, order="C"))


def _index(positions: Sequence[int]) -> slice | list[int]:
    """Positions as NumPy takes them at least cost."""
    if isinstance(positions, range) and positions.step == 1:
        return slice(positions.start, positions.stop)
    return list(positions)


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last plus one of the runs of consecutive positions."""
    if isinstance(positions, range) and positions.step == 1:
        if positions:
            yield positions.start, positions.stop
        return
    start = stop = None
    for one in positions:
        if one != stop:
            if start is not None and stop is not None:
                yield start, stop
            start = one
        stop = one + 1
    if start is not None and stop is not None:
        yield start, stop

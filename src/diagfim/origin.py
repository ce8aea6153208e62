"""What a file says of where it comes from: program, seed, packages, kind of machine."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diagfim import __version__

PACKAGES = (
    "matplotlib",
    "netCDF4",
    "numpy",
    "safetensors",
    "scipy",
    "snakemake",
    "torch",
    "torchvision",
    "xarray",
)
"""Those that numbers or files may depend on."""


def origin(commit: str = "unknown", seed: int | None = None) -> dict[str, str]:
    """Where what this process computes comes from, as attributes of a file.

    Nothing in it tells who ran the program, on which machine or when: equal settings on machines of
    one kind give equal files.

    Parameters
    ----------
    commit : str
        Version-control revision of the code.
    seed : int, optional
        Root of the random streams.

    Returns
    -------
    dict of str to str
        "source" (program, version and revision), "seed" if there is one, "packages" and "host".

    Examples
    --------
    >>> from diagfim.origin import origin
    >>> list(origin("1f34d85", seed=7))
    ['source', 'seed', 'packages', 'host']
    """
    return {
        "source": f"diagfim {__version__}, commit {commit}",
        **({} if seed is None else {"seed": str(seed)}),
        "packages": packages(),
        "host": host(),
    }


@cache
def packages() -> str:
    """Names and versions of those of `PACKAGES` that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def host() -> str:
    """The kind of machine: system, processor, Python."""
    kind = f"{platform.system()} {platform.machine()}"
    return f"{kind}, {processor()}, Python {platform.python_version()}"


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Keys of the configuration that are valid each, but not together, or not with the files there are.

Every one of them would break a job, some after hours, or give a result a meaning that it has not.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from archives import archives_in
from lines import shown

Settings = Mapping[str, Any]

OWN = frozenset(
    {
        ".ci",
        ".git",
        ".github",
        ".snakemake",
        ".venv",
        "benchmarks",
        "build",
        "config",
        "dist",
        "docs",
    }
    | {"examples", "logs", "paper", "profiles", "resources", "src", "tests", "workflow"}
)
"""Folders of the project that are not for results."""

TRAIN, TEST = 60_000, 10_000
"""Images of every data set in the MNIST format."""
CLASSES = 10

MOST_FILES = 500_000
"""Files that the training may write; planning takes a second for some thousands."""
MOST_BYTES = 2**33
"""Memory that joint draws may take, which `diagfim.repetitions` refuses to exceed."""
MOST_NUMBERS = 500_000_000
"""Numbers that an experiment may hold at once: 4 GB."""


def contradictions(config: Settings) -> Iterator[str]:
    """Lines about a configuration that the schema has nothing against."""
    yield from _of_results(config["results"])
    yield from _of_datasets(config["datasets"])
    yield from _of_networks(config)
    yield from _of_draws(config)
    yield from _of_epochs(config)
    yield from _of_batches(config)
    for name, settings in config["experiments"].items():
        for index, dataset in enumerate(settings.get("datasets", ())):
            key = f"experiments.{name}.datasets[{index}]"
            yield from _unknown_dataset(key, dataset, config["datasets"])
        if settings["enabled"] and name in _OF_EXPERIMENTS:
            yield from _OF_EXPERIMENTS[name](f"experiments.{name}", settings)
    if config["experiments"]["empirical"]["enabled"] and config["training"]["optimiser"] != "adam":
        yield (
            f"config: training.optimiser is '{config['training']['optimiser']}', but "
            "experiments.empirical looks at what Adam accumulates; train with adam or switch "
            "experiments.empirical.enabled to false"
        )


def weights_of(network: Settings) -> list[str]:
    """Files of the weights of a user's own network, by stage."""
    weights: str | list[str] = network["weights"]
    return [weights] if isinstance(weights, str) else weights


# -------------------------------------------------------------------------------- files and folders


def _of_results(results: str) -> Iterator[str]:
    here = Path.cwd()
    place = Path(os.path.realpath(results))
    if place.is_relative_to(here):
        first = next(iter(place.relative_to(here).parts), "")
        # Some file systems do not tell the case.
        if not first or first.casefold() in OWN:
            yield (
                f"config: results is '{results}', which belongs to the project itself; name "
                "another folder, such as results/mine"
            )
            return
    for folder in (Path(results), *Path(results).parents):
        if os.path.lexists(folder) and not os.path.isdir(folder):
            yield (
                f"config: results is '{results}', but {folder} is no folder seen from {here}; "
                "name another one, or mend the link"
            )


def _of_datasets(datasets: Settings) -> Iterator[str]:
    yield from _alike("datasets", datasets)
    for name, one in datasets.items():
        if one["root"] is None:
            continue
        missing = [path for path in archives_in(one["root"]) if not Path(path).is_file()]
        if missing:
            yield (
                f"config: datasets.{name}.root is '{one['root']}', and seen from {Path.cwd()} "
                f"there is no {missing[0]}; put the four .gz files there, change the folder, or "
                "write null to download them"
            )


def _unknown_dataset(place: str, name: str, datasets: Settings) -> Iterator[str]:
    if name not in datasets:
        yield (
            f"config: {place} is {shown(name)}, expected a name under datasets "
            f"({_listed(datasets)}); add the data set or change the name"
        )


def _missing_files(name: str, network: Settings) -> Iterator[str]:
    kinds = {
        "factory": ([network["factory"].rpartition(":")[0]], Path.is_file),
        "weights": (weights_of(network), Path.is_file),
        "data": ([network["data"]], Path.exists),
    }
    for key, (paths, there) in kinds.items():
        for path in paths:
            if not there(Path(path)):
                yield (
                    f"config: networks.{name}.{key} names {path}, and there is no such file seen "
                    f"from {Path.cwd()}; change the name or put the file there"
                )


# ----------------------------------------------------------------------------------------- networks


def _of_networks(config: Settings) -> Iterator[str]:
    networks = {name: one for name, one in config["networks"].items() if one}
    trained = {name: one for name, one in networks.items() if "factory" not in one}
    if not networks:
        yield "config: networks are all null, expected one at least; name a network to study"
    yield from _alike("networks", networks)
    for name, network in networks.items():
        if name not in trained:
            yield from _missing_files(name, network)
            yield from _uneven_channels(name, network.get("images", {}))
            continue
        place = f"networks.{name}.dataset"
        yield from _unknown_dataset(place, network["dataset"], config["datasets"])
        if network["test_set"]:
            yield from _too_large_pool(name, network, config["joint"]["pool"])
    if not trained:
        for name in ("population", "empirical"):
            if config["experiments"][name]["enabled"]:
                yield _untrained(f"experiments.{name}")
        if config["benchmark"]["enabled"]:
            yield _untrained("benchmark")
    epochs, replicates = config["training"]["epochs"], config["replicates"]
    # Weights and what Adam accumulates, after every epoch.
    files = 2 * (epochs + 1) * replicates * len(trained)
    if files > MOST_FILES:
        yield (
            f"config: training.epochs is {epochs}, which makes {files:,} files at {replicates:,} "
            f"replicates of {len(trained):,} networks, expected {MOST_FILES:,} at most; train for "
            "fewer epochs, or split the study"
        )


def _untrained(section: str) -> str:
    return (
        f"config: {section}.enabled is True, but no network is trained here, and it looks at one "
        "that is; switch it to false or keep a network without a factory"
    )


def _uneven_channels(name: str, images: Settings) -> Iterator[str]:
    sizes = {key: len(images[key]) for key in ("mean", "std") if isinstance(images.get(key), list)}
    if len(set(sizes.values())) > 1:
        yield (
            f"config: networks.{name}.images.std has {sizes['std']} entries, but mean has "
            f"{sizes['mean']}; write one for every channel in both"
        )


def _too_large_pool(name: str, network: Settings, pool: int) -> Iterator[str]:
    """What `diagfim.repetitions` would refuse once the network is trained."""
    units = sum(network["hidden"]) + CLASSES
    size = 2 * 8 * pool * CLASSES * units
    if size > MOST_BYTES:
        yield (
            f"config: joint.pool is {pool}, which takes {size / 1e9:.1f} GB at {CLASSES} outputs × "
            f"{units:,} units of networks.{name}, expected {MOST_BYTES / 1e9:.1f} at most; take a "
            "smaller pool, or switch test_set of the network to false"
        )


def _alike(section: str, names: Iterable[str]) -> Iterator[str]:
    """Names that a file system without upper and lower case takes for one."""
    by_folded = defaultdict(list)
    for name in names:
        by_folded[name.casefold()].append(name)
    for same in by_folded.values():
        if len(same) > 1:
            yield (
                f"config: {section} has the names {', '.join(same)}, which some file systems take "
                "for one; let them differ by more than upper and lower case"
            )


# --------------------------------------------------------------------------------- draws and epochs


def _of_draws(config: Settings) -> Iterator[str]:
    for section in ("fixed", "joint"):
        recorded, draws = config[section]["recorded_draws"], config[section]["draws"]
        yield from _not_ascending(f"{section}.draws", draws)
        if recorded not in draws:
            yield (
                f"config: {section}.recorded_draws is {recorded}, expected one of {section}.draws "
                f"({_listed(draws)}); add it there or change it"
            )


def _of_epochs(config: Settings) -> Iterator[str]:
    last = config["training"]["epochs"]
    experiments = config["experiments"]
    looked_at = {"joint": config["joint"]["epochs"]} | {
        f"experiments.{name}": experiments[name]["epochs"]
        for name in ("population", "empirical")
        if experiments[name]["enabled"]
    }
    for name, epochs in looked_at.items():
        yield from _not_ascending(f"{name}.epochs", epochs)
        for epoch in epochs:
            if epoch > last:
                yield (
                    f"config: {name}.epochs holds {epoch}, expected at most training.epochs = "
                    f"{last}; train longer or drop it"
                )


def _not_ascending(key: str, values: list[float]) -> Iterator[str]:
    """Where the last one is taken for the greatest."""
    if values != sorted(values):
        yield (
            f"config: {key} is {shown(values)}, expected ascending numbers; write "
            f"{shown(sorted(values))}"
        )


def _of_batches(config: Settings) -> Iterator[str]:
    sections = {"training": config["training"]} | {
        f"experiments.{name}": config["experiments"][name]
        for name in ("regression", "landscape", "descent")
        if config["experiments"][name]["enabled"]
    }
    for place, one in sections.items():
        yield from _above(place, one, "batch_size", "samples")


# -------------------------------------------------------------------------------------- experiments


def _above(place: str, settings: Settings, key: str, other: str) -> Iterator[str]:
    """Where a part is greater than what it is taken from, which would cut it in silence."""
    if settings[key] > settings[other]:
        yield (
            f"config: {place}.{key} is {settings[key]}, expected at most {place}.{other} = "
            f"{settings[other]}; lower it, or raise the other"
        )


def _not_among(place: str, settings: Settings, key: str, value: float, among: str) -> Iterator[str]:
    if value not in settings[among]:
        yield (
            f"config: {place}.{key} is {value}, expected one of {place}.{among} "
            f"({_listed(settings[among])}); add it there or change it"
        )


def _too_many(place: str, settings: Settings, key: str, numbers: int, others: str) -> Iterator[str]:
    if numbers > MOST_NUMBERS:
        yield (
            f"config: {place}.{key} is {settings[key]}, which makes {numbers:,} numbers at once "
            f"with {others}, expected {MOST_NUMBERS:,} at most; lower one of them"
        )


def _toy(place: str, settings: Settings) -> Iterator[str]:
    points, batch = settings["training_points"], settings["batch"]
    if points % batch:
        yield (
            f"config: {place}.training_points is {points}, expected a multiple of {place}.batch = "
            f"{batch}; change either"
        )
    yield from _not_among(place, settings, "damping", settings["damping"], "dampings")
    yield from _not_ascending(f"{place}.dampings", settings["dampings"])
    starts = settings["starts"]
    # Figures know a start by its label.
    if len({f"{first:g} {second:g}" for first, second in starts}) < len(starts):
        yield (
            f"config: {place}.starts is {shown(starts)}, expected starts that differ in the first "
            "six digits; drop one"
        )
    steps = settings["training_epochs"] * points // batch
    # Two coordinates of three estimators at every step, damping and start.
    numbers = 6 * steps * len(settings["dampings"]) * len(starts)
    others = "training_points / batch, dampings and starts"
    yield from _too_many(place, settings, "training_epochs", numbers, others)


def _regression(place: str, settings: Settings) -> Iterator[str]:
    yield from _above(place, settings, "inputs", "pool")
    yield from _not_ascending(f"{place}.noise", settings["noise"])
    numbers = 2 * settings["inputs"] * settings["repetitions"] * settings["draws"]
    yield from _too_many(place, settings, "repetitions", numbers, "inputs and draws")


def _population(place: str, settings: Settings) -> Iterator[str]:
    yield from _above(place, settings, "tightness_inputs", "inputs")


def _landscape(place: str, settings: Settings) -> Iterator[str]:
    for key in ("depth", "width"):
        yield from _not_among(place, settings, f"base.{key}", settings["base"][key], f"{key}s")
    if len(set(settings["activations"]) - {"relu"}) < 2:
        yield (
            f"config: {place}.activations is {shown(settings['activations'])}, expected two others "
            "than relu, which are compared; add one"
        )
    if max(settings["stages"]) < 1:
        yield (
            f"config: {place}.stages is {shown(settings['stages'])}, expected an epoch after the "
            "initialisation, 0; add one"
        )
    parts = {f"{part}.inputs": settings[part]["inputs"] for part in ("lenet", "kinks")}
    for key in parts:
        yield from _above(place, {**settings, **parts}, key, "inputs")
    yield from _not_ascending(f"{place}.kinks.betas", settings["kinks"]["betas"])


def _descent(place: str, settings: Settings) -> Iterator[str]:
    wanted = settings["samples"] + settings["validation"]
    if wanted > TRAIN:
        yield (
            f"config: {place}.validation is {settings['validation']}, expected at most {TRAIN:,} "
            f"training images less {place}.samples = {settings['samples']}; lower either"
        )


def _continual(place: str, settings: Settings) -> Iterator[str]:
    yield from _above(place, settings, "subset", "inputs")


_OF_EXPERIMENTS = {
    "toy": _toy,
    "regression": _regression,
    "population": _population,
    "landscape": _landscape,
    "descent": _descent,
    "continual": _continual,
}


def _listed(values: Iterable[Any]) -> str:
    """Some values, the first ones of many."""
    texts = list(map(str, values))
    return ", ".join(texts[:12]) + (", ..." if len(texts) > 12 else "")

"""The results of a whole study, as the report prints them and the headlines sum them up."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diagfim import arrays, claims
from diagfim.claims import Claim, Datasets
from diagfim.report import EXPERIMENTS
from diagfim.report.networks import contents
from diagfim.report.theory import claims as theory_claims
from diagfim.report.theory import theory_table


@dataclass(frozen=True)
class Study:
    """What the sections of the report are made of.

    Attributes
    ----------
    datasets : dict of str to dict of str to Dataset
        The gathered comparisons, by network and kind.
    every : list of dict
        What is printed of each network.
    networks : list of dict
        Of those that have a section.
    experiments : dict of str to dict
        What is printed of each experiment that is switched on.
    theory : dict or None
        What is printed of the results of the paper on random cases; None where they were not tried.
    """

    datasets: dict[str, Datasets]
    every: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    experiments: dict[str, dict[str, Any]]
    theory: dict[str, Any] | None

    @property
    def verdicts(self) -> list[tuple[str, list[Claim]]]:
        """What became of the claims of the paper, by what decides them."""
        found = [(f"network {one['name']}", one["claims"]) for one in self.networks]
        trained = {
            one["name"]: self.datasets[one["name"]] for one in self.networks if not one["own"]
        }
        if len(trained) > 1:
            found.append(("across networks", [claims.tightness_by_activation(trained)]))
        found += [
            (f"experiment {name}", one["claims"])
            for name, one in self.experiments.items()
            if one["claims"]
        ]
        if self.theory:
            found.append(("theory", theory_claims(self.theory)))
        return found

    @property
    def counts(self) -> Counter[str]:
        """How many claims there are of each verdict."""
        return Counter(claim.verdict for _, some in self.verdicts for claim in some)


def read(
    summaries: Iterable[str],
    theory: Iterable[str],
    experiments: Iterable[str],
    settings: Mapping[str, Any],
) -> Study:
    """Read the results of a study.

    Parameters
    ----------
    summaries : iterable of str
        Files of the gathered comparisons, each named as its network.
    theory : iterable of str
        File of the random cases, or none where they were left out.
    experiments : iterable of str
        Files of the experiments that are switched on, each named as its experiment.
    settings : mapping
        "networks" and "experiments" of the configuration, "shown", the networks that have a
        section, and "fixed" and "joint" with their "recorded_draws".
    """
    datasets = arrays.groups_by_file(summaries)
    tried = None
    for path in theory:
        with arrays.read(path) as tree:
            tried = theory_table(tree)
    activations = {name: one.get("activation") for name, one in settings["networks"].items()}
    draws = {kind: settings[kind]["recorded_draws"] for kind in ("fixed", "joint")}
    every = [
        {**one, **settings["networks"][one["name"]]}
        for one in contents(datasets, draws, activations)
    ]
    return Study(
        datasets=datasets,
        every=every,
        networks=[one for one in every if one["name"] in settings["shown"]],
        experiments={
            name: {
                **settings["experiments"][name],
                **EXPERIMENTS[name].contents(groups),
                "claims": EXPERIMENTS[name].claims(groups),
            }
            for name, groups in arrays.groups_by_file(experiments).items()
        },
        theory=tried,
    )

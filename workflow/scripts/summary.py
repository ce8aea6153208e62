"""Gather the comparisons of all networks and replicates into one file."""

import xarray as xr
from _job import job

from diagfim import arrays

with job(snakemake) as this:
    groups = {}
    for network, replicates in snakemake.params.comparisons.items():
        trees = [arrays.read(path) for path in replicates]
        for kind in trees[0].children:
            parts = [tree[kind].to_dataset().load() for tree in trees]
            if kind == "fixed":
                # Every replicate has its own inputs: number them, and keep which they are.
                parts = [
                    part.assign_coords(position=("input", part["input"].values)).drop_vars("input")
                    for part in parts
                ]
            groups[f"{network}/{kind}"] = xr.concat(parts, dim="replicate")
        for tree in trees:
            tree.close()
    for network, paths in snakemake.params.spectra.items():
        parts = []
        for path in paths:
            with arrays.read(path) as tree:
                parts.append(tree.to_dataset().load().drop_attrs())
        groups[f"{network}/spectra"] = xr.concat(parts, dim="replicate")
    arrays.write(
        snakemake.output[0],
        groups,
        "Empirical against exact variances against bounds, all networks and replicates",
        {"networks": sorted(snakemake.params.comparisons)},
        this.about,
    )

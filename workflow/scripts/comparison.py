"""Empirical against exact against bound, for one replicate of a network."""

from _job import job

from diagfim import arrays
from diagfim.comparison import compare_fixed, compare_joint

with job(snakemake) as this:
    settings = snakemake.params.settings
    source = snakemake.input
    with (
        arrays.read(source.conditional) as moments,
        arrays.read(source.fixed) as estimates,
        arrays.read(source.bounds) as bounds,
    ):
        how = settings["fixed"]
        fixed = compare_fixed(moments, estimates, bounds, how["draws"], how["repetitions"])
    with arrays.read(source.history) as tree:
        history = tree.to_dataset().load()
    groups = {"history": history, "fixed": fixed}
    if hasattr(source, "joint"):
        with arrays.read(source.moments) as moments, arrays.read(source.joint) as estimates:
            how = settings["joint"]
            groups["joint"] = compare_joint(moments, estimates, how["draws"], how["repetitions"])
    arrays.write(
        snakemake.output[0],
        {name: group.drop_attrs() for name, group in groups.items()},
        "Empirical against exact variances against bounds",
        settings,
        this.about,
    )

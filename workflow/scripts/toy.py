"""Natural-gradient descent on the two-dimensional toy data of Figures 1 and I to IV."""

from _job import job

from diagfim import arrays
from diagfim.experiments import toy

with job(snakemake) as this:
    settings = snakemake.params.settings
    groups = toy.run(settings, int(snakemake.wildcards.replicate))
    last = groups["descent"]["negative_log_likelihood"].sel(reading="pass").isel(epoch=-1)
    for model in last["model"].values:
        values = ", ".join(
            f"{one.item()} {float(last.sel(model=model, estimator=one)):.4f}"
            for one in last["estimator"]
        )
        this.say(f"{model}: test loss {values}")
    arrays.write(
        snakemake.output[0],
        groups,
        "Natural-gradient descent on two-dimensional toy data",
        settings,
        this.about,
    )

# What a job asks a cluster for.

# Peak memory in MB, and seconds, of the largest job of its kind in config/config.yaml, two side by
# side on two cores.  A study has its own in benchmarks/*/*.tsv below its results.
PEAKS = {
    "dataset": (874, 9),
    "train": (1065, 45),
    "evaluate": (1065, 45),  # a forward pass instead of epochs, of any network
    "derivatives": (626, 5),
    "conditional_moments": (713, 5),
    "joint_moments": (772, 10),
    "fixed_estimates": (452, 5),
    "joint_estimates": (889, 21),
    "bounds": (224, 5),
    "spectra": (666, 23),
    "comparison": (667, 6),
    "summary": (120, 2),
    "theory": (716, 41),
    "toy": (347, 10),
    "regression": (1032, 11),
    "population": (773, 13),
    "landscape": (1115, 35),
    "frontier": (793, 11),
    "empirical": (833, 14),
    "descent": (675, 14),
    "continual": (1355, 39),
    "gather": (101, 2),
    "figure": (249, 16),
    "experiment_figure": (229, 8),
    "benchmark": (1759, 56),
    "tex": (1, 1),
    "report": (232, 4),
    "headlines": (178, 5),
    "tables": (260 + 2 * len(NETWORKS), 5 + len(NETWORKS) // 10),
    "explorer": (1020 + 4 * len(NETWORKS), 8 + len(NETWORKS) // 4),
}


def memory(name):
    """Resource function: half more than the peak, and 500 MB for Snakemake beside the job."""
    return lambda wildcards, attempt: (
        2 ** (attempt - 1) * (500 + 3 * PEAKS[name.format(wildcards=wildcards)][0] // 2)
    )


def minutes(name):
    """Resource function: four times as long, and a minute to start in; longer if that failed."""
    return lambda wildcards, attempt: (
        2 ** (attempt - 1) * (2 + 4 * PEAKS[name.format(wildcards=wildcards)][1] // 60)
    )

# Configuration, paths and code digests that every stage uses.

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "lib"))

import settings
from code_digest import digest

mistakes = settings.problems(
    config, Path(workflow.basedir) / "workflow" / "schemas" / "config.schema.yaml"
)
if mistakes:
    sys.exit("\n".join(mistakes))

RESULTS = config["results"]
NETWORKS = config["networks"]
REPLICATES = range(config["replicates"])
EPOCHS = range(config["training"]["epochs"] + 1)


wildcard_constraints:
    dataset="[A-Za-z0-9-]+",
    network="[A-Za-z0-9-]+",
    replicate="[0-9]+",
    epoch="[0-9]+",


# One folder per replicate of a network, one file per stage in it.
REPLICATE = f"{RESULTS}/networks/{{network}}/{{replicate}}"
CHECKPOINT = REPLICATE + "/checkpoints/epoch-{epoch}.safetensors"


def code(script):
    """Digest of a script and of all project code that it imports: reruns follow the formulas."""
    return digest(Path(workflow.basedir) / "workflow" / "scripts" / script)


def dataset_file(wildcards):
    return f"{RESULTS}/data/{NETWORKS[wildcards.network]['dataset']}.nc"


def checkpoints(epochs):
    return [CHECKPOINT.replace("{epoch}", str(epoch)) for epoch in epochs]


def of_network(**more):
    """Params function: the settings that the numbers of a network's job depend on."""
    return lambda wildcards: {
        "seed": config["seed"],
        "network": NETWORKS[wildcards.network],
        **more,
    }

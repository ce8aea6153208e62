# Configuration, paths and code digests that every stage uses.

import re

import closing
import progress
import settings
import yaml
from archives import MNIST_SHA256, archives_in
from code_digest import digest

SCHEMA = WORKFLOW / "schemas" / "config.schema.yaml"
if mistakes := settings.problems(config, SCHEMA):
    sys.exit("\n".join(mistakes))
in_order = settings.in_order(config, SCHEMA, Path(MAIN_CONFIG))
config.clear()
config.update(in_order)

STARTED = time.time()
# So that jobs end when this process is gone; one that a cluster runs has a Snakemake of its own.
os.environ.update(DIAGFIM_SNAKEMAKE=str(os.getpid()))
RESULTS = config["results"]
# A network that is null is left out.
NETWORKS = {name: one for name, one in config["networks"].items() if one}
OWN = {name: one for name, one in NETWORKS.items() if "factory" in one}
for one in OWN.values():
    one["weights"] = settings.weights_of(one)
TRAINED = [name for name in NETWORKS if name not in OWN]
REPLICATES = range(config["replicates"])
EPOCHS = range(config["training"]["epochs"] + 1)


# A name that the configuration has not makes no file, instead of a job that fails.
wildcard_constraints:
    dataset="|".join(config["datasets"]),
    network="|".join(NETWORKS),
    replicate="[0-9]+",
    epoch="[0-9]+",
    experiment="|".join(config["experiments"]),


# One folder per replicate of a network, one file per stage in it.
REPLICATE = f"{RESULTS}/networks/{{network}}/{{replicate}}"
SUMMARY = f"{RESULTS}/summaries/{{network}}.nc"
SUMMARIES = expand(SUMMARY, network=NETWORKS)
CHECKPOINT = f"{REPLICATE}/checkpoints/epoch-{{epoch}}.safetensors"
# What Adam has accumulated of the squared gradients by then, for the experiment that looks at it.
ACCUMULATOR = f"{REPLICATE}/accumulators/epoch-{{epoch}}.safetensors"


def code(script):
    """Params function: digest of a script and of all project code that it imports.

    So reruns follow the formulas.  A function, for every job is a process that reads all rules, and
    needs the digest of its own.
    """
    return lambda wildcards: digest(WORKFLOW / "scripts" / script)


def archives(wildcards):
    """The four files of a data set; none when torchvision is to download them."""
    root = config["datasets"][wildcards.dataset]["root"]
    return archives_in(root) if root else []


def inputs_at(network):
    """What a network is studied at: a data set of images, or a user's own data."""
    one = NETWORKS[network]
    return one["data"] if network in OWN else f"{RESULTS}/data/{one['dataset']}.nc"


def factory_at(network):
    """The file that a user's own network is written in, so that an edit reruns what rests on it."""
    return [NETWORKS[network]["factory"].rpartition(":")[0]] if network in OWN else []


def stages(network):
    """The stages of training that there are weights of, by number."""
    return range(len(NETWORKS[network]["weights"])) if network in OWN else EPOCHS


def joint_stages(network):
    return list(stages(network)) if network in OWN else config["joint"]["epochs"]


def last_stage(network):
    return [max(stages(network))]


def weights_at(network, replicate, some):
    """Files of the weights at some stages; a user's own are the same for every replicate."""
    if network in OWN:
        return [NETWORKS[network]["weights"][stage] for stage in some]
    return expand(CHECKPOINT, network=network, replicate=replicate, epoch=some)


def inputs_of(wildcards):
    return inputs_at(wildcards.network)


def factory_of(wildcards):
    return factory_at(wildcards.network)


def weights(some):
    """Input function: files of the weights at the stages that a function of a network names."""
    return lambda wildcards: weights_at(
        wildcards.network, wildcards.replicate, some(wildcards.network)
    )


def of_network(*, joint=False, **more):
    """Params function: the settings that the numbers of a network's job depend on."""
    return lambda wildcards: {
        "seed": config["seed"],
        "network": NETWORKS[wildcards.network],
        **({**JOINT, "epochs": joint_stages(wildcards.network)} if joint else {}),
        **more,
    }


def over_the_test_set(wildcards):
    """What the comparison of joint draws rests on, for the networks that have them."""
    if not NETWORKS[wildcards.network]["test_set"]:
        return {}
    return {
        "moments": rules.joint_moments.output[0],
        "joint": rules.joint_estimates.output[0],
    }


def figures_of(network):
    """A network that was not trained here has no history; at one stage, nothing to follow."""
    if network in TRAINED:
        return FIGURES
    followed = ["figure-2"] if len(stages(network)) > 1 else []
    return [*followed, "variance-against-draws"]


def of_replicates(name, network):
    """The files of a name, one of each replicate of a network."""
    return expand(f"{REPLICATE}/{name}.nc", network=network, replicate=REPLICATES)


def spectra_of(wildcards):
    """Those over the test set, of a network that is looked at there."""
    network = wildcards.network
    return of_replicates("spectra", network) if NETWORKS[network]["test_set"] else []


def replicates_together():
    """How many replicates of networks the profile for Slurm submits as one job."""
    path = WORKFLOW / "profiles" / "slurm" / "config.yaml"
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    components = dict(pair.split("=") for pair in profile.get("group-components") or [])
    return int(components.get("replicate", 1))


def experiment_files(wildcards):
    """What an experiment reads: images, or the inputs and checkpoints of a network of the study."""
    name, replicate = wildcards.experiment, wildcards.replicate
    settings = config["experiments"][name]
    files = {}
    if "datasets" in settings:
        files["images"] = [
            f"{RESULTS}/data/{dataset}.nc" for dataset in settings["datasets"]
        ]
    if name in OF_THE_STUDY:
        epochs = settings.get("epochs", last_stage(MEASURED))
        files["inputs"] = inputs_at(MEASURED)
        files["factory"] = factory_at(MEASURED)
        files["checkpoints"] = weights_at(MEASURED, replicate, epochs)
        if name == "empirical":
            files["accumulators"] = expand(
                ACCUMULATOR,
                network=MEASURED,
                replicate=replicate,
                epoch=[epoch for epoch in epochs if epoch],
            )
    return files


def experiment_figures(format):
    """Every figure of the experiments that are switched on, in a format."""
    return [
        f"{RESULTS}/figures/experiments/{name}/{figure}.{format}"
        for name in EXPERIMENTS
        for figure in EXPERIMENT_FIGURES[name]
    ]


def entry(name):
    """How the HTML report lists a figure or a table."""
    return re.sub("(?<=[0-9])-(?=[0-9])", "–", name).replace("-", " ").capitalize()


def listed(file, caption, category, subcategory=None, result=None):
    """A file that the HTML report shows; one column of labels, for with more it pairs the rows."""
    label = {"result": result} if result else figure_label
    return report(
        file,
        caption=f"../report/{caption}.rst",
        category=category,
        subcategory=subcategory,
        labels=label,
    )


def figure_label(wildcards):
    return {"result": entry(wildcards.figure)}


def drawn(path, *place):
    """A figure in all formats, of which the HTML report shows one."""
    formats = config["figures"]["formats"]
    shown = next(format for format in ("png", "svg", "pdf") if format in formats)
    files = [f"{path}.{format}" for format in formats]
    return [listed(one, *place) if one.endswith(shown) else one for one in files]


def tables_below(folder):
    """Names of the tables in a folder: those that have a caption."""
    captions = WORKFLOW / "report" / "tables" / folder
    return sorted(caption.stem for caption in captions.glob("*.rst"))


def tables():
    """Every table of the results: its name, its caption, and where the HTML report lists it."""
    for name in tables_below("."):
        if name != "claims-by-network" or len(NETWORKS) > len(SHOWN):
            yield name, name, "At a glance", None
    for network in SHOWN:
        for name in tables_below("networks"):
            if NETWORKS[network]["test_set"] or name not in OF_THE_TEST_SET:
                yield f"networks/{network}/{name}", f"networks/{name}", "Networks", network
    for experiment in EXPERIMENTS:
        for name in tables_below(f"experiments/{experiment}"):
            table = f"experiments/{experiment}/{name}"
            yield table, table, "Experiments", experiment
    for folder in ["theory"] * config["theory"]["enabled"] + ["run"]:
        for name in tables_below(folder):
            if name != "benchmark" or config["benchmark"]["enabled"]:
                yield f"{folder}/{name}", f"{folder}/{name}", folder.capitalize(), None


def table_pages():
    """Each table as a page, with its place in the HTML report."""
    return [
        listed(
            f"{RESULTS}/tables/{name}.html",
            f"tables/{caption}",
            *place,
            result=f"Table: {entry(name.rpartition('/')[2]).lower()}",
        )
        for name, caption, *place in tables()
    ]


def say(ended):
    """Print, below all progress, what there is to say of a run that has ended so."""
    if follower:
        follower.end()
    for line in ended():
        print(line, file=sys.stderr)


def succeeded():
    """What was found and where it is, when all is there that was asked for."""
    if workflow.output_settings.quiet:
        return
    yield f"\n{follower.done() if follower else 'done'}\n"
    targets = workflow.dag_settings.targets
    if targets and "all" not in targets:
        yield from closing.of_targets(workflow.dag.targetjobs, targets)
    else:
        yield from closing.of_the_study(RESULTS, CONFIGFILES)


def failed():
    """How far a run has come that did not end well; where that was not said, why, a line each."""
    if follower and follower.active:
        yield follower.stopped()
        return
    for path in sorted(Path(RESULTS, "logs").rglob("*.log")):
        if path.stat().st_mtime >= STARTED:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from (line for line in lines if line.startswith("error: "))


def assert_writable():
    """Refuse results that cannot be written: Snakemake itself would fail, with a traceback."""
    folder = Path(RESULTS)
    while not folder.is_dir():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        sys.exit(
            f"error: {RESULTS}: cannot be written: {folder} is read-only or not yours; make it "
            "writable and run again"
        )

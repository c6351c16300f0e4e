# Reads and checks the config; has the only helpers that the rule files share.

import csv
import errno
import sys
import threading
from pathlib import Path

from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

sys.path.insert(0, os.path.join(workflow.basedir, "workflow"))

from llama_nas import __version__
from llama_nas.core.code_digest import code_digest
from llama_nas.config import (
    check_config,
    config_name,
    dataset_revision,
    local_base,
    search_evaluations,
    search_rounds,
    task_dataset,
)
from llama_nas.core.errors import UserError
from llama_nas.core.pareto import spread
from llama_nas.core.space import BYTES_PER_WEIGHT, QUANTIZED, ModelShape, Subnet
from llama_nas.tasks.definitions import task_files

try:
    config = check_config(config, name=config_name(workflow.configfiles[-1]))
except UserError as error:
    sys.exit(str(error))


# Three things that Snakemake 9.27 does too often (docs/embedded-world.md: what it cost). One second after it has looked for jobs
# to start it looks again, and that look calls for the next: every job that ends adds one look a second, as long as others
# wait for a core. Jobs that start or end wake the scheduler anyway; the clock is needed only where its limit of jobs a second
# holds others back.
def look_again(scheduler, delay):
    limiter = scheduler.job_rate_limiter
    if limiter is None or not limiter.get_free_jobs():
        threading.Timer(delay, scheduler._open_jobs.release).start()


JobScheduler._schedule_reevalutation = look_again
# Seconds between the first 30 samples of a job for its `benchmark:` file; then they are half a minute apart. With half a
# second what a job used after its first 15 seconds was missed.
sampling.BENCHMARK_INTERVAL_SHORT = 3
# To compare a job's parameters with those of its last run it imports pandas, if that is installed, as they might be tables;
# ours are words.
PersistenceBase._serialize_param = PersistenceBase._serialize_param_builtin

os.environ.update(LLAMA_NAS_WORKFLOW=workflow.basedir)  # where envs/*.yaml take the package from

# Whatever is fetched is fetched by the fetch rules, which alone set HF_HUB_OFFLINE=0; every cache of a job lives in the
# working directory, which is the only folder besides /tmp that a container sees.
shell.prefix(
    "export HOME=$PWD XDG_CACHE_HOME=$PWD/.cache HF_HOME=$PWD/.cache/huggingface TRITON_CACHE_DIR=$PWD/.cache/triton "
    "HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false; "
)

WIDTHS = " ".join(map(str, config["space"]["widths"]))
DEPTHS = " ".join(map(str, config["space"]["depths"]))
KEPT = config["space"]["depth_selection"]  # a word, or a list of layers
DEPTH_SELECTION = KEPT if isinstance(KEPT, str) else ",".join(map(str, KEPT))
SPACE = f"--widths {WIDTHS} --depths {DEPTHS} --depth-selection {DEPTH_SELECTION}"
COMPUTE = f"--device {config['compute']['device']} --threads {config['compute']['threads']}"
EMBEDDED = config["base"]["source"] == "embedded"
HUB = config.get("data_root", "resources/hub")
GPU = 1 if config["compute"]["device"] == "cuda" else 0
# Alone on a workstation. A cluster's job asks for what it uses, and must ask for the same inside the job.
REMOTE = workflow.remote_exec or not workflow.resource_settings.cores
ALL_CORES = config["compute"]["threads"] if REMOTE else workflow.resource_settings.cores
ROUNDS = search_rounds(config)
SHARDS = config["search"]["shards"]
OBJECTIVES = config["search"]["objectives"]
COSTS = ["results/costs/layers.json"] if "latency" in OBJECTIVES else []  # costs.smk
DATASETS = sorted({dataset for dataset in map(task_dataset, *zip(*config["tasks"].items())) if dataset})


wildcard_constraints:
    task="|".join(config["tasks"]),
    precision="fp32|bf16|fp16|int8|nf4",
    id="[0-9a-z]+",
    round="[0-9]+|final|all|heuristics",
    shard="[0-9]+",
    shards="[0-9]+",


def image(family):
    """The container image of a stage family; used only with --sdm apptainer."""
    return os.path.join(workflow.basedir, "containers", f"{family}-{__version__}.sif")


def options(values):
    """Command-line options of a mapping: {'num_fewshot': 5} -> '--num-fewshot 5'; unset ones are left out."""
    words = []
    for key, value in values.items():
        if value is not None:
            value = " ".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--{key.replace('_', '-')} {value}")
    return " ".join(words)


def chosen(block, *keys):
    """Command-line options of some keys of a config block."""
    return options({key: block.get(key) for key in keys})


def unwatched(value):
    """A parameter for which no job is run again when it changes: it leaves the bytes of the output alone.

    A function of the input, as Snakemake compares the values of all other parameters with those of the last run.
    """

    def given(wildcards, input):
        return value

    return given


def memory(mb, bytes_per_parameter=0):
    """Memory in MB: a constant part, and one that follows the base model; grows with every retry."""

    def grown(wildcards, input, attempt):
        model = bytes_per_parameter * base_parameters(input) if bytes_per_parameter else 0
        return round(mb + model / 1e6) * attempt

    return grown


def base_parameters(input):
    """Parameters of the base model. Before it is fetched, Snakemake shows what depends on it as <TBD>."""
    if EMBEDDED:
        return 0  # some hundred thousand: nothing beside the constant part
    if not os.path.exists(os.path.join(BASE_FOLDER, "config.json")):
        raise FileNotFoundError(errno.ENOENT, "not fetched yet", input[0])
    try:
        shape = ModelShape.from_folder(BASE_FOLDER)
    except UserError:
        return 0  # the rule base_model says what is wrong with it
    return shape.parameters(Subnet((shape.intermediate_size,) * shape.num_hidden_layers))


# --- data: where benchmarks and instructions are found ---


def fetched_revision(wildcards):
    """The revision a dataset is fetched at: the instructions' own key, a task's key, or the pinned one."""
    source = config.get("instructions", {})
    if source.get("hub_id") == wildcards.dataset:
        return source["revision"]
    return dataset_revision(wildcards.dataset, config["tasks"])


def task_data(wildcards):
    """What a task reads: the world or its dataset, fetched or local, and its own YAML with what that names."""
    settings = config["tasks"][wildcards.task]
    definition = settings.get("lm_eval_task", "")
    own = list(map(str, task_files(Path(definition)))) if definition.endswith((".yaml", ".yml")) else []
    if EMBEDDED:
        return ["results/world", *own]
    dataset = task_dataset(wildcards.task, settings)
    return [f"{HUB}/{dataset}", *own] if dataset else own


def task_settings(wildcards):
    """The task's block of the config as command-line options."""
    settings = {"lm_eval_task": wildcards.task} | config["tasks"][wildcards.task]
    keys = ("lm_eval_task", "metric", "num_fewshot", "limit", "subtasks", "chunk_tokens", "group_tokens")
    return chosen(settings, *keys)


def instructions(wildcards):
    """What must exist before the fine-tuning: the world, or a file or folder with instructions."""
    source = config.get("instructions")
    if source is None:
        return "results/world"
    return source["path"] if "path" in source else f"{HUB}/{source['hub_id']}"


def instructions_path(wildcards, input):
    """The file or folder itself."""
    return input.instructions if "instructions" in config else "results/world/instructions.json"


# --- search: a round reads the round before ---


def previous_round(wildcards):
    return int(wildcards.round) - 1


def previous(name):
    """The artifact `name` of the round before the one being made."""

    def path(wildcards):
        return f"results/search/{wildcards.task}/round_{previous_round(wildcards)}/{name}"

    return path


def earlier_evaluations(wildcards):
    """All evaluations before this round; none before the first."""
    return previous("evaluations.csv")(wildcards) if previous_round(wildcards) else []


def earlier_option(wildcards, input):
    return f"--previous {input.earlier}" if input.earlier else ""


def shards_of(round):
    """The shards of a round: those it was evaluated in before, whatever their number, or `search.shards` new ones.

    From other shards the evaluations would be the same bytes, but a new set of inputs makes Snakemake do everything
    anew that follows.
    """

    def paths(wildcards):
        folder = f"results/search/{{task}}/round_{round}".format(**wildcards)

        def shards(count):
            return [f"{folder}/shard_{shard}-of-{count}.csv" for shard in range(1, count + 1)]

        found = (int(path.stem.rpartition("-")[2]) for path in Path(folder).glob("shard_1-of-*.csv"))
        whole = [count for count in (SHARDS, *sorted(found)) if all(map(os.path.exists, shards(count)))]
        return shards(whole[0] if whole else SHARDS)

    return paths


def searches_on_some_items(task):
    return "search_items" in config["tasks"][task]


def evaluation_items(wildcards):
    """The search may score some of the items only; the finalists are scored on all, and on the others apart."""
    items = config["tasks"][wildcards.task].get("search_items")
    if wildcards.round == "final":
        return options({"held_out": items})
    return options({"items": items}) if wildcards.round.isdigit() else ""


def goals(wildcards):
    """Objectives and constraints of a task's search as options; a key that nothing reads is none of them.

    No function of the input: Snakemake does not rerun for changed values of such parameters.
    """
    search = config["search"]
    read = {"objectives": OBJECTIVES}
    if "max_size" in search:
        read["max_size"] = search["max_size"].replace(" ", "")
    if "max_size" in search or "size" in OBJECTIVES:
        read["precision"] = search["precision"]
    if COSTS:
        read |= {"latency": search["latency"], "costs": COSTS[0]}
    return options(read | {"min_accuracy": config["tasks"][wildcards.task].get("min_accuracy")})


def finalists(wildcards):
    """Candidates and shards of the finalists, if there are any."""
    if not searches_on_some_items(wildcards.task):
        return []
    return [f"results/search/{wildcards.task}/round_final/candidates.csv", *shards_of("final")(wildcards)]


def finalists_options(wildcards, input):
    return f"--candidates {input.finalists[0]} --shards {' '.join(input.finalists[1:])}" if input.finalists else ""


def named_networks(wildcards):
    """Networks that the config wants evaluated with the heuristics."""
    named = config["tasks"][wildcards.task]["named"]
    return options({"named": named}) if named else ""


# --- front: which networks leave the search is known only when it has ended ---


def front_members(task):
    """Subnet ids of the front members to export: all, or k spread over the size axis, ascending in size."""
    with checkpoints.front.get(task=task).output[0].open() as file:
        rows = list(csv.DictReader(file))
    indices = spread([int(row["size_bytes"]) for row in rows], config["export"]["members"])
    return [rows[i]["subnet_id"] for i in indices]


def compared(task):
    """(id, precision) of everything the summary compares: base, full super-network, exported front members."""
    members = front_members(task)
    full = "0" * len(members[0])
    ids = ["pretrained", full, *(member for member in members if member != full)]
    return [(id, precision) for id in ids for precision in config["benchmark"]["precisions"]]


def exported():
    """Ids of all exported networks: the members of all fronts and the full super-network, each once."""
    ids = [id for task in config["tasks"] for id, _ in compared(task) if id != "pretrained"]
    return list(dict.fromkeys(ids))


FORM_FILES = {
    "hf": "results/subnets/{id}",
    "padded": "results/padded/{id}",
    "deci": "results/deci/{id}",
    "gguf-f16": "results/gguf/{id}-f16.gguf",
    "gguf-q8_0": "results/gguf/{id}-q8_0.gguf",
}


def all_exports(wildcards):
    return [FORM_FILES[form].format(id=id) for form in config["export"]["formats"] for id in exported()]


def exported_folders(wildcards):
    return [FORM_FILES["hf"].format(id=id) for id in exported()]


def carded_folders(wildcards):
    """The checkpoints that get a model card: every exported network, as it is and quantized."""
    precisions = [precision for precision in config["benchmark"]["precisions"] if precision in QUANTIZED]
    return exported_folders(wildcards) + [folder(id, precision) for id in exported() for precision in precisions]


def base_name():
    """What the base model is, for the model card."""
    base = config["base"]
    if base["source"] == "hub":
        return f"{base['hub_id']}@{base['revision']}"
    return base.get("path", "embedded world")


def instructions_name():
    """What the super-network was fine-tuned on, for the model card."""
    source = config.get("instructions", {"path": "embedded world"})
    return source.get("path") or f"{source['hub_id']}@{source['revision']}"


def folder(id, precision):
    """The folder that holds network `id` in `precision`; the float precisions are loaded from one folder."""
    if precision in QUANTIZED:
        return f"results/quantized/{id}/{precision}"
    return "results/base" if id == "pretrained" else f"results/subnets/{id}"


def model_folder(wildcards):
    return folder(wildcards.id, wildcards.precision)


def unquantized_folder(wildcards):
    return folder(wildcards.id, "fp16")


def throughput_models(wildcards):
    return [folder(id, precision) for id, precision in compared(wildcards.task)]


def throughput_names(wildcards):
    return [f"{id}:{precision}={folder(id, precision)}" for id, precision in compared(wildcards.task)]


def task_benchmarks(wildcards):
    return [f"results/benchmarks/{wildcards.task}/{precision}/{id}.json" for id, precision in compared(wildcards.task)]


def agreement_id(wildcards):
    """The member that is also benchmarked in the search's own precision: the largest one exported."""
    return front_members(wildcards.task)[-1]


def agreement_benchmark(wildcards):
    return f"results/benchmarks/{wildcards.task}/{config['compute']['dtype']}/{agreement_id(wildcards)}.json"

# Reads and checks the config; has the helpers that several rule files share. Those of one rule file are in helpers/.

import csv
import errno
import hashlib
import re
import shlex
import sys
from pathlib import Path

# The package beside this file. Snakemake has imported our logger plugin already, and with it parts of the package that
# is installed, which may be another clone's.
sys.path.insert(0, os.path.join(workflow.basedir, "workflow"))
for module in [name for name in sys.modules if name.partition(".")[0] == "llama_nas"]:
    del sys.modules[module]

from llama_nas import __version__
from llama_nas.config import check_config, local_base, task_dataset
from llama_nas.config_file import config_name, read_config
from llama_nas.core.code_digest import code_digest
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import BYTES_PER_WEIGHT, PRECISIONS, QUANTIZED
from llama_nas.core.shape import ModelShape
from llama_nas.tasks.definitions import task_files

try:
    for path in filter(os.path.exists, workflow.configfiles):
        read_config(path)  # Snakemake reads them, too, but takes more for a config
    config = check_config(config, name=config_name(workflow.configfiles[-1]))
except UserError as error:
    sys.exit(str(error))

# A round waits for the one before it: Snakemake follows them down, some calls a round (config.py: MOST_ROUNDS).
sys.setrecursionlimit(20_000)

os.environ.update(LLAMA_NAS_WORKFLOW=workflow.basedir)  # where envs/*.yaml take the package from

# Whatever is fetched is fetched by the fetch rules, which alone set HF_HUB_OFFLINE=0; every cache of a job lives in the
# working directory, which is the only folder besides /tmp that a container sees.
shell.prefix(
    "export HOME=$PWD XDG_CACHE_HOME=$PWD/.cache HF_HOME=$PWD/.cache/huggingface TRITON_CACHE_DIR=$PWD/.cache/triton "
    "HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false; "
)

TASKS = list(config["tasks"])
EMBEDDED = config["base"]["source"] == "embedded"
HUB = config.get("data_root", "resources/hub")
DATA_ROOT = "results/world/hub" if EMBEDDED else HUB  # where the tasks' datasets lie
GPU = 1 if config["compute"]["device"] == "cuda" else 0
# Alone on a workstation. A cluster's job asks for what it uses, and must ask for the same inside the job.
REMOTE = workflow.remote_exec or not workflow.resource_settings.cores
ALL_CORES = config["compute"]["threads"] if REMOTE else workflow.resource_settings.cores
# A subnet id, one character per layer in groups of eight. A contender's name may look like one; no contender is
# exported, so a path below results/networks/NAME/ is not that of a subnet.
SUBNET = "".join(f"(?!{re.escape(name)}/)" for name in config["contenders"]) + "([0-9a-z]{8}-)*[0-9a-z]{1,8}"


wildcard_constraints:
    task="|".join(TASKS),
    precision="|".join(PRECISIONS),
    subnet=SUBNET,
    network="|".join([SUBNET, "pretrained", *map(re.escape, config["contenders"])]),
    round="[0-9]+",
    batch="round_[0-9]+|finalists|transfer|all|heuristics",
    shard="[0-9]+",
    shards="[0-9]+",


def image(family):
    """The container image of a stage family; used only with --sdm apptainer."""
    return os.path.join(workflow.basedir, "containers", f"{family}-{__version__}.sif")


container: image("search")


def options(values, *keys):
    """Command-line options of a mapping, or of some of its keys: {'num_fewshot': 5} -> '--num-fewshot 5'.

    Unset ones are left out; True is a switch. Every word is quoted for the shell. The keys are sorted: a config that
    lists them in another order, or that writes a default down, makes the same command and reruns nothing.
    """
    words = []
    for key in sorted(keys or values):
        value = values.get(key)
        if value is not None and value is not False and value != []:
            given = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{key.replace('_', '-')}", *(shlex.quote(str(word)) for word in given)]
    return " ".join(words)


COMPUTE = options(config["compute"], "device", "threads")


def literal(path):
    """A path of the user's as an input: where Snakemake would read a wildcard, `{word}`, a link to it without any."""
    if not re.search(r"{\s*\w+\s*[,}]", str(path)):
        return str(path)
    target = os.path.abspath(path)
    # In a folder of its own: what Snakemake has listed once, it does not list again.
    link = Path(".snakemake/paths", hashlib.sha256(target.encode()).hexdigest()[:16], "link")
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return str(link)


def unwatched(value):
    """A parameter that reruns no job when it changes, because the output does not depend on it.

    A function of the input: Snakemake compares all other parameters with those of the last run.
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


BASE_FOLDER = local_base(config) or f"resources/hub/{config['base'].get('hub_id')}"


def base_parameters(input):
    """Parameters of the base model. Before it is fetched, Snakemake shows what depends on it as <TBD>."""
    if EMBEDDED:
        return 0  # some hundred thousand: nothing beside the constant part
    if not os.path.exists(os.path.join(BASE_FOLDER, "config.json")):
        raise FileNotFoundError(errno.ENOENT, "not fetched yet", input[0])
    try:
        shape = ModelShape.from_folder(BASE_FOLDER)
    except UserError:
        return 0  # the rule take_base says what is wrong with it
    return shape.parameters(shape.full)


def task_data(wildcards):
    """What a task reads: the world or its dataset, fetched or local, and its own YAML with what that names."""
    settings = config["tasks"][wildcards.task]
    definition = settings.get("lm_eval_task", "")
    own = list(map(literal, task_files(Path(definition)))) if definition.endswith((".yaml", ".yml")) else []
    if EMBEDDED:
        return ["results/world", *own]
    dataset = task_dataset(wildcards.task, settings)
    return [literal(f"{HUB}/{dataset}"), *own] if dataset else own


def data_root(wildcards):
    """The folder itself: no function's value is searched for wildcards."""
    return DATA_ROOT


def shards_of(batch):
    """The shards of a batch: those it was evaluated in before, whatever their number, or `search.shards` new ones.

    From other shards the evaluations would be the same bytes, but a new set of inputs makes Snakemake do everything
    anew that follows.
    """

    def paths(wildcards):
        folder = f"results/search/{{task}}/{batch}".format(**wildcards)
        wanted = config["search"]["shards"]

        def shards(count):
            return [f"{folder}/shard_{shard}-of-{count}.csv" for shard in range(1, count + 1)]

        found = (int(path.stem.rpartition("-")[2]) for path in Path(folder).glob("shard_1-of-*.csv"))
        whole = [count for count in (wanted, *sorted(found)) if all(map(os.path.exists, shards(count)))]
        return shards(whole[0] if whole else wanted)

    return paths

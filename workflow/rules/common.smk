# Reads and checks the config; has the only helpers that the rule files share.

import sys
from pathlib import Path

sys.path.insert(0, os.path.join(workflow.basedir, "workflow"))

from llama_nas.code_digest import code_digest
from llama_nas.config import check_config, dataset_revision, local_base, task_dataset
from llama_nas.errors import UserError
from llama_nas.pareto import spread

try:
    config = check_config(config, name=os.path.relpath(workflow.configfiles[-1]))
except UserError as error:
    sys.exit(str(error))

# Whatever is fetched is fetched by the fetch rules; every cache lives in the working directory.
shell.prefix(
    "export XDG_CACHE_HOME=$PWD/.cache HF_HOME=$PWD/.cache/huggingface TOKENIZERS_PARALLELISM=false "
    "HF_HUB_OFFLINE=${{HF_HUB_OFFLINE:-1}}; "
)

WIDTHS = " ".join(map(str, config["space"]["widths"]))
DEPTHS = " ".join(map(str, config["space"]["depths"]))
SPACE = f"--widths {WIDTHS} --depths {DEPTHS} --depth-selection {config['space']['depth_selection']}"
COMPUTE = f"--device {config['compute']['device']} --threads {config['compute']['threads']}"
GPU = 1 if config["compute"]["device"] == "cuda" else 0
ROUNDS = config["search"]["evaluations"] // config["search"]["population"]
SHARDS = config["search"]["shards"]
DATASETS = sorted({dataset for dataset in map(task_dataset, *zip(*config["tasks"].items())) if dataset})


wildcard_constraints:
    task="|".join(config["tasks"]),
    precision="fp32|bf16|fp16|int8",
    id="[0-9a-z]+",
    round="[0-9]+",
    shard="[0-9]+",
    shards="[0-9]+",


def fetched_revision(wildcards):
    """The revision a dataset is fetched at: the instructions' own key, a task's key, or the pinned one."""
    instructions = config.get("instructions", {})
    if instructions.get("hub_id") == wildcards.dataset:
        return instructions["revision"]
    return dataset_revision(wildcards.dataset, config["tasks"])


def image(family):
    """The container image of a stage family; used only with --sdm apptainer."""
    return os.path.join(workflow.basedir, "containers", f"{family}-0.1.0.sif")


def options(values):
    """Command-line options of a mapping: {'num_fewshot': 5} -> '--num-fewshot 5'; unset ones are left out."""
    words = []
    for key, value in values.items():
        if value is not None:
            value = " ".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--{key.replace('_', '-')} {value}")
    return " ".join(words)


def memory(mb):
    """Memory in MB that grows with every retry."""

    def grown(wildcards, attempt):
        return mb * attempt

    return grown

# What the rules of networks.smk ask of the config and of the fronts. Which networks leave the search is known only
# when it has ended.

from llama_nas.core.layout import PRETRAINED
from llama_nas.core.pareto import spread
from llama_nas.core.space import full_id
from llama_nas.exports.forms import network_path


def front_members(task):
    """Subnet ids of the front members to export: all, or some spread over the size axis, ascending in size."""
    with checkpoints.find_front.get(task=task).output[0].open() as file:
        rows = list(csv.DictReader(file))
    indices = spread([int(row["size_bytes"]) for row in rows], config["export"]["members"])
    return [rows[i]["subnet_id"] for i in indices]


def contenders(task):
    """Everything that a task's summary compares, in the order of its rows."""
    members = front_members(task)
    full = full_id(members[0])
    return [PRETRAINED, full, *(member for member in members if member != full), *config["contenders"]]


def exported():
    """Ids of all exported networks: the members of all fronts and the full super-network, each once."""
    others = (PRETRAINED, *config["contenders"])
    return list(dict.fromkeys(name for task in TASKS for name in contenders(task) if name not in others))


def folder(name, precision):
    """The folder that holds a contender in a precision; the float precisions are loaded from one folder."""
    if precision in QUANTIZED:
        return f"results/{network_path(name, precision)}"
    if name in config["contenders"]:
        return config["contenders"][name]
    return "results/base" if name == PRETRAINED else f"results/{network_path(name, 'hf')}"


def all_exports(wildcards):
    return [f"results/{network_path(name, form)}" for form in config["export"]["formats"] for name in exported()]


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


def unquantized_folder(wildcards):
    return folder(wildcards.network, "fp16")


def model_folder(wildcards):
    return folder(wildcards.network, wildcards.precision)


def verified(wildcards):
    """The member that is also benchmarked in the search's own precision: the largest one exported."""
    return front_members(wildcards.task)[-1]


def verified_benchmark(wildcards):
    return f"results/benchmarks/{wildcards.task}/{config['compute']['dtype']}/{verified(wildcards)}.json"


def compared(wildcards):
    """(name, precision) of everything a task's summary compares."""
    return [(name, precision) for name in contenders(wildcards.task) for precision in BENCHMARK["precisions"]]


def compared_folders(wildcards):
    return [folder(name, precision) for name, precision in compared(wildcards)]


def compared_names(wildcards):
    return [f"{name}:{precision}={folder(name, precision)}" for name, precision in compared(wildcards)]

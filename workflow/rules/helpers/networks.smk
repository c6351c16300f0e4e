# What the rules of networks.smk ask of the config and of the fronts. Which networks leave the search is known only
# when it has ended.

from llama_nas.core.layout import PRETRAINED
from llama_nas.core.pareto import spread
from llama_nas.core.space import BLOCK_CODES, DROPPED, full_id, ungrouped
from llama_nas.exports.forms import network_path


def front(task):
    """The rows of a task's front, ascending in size."""
    with checkpoints.find_front.get(task=task).output.front.open() as file:
        return list(csv.DictReader(file))


def front_members(task):
    """Subnet ids of the front members to export, ascending in size: all, or some spread over it; the recommended one."""
    rows, best = front(task), recommended(task)
    indices = spread([int(row["size_bytes"]) for row in rows], config["export"]["members"])
    return [row["subnet_id"] for i, row in enumerate(rows) if i in indices or row["subnet_id"] == best]


def recommended(task):
    """Subnet id of the network to take: a member of the front, or the full network."""
    with checkpoints.find_front.get(task=task).output.judgement.open() as file:
        return next(row["subnet_id"] for row in csv.DictReader(file) if row["recommended"] == "True")


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
        return literal(config["contenders"][name])
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


def provenance(wildcards):
    """What the model card says of a network's making."""
    names = {"base_name": base_name(), "instructions_name": instructions_name()}
    return options(names | {"run_seed": config["seed"]})


def unquantized_folder(wildcards):
    return folder(wildcards.network, "fp16")


def model_folder(wildcards):
    return folder(wildcards.network, wildcards.precision)


def verified(wildcards):
    """The member of the front that drops layers and narrows widths: the one with most layers dropped, then blocks narrow.

    One that does only one of both comes behind those; the full network is taken where there is nothing else.
    """
    return max((row["subnet_id"] for row in front(wildcards.task)), key=cuts)


def cuts(subnet):
    """What an id's network lacks: whether layers and widths alike, how many layers, in how many layers some width."""
    blocks = ungrouped(subnet)
    dropped = blocks.count(DROPPED)
    narrow = len(blocks) - dropped - blocks.count(BLOCK_CODES[0])
    return dropped > 0 and narrow > 0, dropped, narrow


def verified_benchmark(wildcards):
    return f"results/benchmarks/{wildcards.task}/{config['compute']['dtype']}/{verified(wildcards)}.json"


def compared(task):
    """(name, precision) of everything a task's summary compares: quantized, only the network to take."""
    return [
        (name, precision)
        for name in contenders(task)
        for precision in BENCHMARK["precisions"]
        if precision not in QUANTIZED or name == recommended(task)
    ]


def timed():
    """(name, precision) of everything that a summary compares, each once; the base is the first."""
    return list(dict.fromkeys(pair for task in TASKS for pair in [(PRETRAINED, "fp16"), *compared(task)]))


def timed_folders(wildcards):
    return [folder(name, precision) for name, precision in timed()]


def timed_names(wildcards):
    return [f"{name}:{precision}={folder(name, precision)}" for name, precision in timed()]


def timed_control(wildcards):
    """The full network: it is of the base's own shape."""
    return f"{full_id(front(TASKS[0])[0]['subnet_id'])}:fp16"

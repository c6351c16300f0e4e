# Reads: results/supernet/, a subnet id. Writes: results/networks/{id}/, a network in each of its forms; results/benchmarks/,
# results/agreement/, results/timings/throughput/. A network's place may also be taken by `pretrained`, the base model, and by
# a contender of the config, a checkpoint of another method.

from llama_nas.core.layout import PRETRAINED
from llama_nas.core.pareto import spread
from llama_nas.core.space import full_id
from llama_nas.exports.forms import FOLDERS, GGUF_TYPES, network_path

BENCHMARK = config["benchmark"]


# --- which networks leave the search is known only when it has ended ---


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


rule export:
    """Export a sub-network, by id, in one of the forms of a model folder; needs no search."""
    input:
        supernet="results/supernet",
        space="results/space.json",
    output:
        directory("results/networks/{subnet}/{form}"),
    log:
        "logs/export/{subnet}-{form}.log",
    benchmark:
        "results/timings/jobs/export/{subnet}-{form}.tsv"
    wildcard_constraints:
        form="|".join(FOLDERS),
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    resources:
        mem_mb=memory(4000, 8),
        runtime=60,
    params:
        code=code_digest("export"),
        provenance=options(
            {"base_name": base_name(), "instructions_name": instructions_name(), "run_seed": config["seed"]}
        ),
    shell:
        "llama-nas export"
        " --code {params.code}"
        " --subnet {wildcards.subnet}"
        " --form {wildcards.form}"
        " {params.provenance}"
        " --supernet {input.supernet}"
        " --space {input.space}"
        " --output {output} 2> {log}"


rule write_gguf:
    """Write an export as one GGUF file for llama.cpp."""
    input:
        model="results/networks/{subnet}/hf",
    output:
        "results/networks/{subnet}/gguf-{type}.gguf",
    log:
        "logs/write_gguf/{subnet}-{type}.log",
    benchmark:
        "results/timings/jobs/write_gguf/{subnet}-{type}.tsv"
    wildcard_constraints:
        type="|".join(GGUF_TYPES),
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        code=code_digest("write-gguf"),
    shell:
        "llama-nas write-gguf"
        " --code {params.code}"
        " --type {wildcards.type}"
        " --model {input.model}"
        " --output {output} 2> {log}"


rule exports:
    """Every exported network in every form of `export.formats`."""
    input:
        all_exports,
    localrule: True


def unquantized_folder(wildcards):
    return folder(wildcards.network, "fp16")


rule quantize:
    """Quantize a folder with bitsandbytes: decoder linears INT8 (paper, section 4.4) or NF4, the rest FP16."""
    input:
        model=unquantized_folder,
    output:
        directory("results/networks/{network}/{precision}"),
    log:
        "logs/quantize/{network}-{precision}.log",
    benchmark:
        "results/timings/jobs/quantize/{network}-{precision}.tsv"
    wildcard_constraints:
        precision="|".join(QUANTIZED),
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    resources:
        mem_mb=memory(4000, 6),
        runtime=60,
    params:
        code=code_digest("quantize"),
    shell:
        "llama-nas quantize"
        " --code {params.code}"
        " --precision {wildcards.precision}"
        " --model {input.model:q}"
        " --output {output} 2> {log}"


def model_folder(wildcards):
    return folder(wildcards.network, wildcards.precision)


rule run_lm_eval:
    """Evaluate a model folder with stock lm-eval. A target on its own, by id."""
    input:
        model=model_folder,
        task="results/tasks/{task}",
        data=task_data,
    output:
        "results/benchmarks/{task}/{precision}/{network}.json",
    log:
        "logs/run_lm_eval/{task}/{precision}/{network}.log",
    benchmark:
        "results/timings/jobs/run_lm_eval/{task}/{precision}/{network}.tsv"
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: config["compute"]["threads"]
    resources:
        mem_mb=memory(4000, 8),
        runtime=720,
        gpu=GPU,
    params:
        code=code_digest("run-lm-eval"),
        compute=COMPUTE,
        batch_size=BENCHMARK["batch_size"],
    shell:
        "llama-nas run-lm-eval"
        " --code {params.code}"
        " {params.compute}"
        " --precision {wildcards.precision}"
        " --batch-size {params.batch_size}"
        " --model {input.model:q}"
        " --task {input.task}"
        " --output {output} 2> {log}"


def verified(wildcards):
    """The member that is also benchmarked in the search's own precision: the largest one exported."""
    return front_members(wildcards.task)[-1]


def verified_benchmark(wildcards):
    return f"results/benchmarks/{wildcards.task}/{config['compute']['dtype']}/{verified(wildcards)}.json"


rule verify:
    """Compare the search's scorer with stock lm-eval on one exported member, request by request."""
    input:
        supernet="results/supernet",
        space="results/space.json",
        task="results/tasks/{task}",
        benchmark=verified_benchmark,
    output:
        "results/agreement/{task}.json",
    log:
        "logs/verify/{task}.log",
    benchmark:
        "results/timings/jobs/verify/{task}.tsv"
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: config["compute"]["threads"]
    resources:
        mem_mb=memory(4000, 8),
        runtime=120,
        gpu=GPU,
    params:
        code=code_digest("verify"),
        compute=COMPUTE,
        dtype=config["compute"]["dtype"],
        subnet=verified,
    shell:
        "llama-nas verify"
        " --code {params.code}"
        " {params.compute}"
        " --dtype {params.dtype}"
        " --subnet {params.subnet}"
        " --supernet {input.supernet}"
        " --space {input.space}"
        " --task {input.task}"
        " --benchmark {input.benchmark}"
        " --output {output} 2> {log}"


def compared(wildcards):
    """(name, precision) of everything a task's summary compares."""
    return [(name, precision) for name in contenders(wildcards.task) for precision in BENCHMARK["precisions"]]


def compared_folders(wildcards):
    return [folder(name, precision) for name, precision in compared(wildcards)]


def compared_names(wildcards):
    return [f"{name}:{precision}={folder(name, precision)}" for name, precision in compared(wildcards)]


rule measure_throughput:
    """Measure tokens/s of a task's contenders; takes all cores, so that it has the machine to itself."""
    input:
        models=compared_folders,
    output:
        "results/timings/throughput/{task}.csv",
    log:
        "logs/measure_throughput/{task}.log",
    benchmark:
        "results/timings/jobs/measure_throughput/{task}.tsv"
    priority: -1  # when nothing else can run: every such job waits until all others have left the machine
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: ALL_CORES
    resources:
        mem_mb=memory(4000, 8),
        runtime=120,
        gpu=GPU,
    params:
        code=code_digest("measure-throughput"),
        compute=COMPUTE,
        settings=options(config["throughput"]),
        models=compared_names,
    shell:
        "llama-nas measure-throughput"
        " --code {params.code}"
        " {params.compute}"
        " {params.settings}"
        " --models {params.models:q}"
        " --output {output} 2> {log}"

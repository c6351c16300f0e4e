# Reads: results/supernet/, a subnet id. Writes: results/subnets/{id}/, results/quantized/{id}/, results/benchmarks/,
# results/agreement/, results/timings/throughput/. {id} is a subnet id, or `pretrained` for the base model.

import csv

BENCHMARK = config["benchmark"]


def front_members(task):
    """Subnet ids of the front members to export: all, or k spread over the size axis, ascending in size."""
    with checkpoints.front.get(task=task).output[0].open() as file:
        rows = list(csv.DictReader(file))
    chosen = spread([int(row["size_bytes"]) for row in rows], config["export"]["members"])
    return [rows[i]["subnet_id"] for i in chosen]


def summary_ids(task):
    """Everything the task's summary compares: base model, super-network at full size, exported front members."""
    members = front_members(task)
    full = "0" * len(members[0])
    return ["pretrained", full, *(member for member in members if member != full)]


def agreement_id(wildcards):
    """The member that is also benchmarked in the search's own precision: the largest one exported."""
    return front_members(wildcards.task)[-1]


def agreement_benchmark(wildcards):
    return f"results/benchmarks/{wildcards.task}/{config['compute']['dtype']}/{agreement_id(wildcards)}.json"


def unquantized_folder(wildcards):
    return "results/base" if wildcards.id == "pretrained" else f"results/subnets/{wildcards.id}"


def model_folder(wildcards):
    """The folder that holds network {id} in {precision}; the three float precisions are loaded from one folder."""
    return f"results/quantized/{wildcards.id}/int8" if wildcards.precision == "int8" else unquantized_folder(wildcards)


def throughput_models(wildcards):
    return [
        f"results/quantized/{id}/int8" if precision == "int8" else ("results/base" if id == "pretrained" else f"results/subnets/{id}")
        for id in summary_ids(wildcards.task)
        for precision in BENCHMARK["precisions"]
    ]


def throughput_names(wildcards, input):
    names = [f"{id}:{precision}" for id in summary_ids(wildcards.task) for precision in BENCHMARK["precisions"]]
    return [f"{name}={folder}" for name, folder in zip(names, input.models)]


rule export:
    """Export a sub-network, by id, as a standalone Hugging Face folder; needs no search."""
    input:
        supernet="results/supernet",
    output:
        directory("results/subnets/{id}"),
    params:
        code=code_digest("export"),
        widths=WIDTHS,
    log:
        "logs/export/{id}.log",
    benchmark:
        "results/timings/jobs/export/{id}.tsv"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas export --widths {params.widths} --supernet {input.supernet} --subnet {wildcards.id} "
        "--output {output} 2> {log}"


rule quantize:
    """Quantize a folder with bitsandbytes: decoder linears INT8, the rest FP16 (paper, section 4.4)."""
    input:
        model=unquantized_folder,
    output:
        directory("results/quantized/{id}/{precision}"),
    params:
        code=code_digest("quantize"),
    log:
        "logs/quantize/{id}-{precision}.log",
    benchmark:
        "results/timings/jobs/quantize/{id}-{precision}.tsv"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
        gpu=GPU,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas quantize --precision {wildcards.precision} --model {input.model} --output {output} 2> {log}"


rule benchmark:
    """Evaluate an exported or quantized folder with stock lm-eval. A target on its own, by id."""
    input:
        model=model_folder,
        task="results/tasks/{task}",
        data=task_data,
    output:
        "results/benchmarks/{task}/{precision}/{id}.json",
    params:
        code=code_digest("benchmark"),
        compute=COMPUTE,
        batch_size=BENCHMARK["batch_size"],
    log:
        "logs/benchmark/{task}/{precision}/{id}.log",
    benchmark:
        "results/timings/jobs/benchmark/{task}/{precision}/{id}.tsv"
    threads: config["compute"]["threads"]
    resources:
        mem_mb=memory(4000),
        runtime=720,
        gpu=GPU,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas benchmark {params.compute} --precision {wildcards.precision} --batch-size {params.batch_size} "
        "--model {input.model} --task {input.task} --output {output} 2> {log}"


rule verify:
    """Compare the search's scorer with stock lm-eval on one exported member, request by request."""
    input:
        supernet="results/supernet",
        task="results/tasks/{task}",
        benchmark=agreement_benchmark,
    output:
        "results/agreement/{task}.json",
    params:
        code=code_digest("verify"),
        compute=COMPUTE,
        dtype=config["compute"]["dtype"],
        widths=WIDTHS,
        subnet=agreement_id,
    log:
        "logs/verify/{task}.log",
    benchmark:
        "results/timings/jobs/verify/{task}.tsv"
    threads: config["compute"]["threads"]
    resources:
        mem_mb=memory(4000),
        runtime=120,
        gpu=GPU,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas verify {params.compute} --dtype {params.dtype} --widths {params.widths} --subnet {params.subnet} "
        "--supernet {input.supernet} --task {input.task} --benchmark {input.benchmark} --output {output} 2> {log}"


rule throughput:
    """Measure tokens/s of a task's exported networks; takes all cores, so that it has the machine to itself."""
    input:
        models=throughput_models,
    output:
        "results/timings/throughput/{task}.csv",
    params:
        code=code_digest("throughput"),
        compute=COMPUTE,
        settings=options(config["throughput"]),
        models=throughput_names,
    log:
        "logs/throughput/{task}.log",
    benchmark:
        "results/timings/jobs/throughput/{task}.tsv"
    threads: workflow.cores or config["compute"]["threads"]
    resources:
        mem_mb=memory(4000),
        runtime=120,
        gpu=GPU,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas throughput {params.compute} {params.settings} --models {params.models} --output {output} 2> {log}"

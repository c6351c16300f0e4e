# Reads: results/supernet/, a subnet id. Writes: results/networks/{id}/, a network in each of its forms;
# results/benchmarks/, results/agreement/, results/timings/throughput.csv. A network's place may also be taken by
# `pretrained`, the base model, and by a contender of the config, a checkpoint of another method.

from llama_nas.exports.forms import FOLDERS, GGUF_TYPES


include: "helpers/networks.smk"


BENCHMARK = config["benchmark"]


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
        provenance=provenance,
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
        data_root=data_root,
    shell:
        "llama-nas run-lm-eval"
        " --code {params.code}"
        " {params.compute}"
        " --precision {wildcards.precision}"
        " --batch-size {params.batch_size}"
        " --data-root {params.data_root:q}"
        " --model {input.model:q}"
        " --task {input.task}"
        " --output {output} 2> {log}"


rule verify:
    """Compare the search's scorer with stock lm-eval on one member of the front, request by request."""
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


rule measure_throughput:
    """Measure tokens/s of all tasks' contenders in turns; takes all cores, so that it has the machine to itself."""
    input:
        models=timed_folders,
    output:
        "results/timings/throughput.csv",
    log:
        "logs/measure_throughput.log",
    benchmark:
        "results/timings/jobs/measure_throughput.tsv"
    priority: -1  # when nothing else can run: it waits until all others have left the machine
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
        models=timed_names,
        control=timed_control,
    shell:
        "llama-nas measure-throughput"
        " --code {params.code}"
        " {params.compute}"
        " {params.settings}"
        " --models {params.models:q}"
        " --control {params.control}"
        " --output {output} 2> {log}"

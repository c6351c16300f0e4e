# Reads: results/supernet/, a subnet id. Writes: results/subnets/{id}/ and its other forms, results/padded/, results/deci/
# and results/gguf/; results/quantized/{id}/, results/benchmarks/, results/agreement/, results/timings/throughput/. {id} is a subnet id, or `pretrained` for the base model.

BENCHMARK = config["benchmark"]


rule export:
    """Export a sub-network, by id, in one of the forms of a model folder; needs no search."""
    input:
        supernet="results/supernet",
    output:
        directory("results/{form}/{id}"),
    log:
        "logs/export/{form}/{id}.log",
    benchmark:
        "results/timings/jobs/export/{form}/{id}.tsv"
    wildcard_constraints:
        form="subnets|padded|deci",
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: 1
    resources:
        mem_mb=memory(4000, 8),
        runtime=60,
    params:
        code=code_digest("export"),
        widths=WIDTHS,
        form=lambda wildcards: "hf" if wildcards.form == "subnets" else wildcards.form,
        base=base_name(),
        instructions=instructions_name(),
        seed=config["seed"],
    shell:
        "llama-nas export --code {params.code} --widths {params.widths} --supernet {input.supernet} --subnet {wildcards.id} "
        "--form {params.form} --base-name {params.base:q} --instructions-name {params.instructions:q} "
        "--run-seed {params.seed} --output {output} 2> {log}"


rule gguf:
    """Write an export as one GGUF file for llama.cpp."""
    input:
        model="results/subnets/{id}",
    output:
        "results/gguf/{id}-{type}.gguf",
    log:
        "logs/gguf/{id}-{type}.log",
    benchmark:
        "results/timings/jobs/gguf/{id}-{type}.tsv"
    wildcard_constraints:
        type="f16|q8_0",
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        code=code_digest("gguf"),
    shell:
        "llama-nas gguf --code {params.code} --type {wildcards.type} --model {input.model} --output {output} 2> {log}"


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
        directory("results/quantized/{id}/{precision}"),
    log:
        "logs/quantize/{id}-{precision}.log",
    benchmark:
        "results/timings/jobs/quantize/{id}-{precision}.tsv"
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: 1
    resources:
        mem_mb=memory(4000, 6),
        runtime=60,
    params:
        code=code_digest("quantize"),
    shell:
        "llama-nas quantize --code {params.code} --precision {wildcards.precision} --model {input.model} --output {output} 2> {log}"


rule benchmark:
    """Evaluate an exported or quantized folder with stock lm-eval. A target on its own, by id."""
    input:
        model=model_folder,
        task="results/tasks/{task}",
        data=task_data,
    output:
        "results/benchmarks/{task}/{precision}/{id}.json",
    log:
        "logs/benchmark/{task}/{precision}/{id}.log",
    benchmark:
        "results/timings/jobs/benchmark/{task}/{precision}/{id}.tsv"
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
        code=code_digest("benchmark"),
        compute=COMPUTE,
        batch_size=BENCHMARK["batch_size"],
    shell:
        "llama-nas benchmark --code {params.code} {params.compute} --precision {wildcards.precision} --batch-size {params.batch_size} "
        "--model {input.model} --task {input.task} --output {output} 2> {log}"


rule verify:
    """Compare the search's scorer with stock lm-eval on one exported member, request by request."""
    input:
        supernet="results/supernet",
        task="results/tasks/{task}",
        benchmark=agreement_benchmark,
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
        widths=WIDTHS,
        subnet=agreement_id,
    shell:
        "llama-nas verify --code {params.code} {params.compute} --dtype {params.dtype} --widths {params.widths} --subnet {params.subnet} "
        "--supernet {input.supernet} --task {input.task} --benchmark {input.benchmark} --output {output} 2> {log}"


rule throughput:
    """Measure tokens/s of a task's exported networks; takes all cores, so that it has the machine to itself."""
    input:
        models=throughput_models,
    output:
        "results/timings/throughput/{task}.csv",
    log:
        "logs/throughput/{task}.log",
    benchmark:
        "results/timings/jobs/throughput/{task}.tsv"
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
        code=code_digest("throughput"),
        compute=COMPUTE,
        settings=options(config["throughput"]),
        models=throughput_names,
    shell:
        "llama-nas throughput --code {params.code} {params.compute} {params.settings} --models {params.models} --output {output} 2> {log}"

# Reads: results/supernet/, results/tasks/{task}/. Writes: results/exhaustive/. Every network of the space, evaluated by
# the search's own rule `evaluate`, as a truth to judge searches by: `snakemake exhaustive`.


rule enumerate_space:
    """List every network of the space."""
    input:
        model="results/base",
    output:
        "results/search/{task}/round_all/candidates.csv",
    log:
        "logs/enumerate_space/{task}.log",
    benchmark:
        "results/timings/jobs/enumerate_space/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        code=code_digest("enumerate-space"),
        space=SPACE,
    shell:
        "llama-nas enumerate-space --code {params.code} {params.space} --model {input.model} --output {output} 2> {log}"


rule tabulate:
    """Gather the evaluations of every network, with what they are of."""
    input:
        model="results/base",
        supernet="results/supernet",
        task="results/tasks/{task}",
        candidates="results/search/{task}/round_all/candidates.csv",
        shards=shards_of("all"),
    output:
        table="results/exhaustive/{task}.csv",
        about="results/exhaustive/{task}.json",
    log:
        "logs/tabulate/{task}.log",
    benchmark:
        "results/timings/jobs/tabulate/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    params:
        code=code_digest("tabulate"),
        space=SPACE,
    shell:
        "llama-nas tabulate --code {params.code} {params.space} --model {input.model} --supernet {input.supernet} --task {input.task} "
        "--candidates {input.candidates} --shards {input.shards} --about {output.about} --output {output.table} 2> {log}"


rule exhaustive:
    """Evaluate every network of the space on every task; not part of a run."""
    input:
        expand("results/exhaustive/{task}.csv", task=config["tasks"]),
    localrule: True

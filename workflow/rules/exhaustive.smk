# Reads: results/supernet/, results/tasks/{task}/. Writes: results/exhaustive/. Every network of the space, evaluated by
# the search's own rule `evaluate`, as a truth to judge searches by: `snakemake exhaustive`.


rule enumerate_space:
    """List every network of the space."""
    input:
        space="results/space.json",
    output:
        "results/search/{task}/all/candidates.csv",
    log:
        "logs/enumerate_space/{task}.log",
    benchmark:
        "results/timings/jobs/enumerate_space/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("enumerate-space"),
    shell:
        "llama-nas enumerate-space --code {params.code} --space {input.space} --output {output} 2> {log}"


rule tabulate:
    """Gather the evaluations of every network, with what they are of."""
    input:
        space="results/space.json",
        supernet="results/supernet",
        task="results/tasks/{task}",
        candidates="results/search/{task}/all/candidates.csv",
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
    params:
        code=code_digest("tabulate"),
    shell:
        "llama-nas tabulate"
        " --code {params.code}"
        " --space {input.space}"
        " --supernet {input.supernet}"
        " --task {input.task}"
        " --candidates {input.candidates}"
        " --shards {input.shards}"
        " --about {output.about}"
        " --output {output.table} 2> {log}"


rule exhaustive:
    """Evaluate every network of the space on every task; not part of a run."""
    input:
        expand("results/exhaustive/{task}.csv", task=TASKS),
    localrule: True

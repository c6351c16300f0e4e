# Reads: a finished search. Writes: results/patterns/, results/figures/. What good networks have in common, and whether
# networks made after it are good (paper, section 4.5): `snakemake patterns`. A run makes the tables and figures of the
# first.


include: "helpers/patterns.smk"


rule find_patterns:
    """Layer counts by accuracy percentile, and blocks by layer."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=LAST_EVALUATIONS,
    output:
        layers="results/patterns/{task}_layers.csv",
        layers_figure=report(
            "results/figures/{task}_depths.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{task}",
        ),
        maps="results/patterns/{task}_blocks.csv",
        maps_figure=report(
            "results/figures/{task}_blocks.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{task}",
        ),
    log:
        "logs/find_patterns/{task}.log",
    benchmark:
        "results/timings/jobs/find_patterns/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("find-patterns"),
    shell:
        "llama-nas find-patterns"
        " --code {params.code}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " --layers {output.layers}"
        " --layers-figure {output.layers_figure}"
        " --maps {output.maps}"
        " --maps-figure {output.maps_figure} 2> {log}"


rule find_heuristics:
    """The networks that have in each layer the block most good networks have there, to be evaluated."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=LAST_EVALUATIONS,
    output:
        "results/search/{task}/heuristics/candidates.csv",
    log:
        "logs/find_heuristics/{task}.log",
    benchmark:
        "results/timings/jobs/find_heuristics/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("find-heuristics"),
        named=named_networks,
    shell:
        "llama-nas find-heuristics"
        " --code {params.code}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " {params.named}"
        " --output {output} 2> {log}"


rule judge_heuristics:
    """The heuristics, evaluated as any candidate, against the full network and the search's front."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        front="results/search/{task}/front.csv",
        candidates="results/search/{task}/heuristics/candidates.csv",
        shards=shards_of("heuristics"),
    output:
        "results/patterns/{task}_heuristics.csv",
    log:
        "logs/judge_heuristics/{task}.log",
    benchmark:
        "results/timings/jobs/judge_heuristics/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("judge-heuristics"),
    shell:
        "llama-nas judge-heuristics"
        " --code {params.code}"
        " --space {input.space}"
        " --task {input.task}"
        " --front {input.front}"
        " --candidates {input.candidates}"
        " --shards {input.shards}"
        " --output {output} 2> {log}"


rule patterns:
    """What good networks have in common, for every task."""
    input:
        expand("results/patterns/{task}_{table}.csv", task=TASKS, table=["layers", "blocks", "heuristics"]),
    localrule: True

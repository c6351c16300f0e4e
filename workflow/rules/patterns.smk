# Reads: a finished search. Writes: results/patterns/, results/figures/. What good networks have in common, and whether
# networks made after it are good (paper, section 4.5): `snakemake patterns`. A run makes the tables and figures of the first.


rule find_patterns:
    """Layer counts by accuracy percentile, and widths by layer."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv",
    output:
        layers="results/patterns/{task}_layers.csv",
        layers_figure=report(
            "results/figures/{task}_depths.svg",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{task}",
        ),
        maps="results/patterns/{task}_widths.csv",
        maps_figure=report(
            "results/figures/{task}_widths.svg",
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
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        code=code_digest("patterns"),
        widths=WIDTHS,
    shell:
        "llama-nas patterns --code {params.code} --model {input.model} --widths {params.widths} --task {input.task} "
        "--evaluations {input.evaluations} --output {output.layers} --figure {output.layers_figure} "
        "--maps {output.maps} --maps-figure {output.maps_figure} 2> {log}"


rule find_heuristics:
    """The networks that have in each layer the width most good networks have there, to be evaluated."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv",
    output:
        "results/search/{task}/round_heuristics/candidates.csv",
    log:
        "logs/find_heuristics/{task}.log",
    benchmark:
        "results/timings/jobs/find_heuristics/{task}.tsv"
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
        code=code_digest("heuristics"),
        widths=WIDTHS,
        named=named_networks,
    shell:
        "llama-nas heuristics --code {params.code} --model {input.model} --widths {params.widths} --task {input.task} "
        "--evaluations {input.evaluations} {params.named} --output {output} 2> {log}"


rule judge_heuristics:
    """The heuristics, evaluated as any candidate, against the full network and the search's front."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        front="results/search/{task}/front.csv",
        candidates="results/search/{task}/round_heuristics/candidates.csv",
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
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        code=code_digest("judge-heuristics"),
        widths=WIDTHS,
    shell:
        "llama-nas judge-heuristics --code {params.code} --model {input.model} --widths {params.widths} --task {input.task} --front {input.front} "
        "--candidates {input.candidates} --shards {input.shards} --output {output} 2> {log}"


rule patterns:
    """What good networks have in common, for every task."""
    input:
        expand("results/patterns/{task}_{table}.csv", task=config["tasks"], table=["layers", "widths", "heuristics"]),
    localrule: True

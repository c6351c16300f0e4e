# Reads: all fronts. Writes: results/transfer/, results/figures/transfer_*.svg. Every front's members on every task:
# whether one network serves all (paper, section 4.5). A run of one task has nothing to compare, and none of these rules.


include: "helpers/transfer.smk"


TRANSFER = (
    {
        "matrix": "results/transfer/matrix.csv",
        "maps": "results/transfer/maps.csv",
        "scores_figure": "results/figures/transfer_scores.svg",
        "maps_figure": "results/figures/transfer_maps.svg",
    }
    if len(TASKS) > 1
    else {}
)


if TRANSFER:

    rule choose_transfer:
        """The members of all fronts and the full network, to be evaluated on every task."""
        input:
            space="results/space.json",
            fronts=expand("results/search/{task}/front.csv", task=TASKS),
        output:
            expand("results/search/{task}/transfer/candidates.csv", task=TASKS),
        log:
            "logs/choose_transfer.log",
        benchmark:
            "results/timings/jobs/choose_transfer.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        params:
            code=code_digest("choose-transfer"),
        shell:
            "llama-nas choose-transfer"
            " --code {params.code}"
            " --space {input.space}"
            " --fronts {input.fronts}"
            " --outputs {output} 2> {log}"

    rule compare_tasks:
        """The transfer matrix with intervals, the network that is best for all tasks, and the width maps compared."""
        input:
            space="results/space.json",
            tasks=expand("results/tasks/{task}", task=TASKS),
            evaluations=expand(LAST_EVALUATIONS, task=TASKS),
            judgements=expand("results/search/{task}/judgement.csv", task=TASKS),
            bases=expand("results/benchmarks/{task}/fp16/pretrained.json", task=TASKS),
            shards=transfer_shards,
        output:
            matrix=report(TRANSFER["matrix"], caption="../report/transfer.rst", category="Summary"),
            maps=TRANSFER["maps"],
            scores_figure=report(TRANSFER["scores_figure"], caption="../report/transfer.rst", category="Figures"),
            maps_figure=report(TRANSFER["maps_figure"], caption="../report/transfer.rst", category="Figures"),
        log:
            "logs/compare_tasks.log",
        benchmark:
            "results/timings/jobs/compare_tasks.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        params:
            code=code_digest("compare-tasks"),
            seed=config["seed"],
            shards=named_shards,
            search_items=all_search_items(),
            size_unit=config["report"]["size_unit"],
        shell:
            "llama-nas compare-tasks"
            " --code {params.code}"
            " --seed {params.seed}"
            " --space {input.space}"
            " --tasks {input.tasks}"
            " --evaluations {input.evaluations}"
            " --judgements {input.judgements}"
            " --bases {input.bases}"
            " --shards {params.shards}"
            " --search-items {params.search_items}"
            " --size-unit {params.size_unit}"
            " --matrix {output.matrix}"
            " --maps {output.maps}"
            " --scores-figure {output.scores_figure}"
            " --maps-figure {output.maps_figure} 2> {log}"

    rule transfer:
        """Every front's members on every task."""
        input:
            list(TRANSFER.values()),
        localrule: True

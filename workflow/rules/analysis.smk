# Reads: fronts, benchmarks, agreement, throughput. Writes: results/summary/, results/figures/, results/cards/ and
# results/summary.html.


include: "helpers/analysis.smk"


FIGURES = ["front", "quantized", "speed", "progress"]
PATTERN_FIGURES = ["depths", "blocks"]  # patterns.smk


rule summarize:
    """All contenders of one task: size, accuracy, speed, FP16 against INT8."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=LAST_EVALUATIONS,
        front="results/search/{task}/front.csv",
        judgement="results/search/{task}/judgement.csv",
        models=contender_folders,
        benchmarks=task_benchmarks,
        agreement="results/agreement/{task}.json",
        throughput="results/timings/throughput.csv",
    output:
        table=report(
            "results/summary/{task}.csv",
            caption="../report/summary.rst",
            category="Summary",
        ),
        figures=report(
            expand("results/figures/{{task}}_{figure}.svg", figure=FIGURES),
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{task}",
        ),
    log:
        "logs/summarize/{task}.log",
    benchmark:
        "results/timings/jobs/summarize/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("summarize"),
        contenders=named_contenders,
        subset=search_items,
        size_unit=config["report"]["size_unit"],
    shell:
        "llama-nas summarize"
        " --code {params.code}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " --front {input.front}"
        " --judgement {input.judgement}"
        " --contenders {params.contenders:q}"
        " --benchmarks {input.benchmarks}"
        " --agreement {input.agreement}"
        " --throughput {input.throughput}"
        " {params.subset}"
        " --size-unit {params.size_unit}"
        " --figures {output.figures}"
        " --output {output.table} 2> {log}"


rule write_cards:
    """A model card with scores for every exported and quantized folder: the README.md to publish it with."""
    input:
        models=carded_folders,
        summaries=expand("results/summary/{task}.csv", task=TASKS),
    output:
        directory("results/cards"),
    log:
        "logs/write_cards.log",
    benchmark:
        "results/timings/jobs/write_cards.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("write-cards"),
    shell:
        "llama-nas write-cards"
        " --code {params.code}"
        " --models {input.models:q}"
        " --summaries {input.summaries}"
        " --output {output} 2> {log}"


rule write_report:
    """The page with the answer: per task, how much smaller at what accuracy, and which checkpoint to take."""
    input:
        base="results/base",
        supernet="results/supernet",
        space="results/space.json",
        summaries=expand("results/summary/{task}.csv", task=TASKS),
        judgements=expand("results/search/{task}/judgement.csv", task=TASKS),
        figures=expand("results/figures/{task}_{figure}.svg", task=TASKS, figure=FIGURES + PATTERN_FIGURES),
        agreements=expand("results/agreement/{task}.json", task=TASKS),
        predictors=expand("results/search/{task}/round_{round}/predictor.json", task=TASKS, round=range(2, ROUNDS + 1)),
        predictions=expand(
            "results/search/{task}/round_{round}/predictions.json", task=TASKS, round=range(1, ROUNDS + 1)
        ),
        transfer=list(TRANSFER.values()),
    output:
        report("results/summary.html", caption="../report/report.rst", category="Summary"),
    log:
        "logs/write_report.log",
    benchmark:
        "results/timings/jobs/write_report.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("write-report"),
        seed=config["seed"],
        size_unit=config["report"]["size_unit"],
        command=unwatched(target_command()),
        # No declared input: what a job cost is no part of what it made.
        timings="results/timings/jobs",
        predictors=predictors_option,
        transfer=transfer_option,
    shell:
        "llama-nas write-report"
        " --code {params.code}"
        " --seed {params.seed}"
        " --base {input.base}"
        " --supernet {input.supernet}"
        " --space {input.space}"
        " --summaries {input.summaries}"
        " --judgements {input.judgements}"
        " --figures {input.figures}"
        " --agreements {input.agreements}"
        " {params.predictors}"
        " --predictions {input.predictions}"
        " {params.transfer}"
        " --size-unit {params.size_unit}"
        " --command {params.command:q}"
        " --timings {params.timings}"
        " --output {output} 2> {log}"

# Reads: fronts, benchmarks, agreement, throughput. Writes: results/summary/, results/figures/, results/summary.html.

FIGURES = ["front", "quantized", "speed", "progress"]
PATTERN_FIGURES = ["depths", "widths"]  # patterns.smk


rule summarize:
    """Base, super-network and exported members of one task: size, accuracy, speed, FP16 against INT8."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv",
        front="results/search/{task}/front.csv",
        benchmarks=task_benchmarks,
        agreement="results/agreement/{task}.json",
        throughput="results/timings/throughput/{task}.csv",
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
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        code=code_digest("summarize"),
        widths=WIDTHS,
    shell:
        "llama-nas summarize --code {params.code} --widths {params.widths} --model {input.model} --task {input.task} "
        "--evaluations {input.evaluations} --front {input.front} --benchmarks {input.benchmarks} "
        "--agreement {input.agreement} --throughput {input.throughput} "
        "--output {output.table} --figures {output.figures} 2> {log}"


rule cards:
    """A model card with scores for every exported and quantized folder: the README.md to publish it with."""
    input:
        models=carded_folders,
        summaries=expand("results/summary/{task}.csv", task=config["tasks"]),
    output:
        directory("results/cards"),
    log:
        "logs/cards.log",
    benchmark:
        "results/timings/jobs/cards.tsv"
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
        code=code_digest("cards"),
    shell:
        "llama-nas cards --code {params.code} --models {input.models} --summaries {input.summaries} --output {output} 2> {log}"


rule report:
    """The page with the answer: per task, how much smaller at what accuracy, and which checkpoint to take."""
    input:
        base="results/base",
        supernet="results/supernet",
        tasks=expand("results/tasks/{task}", task=config["tasks"]),
        summaries=expand("results/summary/{task}.csv", task=config["tasks"]),
        figures=expand("results/figures/{task}_{figure}.svg", task=config["tasks"], figure=FIGURES + PATTERN_FIGURES),
        agreements=expand("results/agreement/{task}.json", task=config["tasks"]),
        predictors=expand(
            "results/search/{task}/round_{round}/predictor.json",
            task=config["tasks"],
            round=range(1, ROUNDS + 1),
        ),
    output:
        report("results/summary.html", caption="../report/report.rst", category="Summary"),
    log:
        "logs/report.log",
    benchmark:
        "results/timings/jobs/report.tsv"
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
        code=code_digest("report"),
        seed=config["seed"],
        # No declared input: what a job cost is no part of what it made.
        timings="results/timings/jobs",
    shell:
        "llama-nas report --code {params.code} --seed {params.seed} --base {input.base} --supernet {input.supernet} "
        "--summaries {input.summaries} --figures {input.figures} --agreements {input.agreements} "
        "--predictors {input.predictors} --timings {params.timings} --output {output} 2> {log}"

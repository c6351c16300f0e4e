# Reads: results/supernet/, results/space.json, results/tasks/{task}/, the base's benchmark. Writes:
# results/search/{task}/round_{round}/, front.csv and judgement.csv. Rounds of real evaluation, predictor and proposal
# (LINAS, arXiv 2202.12954), by static recursion over the rounds.

from llama_nas.config import search_rounds
from llama_nas.core.layout import PRETRAINED


include: "helpers/search.smk"


SEARCH = config["search"]
ROUNDS = search_rounds(config)
LAST_EVALUATIONS = f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv"
EVOLUTION = ("generations", "crossover_probability", "crossover_eta", "mutation_probability", "mutation_eta")
ALGORITHM = ("algorithm", "variant", "population")


rule sample:
    """Choose the first round's candidates."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        costs=COSTS,
    output:
        "results/search/{task}/round_1/candidates.csv",
    log:
        "logs/sample/{task}.log",
    benchmark:
        "results/timings/jobs/sample/{task}.tsv"
    priority: 1  # before the fine-tuning, where a machine cannot run both: it checks the task's keys
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("sample"),
        seed=config["seed"],
        settings=options(SEARCH, *ALGORITHM),
        goals=goals,
        subset=search_items,
    shell:
        "llama-nas sample"
        " --code {params.code}"
        " --seed {params.seed}"
        " {params.settings}"
        " {params.goals}"
        " {params.subset}"
        " --space {input.space}"
        " --task {input.task}"
        " --output {output} 2> {log}"


rule evaluate:
    """Score one shard of a batch of candidates on real items; one model load for all of them."""
    input:
        space="results/space.json",
        supernet="results/supernet",
        task="results/tasks/{task}",
        candidates="results/search/{task}/{batch}/candidates.csv",
    output:
        "results/search/{task}/{batch}/shard_{shard}-of-{shards}.csv",
    log:
        "logs/evaluate/{task}/{batch}/shard_{shard}-of-{shards}.log",
    benchmark:
        "results/timings/jobs/evaluate/{task}/{batch}/shard_{shard}-of-{shards}.tsv"
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: config["compute"]["threads"]
    resources:
        mem_mb=memory(4000, 2 * BYTES_PER_WEIGHT[config["compute"]["dtype"]]),
        runtime=720,
        gpu=GPU,
    params:
        code=code_digest("evaluate"),
        compute=COMPUTE,
        dtype=config["compute"]["dtype"],
        subset=evaluation_items,
        timings="results/timings/evaluate/{task}/{batch}/shard_{shard}-of-{shards}.json",
    shell:
        "llama-nas evaluate"
        " --code {params.code}"
        " {params.compute}"
        " --dtype {params.dtype}"
        " --space {input.space}"
        " --supernet {input.supernet}"
        " --task {input.task}"
        " --candidates {input.candidates}"
        " --shard {wildcards.shard}"
        " --shards {wildcards.shards}"
        " {params.subset}"
        " --timings {params.timings}"
        " --output {output} 2> {log}"


rule gather:
    """Gather the round's shards behind all earlier evaluations; write down how good the predictions were."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        candidates="results/search/{task}/round_{round}/candidates.csv",
        shards=shards_of("round_{round}"),
        earlier=earlier_evaluations,
    output:
        evaluations="results/search/{task}/round_{round}/evaluations.csv",
        predictions="results/search/{task}/round_{round}/predictions.json",
    log:
        "logs/gather/{task}/round_{round}.log",
    benchmark:
        "results/timings/jobs/gather/{task}/round_{round}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("gather"),
        earlier=earlier_option,
    shell:
        "llama-nas gather"
        " --code {params.code}"
        " --round {wildcards.round}"
        " --space {input.space}"
        " --task {input.task}"
        " --candidates {input.candidates}"
        " --shards {input.shards}"
        " {params.earlier}"
        " --predictions {output.predictions}"
        " --output {output.evaluations} 2> {log}"


rule propose:
    """Propose this round's candidates: LINAS fits a predictor to all evaluations and runs NSGA-II on it."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=earlier_evaluations,
        costs=COSTS,
    output:
        candidates="results/search/{task}/round_{round}/candidates.csv",
        predictor="results/search/{task}/round_{round}/predictor.json",
        generations="results/search/{task}/round_{round}/generations.csv",
    log:
        "logs/propose/{task}/round_{round}.log",
    benchmark:
        "results/timings/jobs/propose/{task}/round_{round}.tsv"
    wildcard_constraints:
        round="[2-9]|[1-9][0-9]+",
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("propose"),
        seed=config["seed"],
        settings=options(SEARCH, *ALGORITHM, *EVOLUTION, "predictor"),
        goals=goals,
    shell:
        "llama-nas propose"
        " --code {params.code}"
        " --seed {params.seed}"
        " {params.settings}"
        " {params.goals}"
        " --round {wildcards.round}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " --fitted {output.predictor}"
        " --generations-table {output.generations}"
        " --output {output.candidates} 2> {log}"


rule choose_finalists:
    """List the front of the search and the full network, to be evaluated on all items."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=LAST_EVALUATIONS,
        costs=COSTS,
    output:
        "results/search/{task}/finalists/candidates.csv",
    log:
        "logs/choose_finalists/{task}.log",
    benchmark:
        "results/timings/jobs/choose_finalists/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("choose-finalists"),
        goals=goals,
    shell:
        "llama-nas choose-finalists"
        " --code {params.code}"
        " {params.goals}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " --output {output} 2> {log}"


checkpoint find_front:
    """Keep the non-dominated networks and judge them against the base. Which they are is known only now."""
    input:
        space="results/space.json",
        task="results/tasks/{task}",
        evaluations=LAST_EVALUATIONS,
        candidates="results/search/{task}/finalists/candidates.csv",
        shards=shards_of("finalists"),
        base=f"results/benchmarks/{{task}}/fp16/{PRETRAINED}.json",
        costs=COSTS,
    output:
        front="results/search/{task}/front.csv",
        judgement="results/search/{task}/judgement.csv",
    log:
        "logs/find_front/{task}.log",
    benchmark:
        "results/timings/jobs/find_front/{task}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("find-front"),
        goals=goals,
        max_drop=config["answer"]["max_drop"],
        subset=search_items,
    shell:
        "llama-nas find-front"
        " --code {params.code}"
        " {params.goals}"
        " --space {input.space}"
        " --task {input.task}"
        " --evaluations {input.evaluations}"
        " --candidates {input.candidates}"
        " --shards {input.shards}"
        " --base {input.base}"
        " --max-drop {params.max_drop}"
        " {params.subset}"
        " --judgement {output.judgement}"
        " --output {output.front} 2> {log}"


rule fronts:
    """Collect the Pareto fronts of all tasks; all jobs up to here are known before the run starts."""
    input:
        expand("results/search/{task}/front.csv", task=TASKS),
    localrule: True

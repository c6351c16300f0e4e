# Reads: results/supernet/, results/tasks/{task}/. Writes: results/search/{task}/round_{round}/ and front.csv.
# Rounds of real evaluation, predictor and proposal (LINAS, arXiv 2202.12954), by static recursion over the rounds.

SEARCH = config["search"]
if search_evaluations(config) < SEARCH["evaluations"]:

    onstart:
        print(
            f"The space has fewer networks than search.evaluations {SEARCH['evaluations']}: "
            f"it ends when all are evaluated, in round {ROUNDS}.",
            file=sys.stderr,
        )


GOALS = ("objectives", "precision", "max_size", "latency")
PROPOSAL = [key for key in SEARCH if key not in ("predictor", "evaluations", "shards", *GOALS)]


rule sample:
    """Choose the first round's candidates."""
    input:
        model="results/base",
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
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        code=code_digest("sample"),
        seed=config["seed"],
        space=SPACE,
        settings=chosen(SEARCH, "algorithm", "variant", "population"),
        goals=goals,
        subset=lambda wildcards: chosen(config["tasks"][wildcards.task], "search_items"),
    shell:
        "llama-nas sample --code {params.code} --seed {params.seed} {params.space} {params.settings} {params.goals} {params.subset} "
        "--task {input.task} --model {input.model} --output {output} 2> {log}"


rule evaluate:
    """Score one shard of a round's candidates on real items; one model load for all of them."""
    input:
        supernet="results/supernet",
        task="results/tasks/{task}",
        candidates="results/search/{task}/round_{round}/candidates.csv",
    output:
        "results/search/{task}/round_{round}/shard_{shard}-of-{shards}.csv",
    log:
        "logs/evaluate/{task}/round_{round}/shard_{shard}-of-{shards}.log",
    benchmark:
        "results/timings/jobs/evaluate/{task}/round_{round}/shard_{shard}-of-{shards}.tsv"
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
        space=SPACE,
        compute=COMPUTE,
        dtype=config["compute"]["dtype"],
        subset=evaluation_items,
        timings="results/timings/evaluate/{task}/round_{round}/shard_{shard}-of-{shards}.json",
    shell:
        "llama-nas evaluate --code {params.code} {params.space} {params.compute} --dtype {params.dtype} --supernet {input.supernet} "
        "--task {input.task} --candidates {input.candidates} --shard {wildcards.shard} --shards {wildcards.shards} {params.subset} "
        "--timings {params.timings} --output {output} 2> {log}"


rule fit:
    """Gather the round's shards with all earlier evaluations and fit the predictor; its quality is written down."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        candidates="results/search/{task}/round_{round}/candidates.csv",
        shards=shards_of("{round}"),
        earlier=earlier_evaluations,
    output:
        evaluations="results/search/{task}/round_{round}/evaluations.csv",
        predictor="results/search/{task}/round_{round}/predictor.json",
    log:
        "logs/fit/{task}/round_{round}.log",
    benchmark:
        "results/timings/jobs/fit/{task}/round_{round}.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        code=code_digest("fit"),
        seed=config["seed"],
        space=SPACE,
        settings=chosen(SEARCH, "variant", "predictor"),
        earlier=earlier_option,
    shell:
        "llama-nas fit --code {params.code} --seed {params.seed} {params.space} {params.settings} {params.earlier} "
        "--round {wildcards.round} --model {input.model} --task {input.task} --candidates {input.candidates} "
        "--shards {input.shards} --evaluations {output.evaluations} --output {output.predictor} 2> {log}"


rule propose:
    """Propose this round's candidates: LINAS by NSGA-II on the last round's predictor."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=previous("evaluations.csv"),
        predictor=previous("predictor.json"),
        costs=COSTS,
    output:
        candidates="results/search/{task}/round_{round}/candidates.csv",
        history="results/search/{task}/round_{round}/generations.csv",
    log:
        "logs/propose/{task}/round_{round}.log",
    benchmark:
        "results/timings/jobs/propose/{task}/round_{round}.tsv"
    wildcard_constraints:
        round="[2-9]|[1-9][0-9]+",
    localrule: True
    conda:
        "../../envs/search.yaml"
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        code=code_digest("propose"),
        seed=config["seed"],
        space=SPACE,
        settings=chosen(SEARCH, *PROPOSAL),
        goals=goals,
        round=previous_round,
    shell:
        "llama-nas propose --code {params.code} --seed {params.seed} {params.space} {params.settings} {params.goals} --round {params.round} "
        "--model {input.model} --task {input.task} --evaluations {input.evaluations} "
        "--predictor {input.predictor} --history {output.history} --output {output.candidates} 2> {log}"


rule finalists:
    """After a search on some of the items: its front and the full network, to be evaluated on all items."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv",
        costs=COSTS,
    output:
        "results/search/{task}/round_final/candidates.csv",
    log:
        "logs/finalists/{task}.log",
    benchmark:
        "results/timings/jobs/finalists/{task}.tsv"
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
        code=code_digest("finalists"),
        space=SPACE,
        goals=goals,
    shell:
        "llama-nas finalists --code {params.code} {params.space} {params.goals} --model {input.model} --task {input.task} "
        "--evaluations {input.evaluations} --output {output} 2> {log}"


checkpoint front:
    """Keep the non-dominated networks among all real evaluations. Which they are is known only now."""
    input:
        model="results/base",
        task="results/tasks/{task}",
        evaluations=f"results/search/{{task}}/round_{ROUNDS}/evaluations.csv",
        finalists=finalists,
        costs=COSTS,
    output:
        "results/search/{task}/front.csv",
    log:
        "logs/front/{task}.log",
    benchmark:
        "results/timings/jobs/front/{task}.tsv"
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
        code=code_digest("front"),
        space=SPACE,
        goals=goals,
        finalists=finalists_options,
    shell:
        "llama-nas front --code {params.code} {params.space} {params.goals} --model {input.model} --task {input.task} "
        "--evaluations {input.evaluations} {params.finalists} --output {output} 2> {log}"


rule fronts:
    """Collect the Pareto fronts of all tasks; all jobs up to here are known before the run starts."""
    input:
        expand("results/search/{task}/front.csv", task=config["tasks"]),
    localrule: True

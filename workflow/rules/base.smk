# Reads: nothing, a local folder, or the Hub. Writes: results/base/ (Hugging Face layout), resources/hub/.

WORLD = config["embedded"]
BASE_FOLDER = local_base(config) or f"resources/hub/{config['base'].get('hub_id')}"


if EMBEDDED:

    rule world:
        """Generate the embedded world: corpus, instructions, five benchmarks in the real ones' dataset formats."""
        output:
            directory("results/world"),
        log:
            "logs/world.log",
        benchmark:
            "results/timings/jobs/world.tsv"
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
            code=code_digest("world"),
            seed=config["seed"],
            settings=chosen(WORLD, "inhabitants", "items"),
        shell:
            "llama-nas world --code {params.code} --seed {params.seed} {params.settings} --output {output} 2> {log}"

    rule pretrain:
        """Pre-train the embedded world's Llama on its corpus."""
        input:
            world="results/world",
        output:
            directory("results/base"),
        log:
            "logs/pretrain.log",
        benchmark:
            "results/timings/jobs/pretrain.tsv"
        conda:
            "../../envs/train.yaml"
        container:
            image("train")
        threads: WORLD["threads"]
        resources:
            mem_mb=memory(4000),
            runtime=60,
            gpu=GPU,
        params:
            code=code_digest("pretrain"),
            seed=config["seed"],
            settings=chosen(WORLD, *[key for key in WORLD if key not in ("inhabitants", "items")]),
            device=config["compute"]["device"],
        shell:
            "llama-nas pretrain --code {params.code} --seed {params.seed} --device {params.device} {params.settings} "
            "--world {input.world} --output {output} 2> {log}"

else:

    rule base_model:
        """Check a pre-trained model against the search space and take it as the base."""
        input:
            source=BASE_FOLDER,
        output:
            directory("results/base"),
        log:
            "logs/base_model.log",
        benchmark:
            "results/timings/jobs/base_model.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        container:
            image("search")
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=60,
        params:
            code=code_digest("base"),
            space=unwatched(SPACE),  # only checked, and by what reads the model, too
        shell:
            "llama-nas base --code {params.code} {params.space} --source {input.source} --output {output} 2> {log}"


if config["base"]["source"] == "hub" and "data_root" not in config:

    rule fetch_model:
        """Fetch the base model from the Hub; its config.json is checked against the space before any weight."""
        output:
            directory(BASE_FOLDER),
        log:
            "logs/fetch_model.log",
        benchmark:
            "results/timings/jobs/fetch_model.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        container:
            image("search")
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=600,
        params:
            repository=config["base"]["hub_id"],
            revision=config["base"]["revision"],
            space=unwatched(f"--widths {WIDTHS} --depths {DEPTHS}"),  # likewise: nothing is fetched again for another one
        shell:
            "HF_HUB_OFFLINE=0 llama-nas fetch --kind model --repo {params.repository} "
            "--revision {params.revision} {params.space} --output {output} 2> {log}"


rule fetch_dataset:
    """Fetch a dataset from the Hub at its pinned revision."""
    output:
        directory("resources/hub/{dataset}"),
    log:
        "logs/fetch_dataset/{dataset}.log",
    benchmark:
        "results/timings/jobs/fetch_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(
            [
                *DATASETS,
                config.get("instructions", {}).get("hub_id", "no-hub-instructions"),
            ]
        ),
    localrule: True
    conda:
        "../../envs/search.yaml"
    container:
        image("search")
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        revision=fetched_revision,
    shell:
        "HF_HUB_OFFLINE=0 llama-nas fetch --kind dataset --repo {wildcards.dataset} "
        "--revision {params.revision} --output {output} 2> {log}"

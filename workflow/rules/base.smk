# Reads: nothing, a local folder, or the Hub. Writes: results/world/, results/base/ (Hugging Face layout),
# resources/hub/. The embedded world's Llama comes with the repository; a world with other settings pre-trains its own.

from llama_nas.config import SHIPPED_BASE, takes_shipped_base


include: "helpers/base.smk"


WORLD = config["embedded"]
WORLD_KEYS = ("inhabitants", "items")
SHIPPED = takes_shipped_base(config)
SOURCE = str(SHIPPED_BASE) if SHIPPED else BASE_FOLDER
DATASETS = sorted({dataset for dataset in map(task_dataset, *zip(*config["tasks"].items())) if dataset})


if EMBEDDED:

    rule make_world:
        """Generate the embedded world: corpus, instructions, five benchmarks in the real ones' dataset formats."""
        output:
            directory("results/world"),
        log:
            "logs/make_world.log",
        benchmark:
            "results/timings/jobs/make_world.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        params:
            code=code_digest("make-world"),
            seed=config["seed"],
            settings=options(WORLD, *WORLD_KEYS),
        shell:
            "llama-nas make-world"
            " --code {params.code}"
            " --seed {params.seed}"
            " {params.settings}"
            " --output {output} 2> {log}"


if EMBEDDED and not SHIPPED:

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
            settings=options(WORLD, *[key for key in WORLD if key not in WORLD_KEYS]),
            device=config["compute"]["device"],
        shell:
            "llama-nas pretrain"
            " --code {params.code}"
            " --seed {params.seed}"
            " --device {params.device}"
            " {params.settings}"
            " --world {input.world}"
            " --output {output} 2> {log}"

else:

    rule take_base:
        """Check a pre-trained model and take it as the base."""
        input:
            literal(SOURCE),
        output:
            directory("results/base"),
        log:
            "logs/take_base.log",
        benchmark:
            "results/timings/jobs/take_base.tsv"
        localrule: True
        conda:
            "../../envs/search.yaml"
        params:
            code=code_digest("take-base"),
            source=base_source,
        shell:
            "llama-nas take-base --code {params.code} --source {params.source:q} --output {output} 2> {log}"


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
        params:
            source=options({"repo": config["base"]["hub_id"], "revision": config["base"]["revision"]}),
            # Another space fetches nothing again: the stage declare-space checks it as well.
            space=unwatched(options(config["space"], "depths", "widths")),
        shell:
            "HF_HUB_OFFLINE=0 llama-nas fetch-model"
            " {params.source}"
            " {params.space}"
            " --output {output:q} 2> {log}"


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
            map(re.escape, [*DATASETS, config.get("instructions", {}).get("hub_id", "no-hub-instructions")])
        ),
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        revision=fetched_revision,
    shell:
        "HF_HUB_OFFLINE=0 llama-nas fetch-dataset"
        " --repo {wildcards.dataset:q}"
        " --revision {params.revision:q}"
        " --output {output:q} 2> {log}"

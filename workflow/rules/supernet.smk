# Reads: results/base/, the instructions. Writes: results/rows/ (tokenised), results/layer_order.json and
# results/ordered/ (if the space asks for the order of layers or channels), results/space.json, results/supernet/ (with
# training.csv).


include: "helpers/supernet.smk"


SPACE = config["space"]
TRAINING = config["training"]
SORTED = SPACE["width_selection"] == "importance"
MEASURED = SPACE["depth_selection"] == "importance"


rule tokenize:
    """Tokenise the instructions once, with Stanford Alpaca's prompts and masking."""
    input:
        base="results/base",
        instructions=instructions,
    output:
        directory("results/rows"),
    log:
        "logs/tokenize.log",
    benchmark:
        "results/timings/jobs/tokenize.tsv"
    conda:
        "../../envs/train.yaml"
    container:
        image("train")
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        code=code_digest("tokenize"),
        max_length=TRAINING["max_length"],
        instructions=instructions_path,
    shell:
        "llama-nas tokenize"
        " --code {params.code}"
        " --max-length {params.max_length}"
        " --base {input.base}"
        " --instructions {params.instructions:q}"
        " --output {output} 2> {log}"


if MEASURED:

    rule order_layers:
        """Find the order in which the base model misses its layers least."""
        input:
            base="results/base",
            rows="results/rows",
        output:
            "results/layer_order.json",
        log:
            "logs/order_layers.log",
        benchmark:
            "results/timings/jobs/order_layers.tsv"
        conda:
            "../../envs/train.yaml"
        container:
            image("train")
        threads: TRAINING["threads"]
        resources:
            mem_mb=memory(8000, 8),
            runtime=720,
            gpu=GPU,
        params:
            code=code_digest("order-layers"),
            seed=config["seed"],
            smallest_depth=min(SPACE["depths"]),
            compute=options({"device": config["compute"]["device"], "threads": TRAINING["threads"]}),
        shell:
            "llama-nas order-layers"
            " --code {params.code}"
            " --seed {params.seed}"
            " --smallest-depth {params.smallest_depth}"
            " {params.compute}"
            " --base {input.base}"
            " --rows {input.rows}"
            " --output {output} 2> {log}"


rule declare_space:
    """Check the space against the base model and write it down: what every later stage reads."""
    input:
        model="results/base",
        order="results/layer_order.json" if MEASURED else [],
    output:
        "results/space.json",
    log:
        "logs/declare_space.log",
    benchmark:
        "results/timings/jobs/declare_space.tsv"
    localrule: True
    conda:
        "../../envs/search.yaml"
    params:
        code=code_digest("declare-space"),
        space=declared_space(),
    shell:
        "llama-nas declare-space"
        " --code {params.code}"
        " {params.space}"
        " --model {input.model}"
        " --output {output} 2> {log}"


if SORTED:

    rule order_channels:
        """Sort the base's MLP channels by importance: the first N are then the N most important."""
        input:
            base="results/base",
            rows="results/rows",
        output:
            directory("results/ordered"),
        log:
            "logs/order_channels.log",
        benchmark:
            "results/timings/jobs/order_channels.tsv"
        conda:
            "../../envs/train.yaml"
        container:
            image("train")
        threads: TRAINING["threads"]
        resources:
            mem_mb=memory(8000, 8),
            runtime=120,
            gpu=GPU,
        params:
            code=code_digest("order-channels"),
            seed=config["seed"],
            compute=options({"device": config["compute"]["device"], "threads": TRAINING["threads"]}),
        shell:
            "llama-nas order-channels"
            " --code {params.code}"
            " --seed {params.seed}"
            " {params.compute}"
            " --base {input.base}"
            " --rows {input.rows}"
            " --output {output} 2> {log}"


# Beside the weights, or read by another stage; all other keys are options of `llama-nas finetune`.
BESIDE = {
    "checkpoint_every": TRAINING["checkpoint_every"],
    "tensorboard": "results/tensorboard" if TRAINING["tensorboard"] else None,
}
NOT_OPTIONS = ("max_length", *BESIDE)


rule finetune:
    """Fine-tune the base once as a super-network: full network and random sub-networks take turns (section 2.1)."""
    input:
        base="results/ordered" if SORTED else "results/base",
        rows="results/rows",
        space="results/space.json",
    output:
        directory("results/supernet"),
    log:
        "logs/finetune.log",
    benchmark:
        "results/timings/jobs/finetune.tsv"
    conda:
        "../../envs/train.yaml"
    container:
        image("train")
    threads: TRAINING["ranks"] * TRAINING["threads"]
    resources:
        # Every rank loads the weights in host memory; on CPU they stay there, with gradients and AdamW's state.
        mem_mb=memory(
            4000 + 2000 * TRAINING["ranks"],
            (1 + TRAINING["ranks"] * (1 if GPU else 2)) * BYTES_PER_WEIGHT[TRAINING["dtype"]] + (0 if GPU else 12),
        ),
        runtime=1440,
        gpu=GPU * TRAINING["ranks"],
        nodes=1,  # more: docs/guide/cluster.md
        mpi="",
    params:
        code=code_digest("finetune"),
        seed=config["seed"],
        settings=options(TRAINING, *[key for key in TRAINING if key not in NOT_OPTIONS]),
        beside=unwatched(options(BESIDE)),
        device=config["compute"]["device"],
        # Outside the declared outputs, which Snakemake deletes before a job: a killed run continues from here.
        checkpoints="results/checkpoints",
    shell:
        "{resources.mpi} llama-nas finetune"
        " --nodes {resources.nodes}"
        " --code {params.code}"
        " --seed {params.seed}"
        " {params.settings}"
        " {params.beside}"
        " --device {params.device}"
        " --base {input.base}"
        " --rows {input.rows}"
        " --space {input.space}"
        " --checkpoints {params.checkpoints}"
        " --output {output} 2> {log}"

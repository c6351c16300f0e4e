# Reads: results/base/, the instructions. Writes: results/rows/ (tokenised), results/ordered/ (the base with its channels
# sorted, if space.width_selection asks for it), results/supernet/ (Hugging Face layout, with training.csv).

TRAINING = config["training"]
SORTED = config["space"]["width_selection"] == "importance"
# Switches, a rule's own paths, and what another stage reads; all other keys are options of `llama-nas finetune`.
SWITCHES = [key for key in ("freeze_inactive", "gradient_checkpointing", "offload_optimizer") if TRAINING[key]]
BESIDE = {  # what is written beside the weights
    "checkpoint_every": TRAINING["checkpoint_every"],
    "tensorboard": "results/tensorboard" if TRAINING["tensorboard"] else None,
}
NOT_OPTIONS = ("max_length", "freeze_inactive", "gradient_checkpointing", "offload_optimizer", *BESIDE)


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
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        code=code_digest("tokenize"),
        settings=chosen(TRAINING, "max_length"),
        instructions=instructions_path,
    shell:
        "llama-nas tokenize --code {params.code} {params.settings} --base {input.base} --instructions {params.instructions} "
        "--output {output} 2> {log}"


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
            settings=chosen(TRAINING, "threads"),
            device=config["compute"]["device"],
        shell:
            "llama-nas order-channels --code {params.code} --seed {params.seed} {params.settings} --device {params.device} "
            "--base {input.base} --rows {input.rows} --output {output} 2> {log}"


rule finetune:
    """Fine-tune the base once as a super-network: full network and random sub-networks take turns (section 2.1)."""
    input:
        base="results/ordered" if SORTED else "results/base",
        rows="results/rows",
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
        nodes=1,  # more: docs/cluster.md
        mpi="",
    params:
        code=code_digest("finetune"),
        seed=config["seed"],
        space=SPACE,
        settings=chosen(TRAINING, *[key for key in TRAINING if key not in NOT_OPTIONS]),
        switches=" ".join(f"--{key.replace('_', '-')}" for key in SWITCHES),
        beside=unwatched(options(BESIDE)),
        device=config["compute"]["device"],
        # Outside the declared outputs, which Snakemake deletes before a job: a killed run continues from here.
        checkpoints="results/checkpoints",
    shell:
        "{resources.mpi} llama-nas finetune --nodes {resources.nodes} --code {params.code} --seed {params.seed} "
        "{params.space} {params.settings} {params.switches} {params.beside} --device {params.device} "
        "--base {input.base} --rows {input.rows} "
        "--checkpoints {params.checkpoints} --output {output} 2> {log}"

# Reads: results/base/, the instructions. Writes: results/supernet/ (Hugging Face layout, with training.csv).

TRAINING = config["training"]


rule finetune:
    """Fine-tune the base once as a super-network: full network and random sub-networks take turns (section 2.1)."""
    input:
        base="results/base",
        instructions=instructions,
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
        settings=chosen(TRAINING, *[key for key in TRAINING if key != "gradient_checkpointing"]),
        flags="--gradient-checkpointing" * TRAINING["gradient_checkpointing"],
        instructions=instructions_path,
        device=config["compute"]["device"],
        # Outside the declared outputs, which Snakemake deletes before a job: a killed run continues from here.
        checkpoints="results/checkpoints",
    shell:
        "{resources.mpi} llama-nas finetune --nodes {resources.nodes} --code {params.code} --seed {params.seed} {params.space} {params.settings} {params.flags} --device {params.device} "
        "--base {input.base} --instructions {params.instructions} "
        "--checkpoints {params.checkpoints} --output {output} 2> {log}"

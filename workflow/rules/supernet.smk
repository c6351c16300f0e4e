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
        mem_mb=memory(8000),
        runtime=1440,
        gpu=GPU * TRAINING["ranks"],
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
        "llama-nas finetune --code {params.code} --seed {params.seed} {params.space} {params.settings} {params.flags} --device {params.device} "
        "--base {input.base} --instructions {params.instructions} "
        "--checkpoints {params.checkpoints} --output {output} 2> {log}"

# Reads: results/base/, the instructions. Writes: results/supernet/ (Hugging Face layout, with training.csv).

TRAINING = {key: value for key, value in config["training"].items() if key != "gradient_checkpointing"}


def instructions(wildcards):
    """File or folder with the instruction data."""
    source = config.get("instructions")
    if source is None:
        return "results/world"
    if "path" in source:
        return source["path"]
    return f"{config.get('data_root', 'resources/hub')}/{source['hub_id']}"


rule finetune:
    """Fine-tune the base once as a super-network: full network and random sub-networks take turns (section 2.1)."""
    input:
        base="results/base",
        instructions=instructions,
    output:
        directory("results/supernet"),
    params:
        code=code_digest("finetune"),
        seed=config["seed"],
        space=SPACE,
        settings=options(TRAINING) + " --gradient-checkpointing" * config["training"]["gradient_checkpointing"],
        file="/instructions.json" if "instructions" not in config else "",
        device=config["compute"]["device"],
        # Outside the declared outputs, which Snakemake deletes before a job: a killed run continues from here.
        checkpoints="results/checkpoints",
    log:
        "logs/finetune.log",
    benchmark:
        "results/timings/jobs/finetune.tsv"
    threads: config["training"]["ranks"] * config["training"]["threads"]
    resources:
        mem_mb=memory(8000),
        runtime=1440,
        gpu=GPU * config["training"]["ranks"],
    conda:
        "../../envs/train.yaml"
    container:
        image("train")
    shell:
        "llama-nas finetune --seed {params.seed} {params.space} {params.settings} --device {params.device} "
        "--base {input.base} --instructions {input.instructions}{params.file} "
        "--checkpoints {params.checkpoints} --output {output} 2> {log}"

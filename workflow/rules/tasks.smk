# Reads: a benchmark's dataset and the base model's tokenizer. Writes: results/tasks/{task}/.


def data_root(wildcards):
    """Folder in Hub layout that has the task's dataset."""
    if "data_root" in config:
        return config["data_root"]
    return "results/world/hub" if config["base"]["source"] == "embedded" else "resources/hub"


def task_data(wildcards):
    """What must exist before a task can be compiled: the world, or the fetched dataset; local data is just there."""
    if "data_root" in config:
        return []
    if config["base"]["source"] == "embedded":
        return "results/world"
    dataset = task_dataset(wildcards.task, config["tasks"][wildcards.task])
    return f"resources/hub/{dataset}" if dataset else []


def task_settings(wildcards):
    """The task's block of the config as command-line options."""
    known = ("metric", "num_fewshot", "limit", "subtasks", "chunk_tokens")
    settings = config["tasks"][wildcards.task]
    return options(
        {"lm_eval_task": settings.get("lm_eval_task", wildcards.task)} | {key: settings.get(key) for key in known}
    )


rule compile_task:
    """Render and tokenise a benchmark once, by lm-eval's own task objects, and pack its requests as a prefix trie."""
    input:
        model="results/base",
        data=task_data,
    output:
        directory("results/tasks/{task}"),
    params:
        code=code_digest("compile-task"),
        seed=config["seed"],
        settings=task_settings,
        data_root=data_root,
    log:
        "logs/compile_task/{task}.log",
    benchmark:
        "results/timings/jobs/compile_task/{task}.tsv"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    shell:
        "llama-nas compile-task --seed {params.seed} --task {wildcards.task} {params.settings} "
        "--data-root {params.data_root} --model {input.model} --output {output} 2> {log}"

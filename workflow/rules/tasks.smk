# Reads: a benchmark's dataset and the base model's tokenizer. Writes: results/tasks/{task}/.


include: "helpers/tasks.smk"


rule compile_task:
    """Render and tokenise a benchmark once, by lm-eval's own task objects, and pack its requests as a prefix trie."""
    input:
        model="results/base",
        data=task_data,
    output:
        directory("results/tasks/{task}"),
    log:
        "logs/compile_task/{task}.log",
    benchmark:
        "results/timings/jobs/compile_task/{task}.tsv"
    priority: 1  # before the fine-tuning: a mistake in a task is found early
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        code=code_digest("compile-task"),
        settings=task_settings,
        data_root=data_root,
    shell:
        "llama-nas compile-task"
        " --code {params.code}"
        " --task {wildcards.task}"
        " {params.settings}"
        " --data-root {params.data_root:q}"
        " --model {input.model}"
        " --output {output} 2> {log}"

# What the rules of tasks.smk ask of the config.


def task_settings(wildcards):
    """The task's block of the config as command-line options."""
    settings = {"lm_eval_task": wildcards.task} | config["tasks"][wildcards.task]
    keys = ("lm_eval_task", "metric", "num_fewshot", "limit", "subtasks", "group", "chunk_tokens", "group_tokens")
    return options(settings, *keys)

# What the rules of transfer.smk ask of the config.


def shards_by_task():
    return {task: shards_of("transfer")({"task": task}) for task in TASKS}


def transfer_shards(wildcards):
    return [path for paths in shards_by_task().values() for path in paths]


def named_shards(wildcards, input):
    return [f"{task}={path}" for task, paths in shards_by_task().items() for path in paths]


def all_search_items():
    """Of each task; 0: its search scores all items."""
    return [config["tasks"][task].get("search_items", 0) for task in TASKS]

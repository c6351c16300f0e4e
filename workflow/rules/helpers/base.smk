# What the rules of base.smk ask of the config.

from llama_nas.config import dataset_revision


def base_source(wildcards):
    """The base's folder itself, whatever its name."""
    return SOURCE


def fetched_revision(wildcards):
    """The revision a dataset is fetched at: the instructions' own key, a task's key, or the pinned one."""
    source = config.get("instructions", {})
    if source.get("hub_id") == wildcards.dataset:
        return source["revision"]
    return dataset_revision(wildcards.dataset, config["tasks"])

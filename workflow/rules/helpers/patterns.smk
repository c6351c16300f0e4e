# What the rules of patterns.smk ask of the config.


def named_networks(wildcards):
    """Networks that the config wants evaluated with the heuristics."""
    return options(config["tasks"][wildcards.task], "named")

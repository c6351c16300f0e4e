# What the rules of search.smk ask of the config.


def goals(wildcards):
    """Objectives and constraints of a task's search as options; a key that nothing reads is none of them.

    No function of the input: Snakemake does not rerun for changed values of such parameters.
    """
    read = {"objectives": SEARCH["objectives"], "min_accuracy": config["tasks"][wildcards.task].get("min_accuracy")}
    if "max_size" in SEARCH:
        read["max_size"] = SEARCH["max_size"].replace(" ", "")
    if "max_size" in SEARCH or "size" in SEARCH["objectives"]:
        read["precision"] = SEARCH["precision"]
    read["measured"] = [f"{name}={table}" for name, table in COST_TABLES.items() if name in SEARCH["objectives"]]
    return options(read)


def search_items(wildcards):
    return options(config["tasks"][wildcards.task], "search_items")


def evaluation_items(wildcards):
    """A round scores the search's items; the finalists are scored on all, and on the others apart."""
    items = config["tasks"][wildcards.task].get("search_items")
    if wildcards.batch == "finalists":
        return options({"held_out": items})
    return options({"items": items}) if wildcards.batch.startswith("round_") else ""


def earlier_evaluations(wildcards):
    """All evaluations before this round; none before the first."""
    before = int(wildcards.round) - 1
    return f"results/search/{wildcards.task}/round_{before}/evaluations.csv" if before else []


def earlier_option(wildcards, input):
    return f"--earlier {input.earlier}" if input.earlier else ""


def finalists(wildcards):
    """Candidates and shards of the finalists, if the search scored only some of the items."""
    if "search_items" not in config["tasks"][wildcards.task]:
        return []
    return [f"results/search/{wildcards.task}/finalists/candidates.csv", *shards_of("finalists")(wildcards)]


def finalists_options(wildcards, input):
    return f"--candidates {input.finalists[0]} --shards {' '.join(input.finalists[1:])}" if input.finalists else ""

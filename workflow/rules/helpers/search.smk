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
    """A round scores the search's items; a batch that is judged is scored on all, with its answers."""
    if wildcards.batch in ("finalists", "transfer"):
        return options({"judged": True} | config["tasks"][wildcards.task], "judged", "search_items")
    return search_items(wildcards) if wildcards.batch.startswith("round_") else ""


def earlier_evaluations(wildcards):
    """All evaluations before this round; none before the first."""
    before = int(wildcards.round) - 1
    return f"results/search/{wildcards.task}/round_{before}/evaluations.csv" if before else []


def earlier_option(wildcards, input):
    return f"--earlier {input.earlier}" if input.earlier else ""

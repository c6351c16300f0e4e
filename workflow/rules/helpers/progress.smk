# What a run is to make, as far as the config tells.

from llama_nas.analysis.status import PLAN_FILE
from llama_nas.config import search_evaluations
from llama_nas.core.artifacts import write_json


def write_plan():
    """Write down what a run is to make; the jobs behind a front are an estimate, as its members are not known yet."""
    write_json(
        f"results/{PLAN_FILE}",
        {
            "tasks": TASKS,
            "rounds": ROUNDS,
            "size_unit": config["report"]["size_unit"],
            "page": "summary.html",
            "behind_front": behind_front(),
        },
    )


def behind_front():
    """How many jobs of each kind a task's front calls for: its members and the full network, in the config's formats."""
    members = 8 if config["export"]["members"] == "all" else config["export"]["members"]
    formats, networks = config["export"]["formats"], members + 1
    quantized = sum(precision in QUANTIZED for precision in BENCHMARK["precisions"])  # of the recommended network
    floats = len(BENCHMARK["precisions"]) - quantized
    gguf = sum(form.startswith("gguf") for form in formats)
    return {
        "export": networks * (len(formats) - gguf),
        "write_gguf": networks * gguf,
        "quantize": quantized,
        "run_lm_eval": (networks + len(config["contenders"])) * floats + quantized + 1,  # and the one that is verified
    }


def say_early_end():
    """A space with fewer networks than the search may evaluate ends it early."""
    if search_evaluations(config) < SEARCH["evaluations"]:
        print(
            f"The space has fewer networks than search.evaluations {SEARCH['evaluations']}: "
            f"it ends when all are evaluated, in round {ROUNDS}.",
            file=sys.stderr,
        )

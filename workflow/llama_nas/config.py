"""Check a workflow config before any job runs: one clear line for whatever is wrong, defaults for whatever is unset.

Used by the Snakefile. Imports nothing heavy, as every Snakemake process pays for it.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_nas.core.errors import UserError
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import (
    BLOCK_CODES,
    MEASURED_ORDER,
    SearchSpace,
    check_max_size,
    grouped,
    kept_layers,
    ungrouped,
)
from llama_nas.core.units import parse_size
from llama_nas.tasks.definitions import is_known
from llama_nas.training.config import check_batch, check_offload

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.json"

# lm-eval task -> (Hub dataset, the revision the fetch rule pins, metrics)
BUILT_IN_TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "arc_easy": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", ("acc", "acc_norm")),
    "arc_challenge": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", ("acc", "acc_norm")),
    "mmlu": ("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", ("acc",)),
    "truthfulqa_mc1": ("truthfulqa/truthful_qa", "741b8276f2d1982aa3d5b832d3ee81ed3b896490", ("acc",)),
    "winogrande": ("allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", ("acc",)),
    "tinystories": ("roneneldan/TinyStories", "main", ("bits_per_byte", "byte_perplexity", "word_perplexity")),
}


def config_name(path: str | Path) -> str:
    """A config file's path as a person would write it: relative, where it lies below the working directory."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def check_config(config: dict[str, Any], name: str = "config.yaml") -> dict[str, Any]:
    """Return the config with the schema's defaults filled in; raises UserError, one line naming file and key."""
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text())
    config = copy.deepcopy(config)
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path)))
    if errors:
        raise UserError(f"{name}: {_explain(errors[0])}")
    _fill_defaults(config, schema)
    for problem in _cross_checks(config):
        raise UserError(f"{name}: {problem}")
    return config


def _explain(error: Any) -> str:
    """A jsonschema error as one line; unknown keys come with the closest known one."""
    where = ".".join(map(str, error.absolute_path)) or "the config"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"{where}: unknown key '{unknown}'; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}: key '{missing}' is missing ({error.schema['properties'][missing]['description']})"
    if error.validator == "enum":
        return f"{where}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "contains":
        return f"{where}: {error.instance!r} must contain {error.validator_value['const']}"
    if error.validator == "oneOf":
        return f"{where}: {error.instance!r} is not valid ({error.schema.get('description', '')})"
    return f"{where}: {error.message}"


def _fill_defaults(value: Any, schema: dict[str, Any]) -> None:
    """Set absent keys to the schema's defaults, in place, depth first."""
    if not isinstance(value, dict):
        return
    for key, sub_schema in schema.get("properties", {}).items():
        if key not in value and "default" in sub_schema:
            value[key] = copy.deepcopy(sub_schema["default"])
        if key in value:
            _fill_defaults(value[key], sub_schema)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        for key in value.keys() - schema.get("properties", {}).keys():
            _fill_defaults(value[key], extra)


def _cross_checks(config: dict[str, Any]) -> Iterator[str]:
    """What a schema cannot say, cheapest first."""
    yield from _check_base(config)
    yield from _check_space(config)
    yield from _check_training(config["training"])
    yield from _check_search(config["search"])
    yield from _check_constraints(config)
    for task, settings in config["tasks"].items():
        yield from _check_task(task, settings, config)
        yield from _check_named(task, settings["named"], config)
    yield from _check_instructions(config)
    yield from _check_contenders(config["contenders"])
    device, dtype = config["compute"]["device"], config["compute"]["dtype"]
    if device == "cpu" and dtype == "fp16":
        yield "compute.dtype: fp16 is for cuda; use fp32 or bf16 on cpu"


def _check_base(config: dict[str, Any]) -> Iterator[str]:
    base = config["base"]
    needed = {"embedded": (), "path": ("path",), "hub": ("hub_id", "revision")}[base["source"]]
    for key in needed:
        if key not in base:
            yield f"base.{key}: is missing, base.source '{base['source']}' needs it"
    for key in base.keys() - {"source", *needed}:
        yield f"base.{key}: has no meaning with base.source '{base['source']}'"
    if base["source"] == "path" and not Path(base["path"]).is_dir():
        yield f"base.path: no folder '{base['path']}'; expected a Hugging Face model folder"
    root = config.get("data_root")
    if root and not Path(root).is_dir():
        yield f"data_root: no folder '{root}'"
    if base["source"] == "hub" and root and not Path(root, base["hub_id"]).is_dir():
        yield f"base.hub_id: no folder '{base['hub_id']}' under data_root '{root}'"
    embedded = config["embedded"]
    if base["source"] == "embedded" and embedded["hidden_size"] % (2 * embedded["heads"]):
        yield (
            f"embedded.heads: hidden_size {embedded['hidden_size']} must be a multiple of 2 x heads "
            f"({embedded['heads']}), as rotary embeddings need even head widths"
        )


def _check_space(config: dict[str, Any]) -> Iterator[str]:
    """The space against the model, when the model is already known; a Hub model is checked when it is fetched."""
    depths, widths = config["space"]["depths"], config["space"]["widths"]
    if depths != sorted(depths):
        yield f"space.depths: {depths} must be ascending"
    layers = width = None
    if config["base"]["source"] == "embedded":
        layers, width = config["embedded"]["layers"], config["embedded"]["intermediate_size"]
    elif folder := local_base(config):
        path = Path(folder) / "config.json"
        try:
            model = json.loads(path.read_text())
            layers, width = model["num_hidden_layers"], model["intermediate_size"]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            yield f"base: cannot read {path} ({type(error).__name__}: {error})"
    if layers is not None and max(depths) > layers:
        yield f"space.depths: {max(depths)} layers are more than the model's {layers}"
    if layers is not None and max(depths) <= layers:
        try:
            kept_layers(_depth_selection(config), min(depths), layers)
        except UserError as error:
            yield str(error).removeprefix("config.yaml: ")
    if width is not None and max(widths) > width:
        yield f"space.widths: {max(widths)} is wider than the model's MLP, {width}"
    if width is not None and widths[0] != width:
        yield f"space.widths: the first must be the model's full MLP width, {width}, not {widths[0]}"


def _depth_selection(config: dict[str, Any]) -> str:
    """As the stage `declare-space` takes it. An order that the run will measure drops as many layers as any other."""
    selection = config["space"]["depth_selection"]
    if isinstance(selection, list):
        return ",".join(map(str, selection))
    return "first" if selection == MEASURED_ORDER else selection


def _check_named(task: str, named: list[str], config: dict[str, Any]) -> Iterator[str]:
    """Ids of networks; of a model that is not here yet, its layers are taken to be at least the space's."""
    codes = "x" + BLOCK_CODES[: len(config["space"]["widths"])]
    for subnet_id in named:
        letters = ungrouped(subnet_id)
        layers = {len(letters)} if len(letters) >= max(config["space"]["depths"]) else set()
        if config["base"]["source"] == "embedded":
            layers = {config["embedded"]["layers"]}
        elif folder := local_base(config):
            layers = {ModelShape.from_folder(folder).num_hidden_layers}
        right = len(letters) in layers and set(letters) <= set(codes) and set(letters) != {"x"}
        if not right or subnet_id != grouped(letters):
            count = next(iter(layers), max(config["space"]["depths"]))
            yield (
                f"tasks.{task}.named: '{subnet_id}' is no subnet id here: expected {count} characters of '{codes}' in "
                f"groups of eight, as {grouped('0' * count)}"
            )


def _check_contenders(contenders: dict[str, str]) -> Iterator[str]:
    """Folders of checkpoints of other methods."""
    for name, folder in contenders.items():
        if not Path(folder, "config.json").is_file():
            yield f"contenders.{name}: no Hugging Face model folder '{folder}'"


def local_base(config: dict[str, Any]) -> str | None:
    """Folder of a base model that is on this machine before the run; None if it will be made or fetched."""
    base = config["base"]
    if base["source"] == "path":
        return base["path"]
    if base["source"] == "hub" and "data_root" in config:
        return f"{config['data_root']}/{base['hub_id']}"
    return None


def _check_training(training: dict[str, Any]) -> Iterator[str]:
    try:
        check_batch(training["global_batch"], training["micro_batch"], training["ranks"])
        check_offload(training["offload_optimizer"], training["zero_stage"])
    except UserError as error:
        yield str(error).removeprefix("config.yaml: ")


def _check_search(search: dict[str, Any]) -> Iterator[str]:
    if search["evaluations"] % search["population"]:
        yield (
            f"search.evaluations: {search['evaluations']} is not a multiple of search.population {search['population']}"
        )
    if search["shards"] > search["population"]:
        yield f"search.shards: {search['shards']} are more than search.population {search['population']}"


def _check_constraints(config: dict[str, Any]) -> Iterator[str]:
    """What can be said before the run; `llama-nas sample` checks max_size where the model is made or fetched first."""
    search, limits = config["search"], []
    if "max_size" in search:
        limits.append("search.max_size")
        try:
            _check_max_size(config)
        except UserError as error:
            yield str(error).removeprefix("config.yaml: ")
    for task, settings in config["tasks"].items():
        if "min_accuracy" in settings:
            limits.append(f"tasks.{task}.min_accuracy")
            if not settings["metric"].startswith("acc"):
                yield f"tasks.{task}.min_accuracy: the task is judged by {settings['metric']}, of which less is better"
    if search["algorithm"] == "additive" and (limits or len(search["objectives"]) > 2):
        key = (limits or ["search.objectives"])[0]
        yield f"{key}: search.algorithm additive takes two objectives and no constraints"
    if (search["algorithm"], search["variant"]) == ("linas", "strict") and limits:
        yield f"{limits[0]}: search.variant strict, the authors' procedure, has no constraints"


def _check_max_size(config: dict[str, Any]) -> None:
    """Raise UserError for a limit that is no size or, where the model is on this machine, that no network meets."""
    space, search, folder = config["space"], config["search"], local_base(config)
    parse_size(search["max_size"], "search.max_size")
    if folder is not None:
        shape = ModelShape.from_folder(folder)
        declared = SearchSpace.declare(shape, space["depths"], space["widths"], _depth_selection(config))
        check_max_size(search["max_size"], search["precision"], declared)


def search_evaluations(config: dict[str, Any]) -> int:
    """Evaluations until those asked for are spent, or until the space is used up, if that is sooner.

    Strict LINAS evaluates networks again and spends all of its evaluations on any space.
    """
    search, space = config["search"], config["space"]
    if (search["algorithm"], search["variant"]) == ("linas", "strict"):
        return search["evaluations"]
    return min(search["evaluations"], sum(len(space["widths"]) ** depth for depth in space["depths"]))


def search_rounds(config: dict[str, Any]) -> int:
    """Rounds until `search_evaluations` are spent."""
    return -(-search_evaluations(config) // config["search"]["population"])


def _check_task(task: str, settings: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    lm_eval_task = settings.get("lm_eval_task", task)
    is_file = lm_eval_task.endswith((".yaml", ".yml"))
    if is_file and not Path(lm_eval_task).is_file():
        yield f"tasks.{task}.lm_eval_task: no file '{lm_eval_task}'"
    if lm_eval_task in BUILT_IN_TASKS:
        metrics = BUILT_IN_TASKS[lm_eval_task][2]
        if settings["metric"] not in metrics:
            yield f"tasks.{task}.metric: '{settings['metric']}' is not a metric of {lm_eval_task}: {', '.join(metrics)}"
    elif not is_file and not is_known(lm_eval_task):
        close = difflib.get_close_matches(lm_eval_task, BUILT_IN_TASKS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"e.g. {', '.join(BUILT_IN_TASKS)}, or the path of a YAML"
        yield f"tasks.{task}: lm-eval has no task '{lm_eval_task}'; {hint}"
    if config["base"]["source"] == "embedded" and lm_eval_task not in list(BUILT_IN_TASKS)[:5] and not is_file:
        yield f"tasks.{task}: the embedded world has only {', '.join(list(BUILT_IN_TASKS)[:5])}"
    root, dataset = config.get("data_root"), task_dataset(task, settings)
    if root and dataset and not Path(root, dataset).is_dir():
        yield f"tasks.{task}: no folder '{dataset}' under data_root '{root}'"
    if config["base"]["source"] != "embedded" and not root and not dataset and not is_file:
        yield f"tasks.{task}.dataset: is missing; the Hub id of its dataset is needed to fetch it (or set data_root)"


def task_dataset(task: str, settings: dict[str, Any]) -> str | None:
    """Hub id of a task's dataset, if known."""
    built_in = BUILT_IN_TASKS.get(settings.get("lm_eval_task", task))
    return settings.get("dataset", built_in[0] if built_in else None)


def dataset_revision(dataset: str, tasks: dict[str, dict[str, Any]]) -> str:
    """The revision to fetch a task's dataset at: the config's, else the one pinned for a built-in task."""
    for task, settings in tasks.items():
        if task_dataset(task, settings) == dataset and "revision" in settings:
            return settings["revision"]
    return next((revision for known, revision, _ in BUILT_IN_TASKS.values() if known == dataset), "main")


def _check_instructions(config: dict[str, Any]) -> Iterator[str]:
    instructions = config.get("instructions")
    if instructions is None:
        if config["base"]["source"] != "embedded":
            yield "instructions: is missing; set instructions.path or instructions.hub_id (e.g. tatsu-lab/alpaca)"
        return
    if ("path" in instructions) == ("hub_id" in instructions):
        yield "instructions: set exactly one of path and hub_id"
    if "path" in instructions and not Path(instructions["path"]).exists():
        yield f"instructions.path: '{instructions['path']}' does not exist"
    root, hub_id = config.get("data_root"), instructions.get("hub_id")
    if root and hub_id and not Path(root, hub_id).is_dir():
        yield f"instructions.hub_id: no folder '{hub_id}' under data_root '{root}'"

"""Check a workflow config before any job runs: one clear line for whatever is wrong, defaults for whatever is unset.

Used by the Snakefile. Imports nothing heavy, as every Snakemake process pays for it.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
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
SHIPPED_BASE = Path(__file__).parents[1] / "embedded"  # the embedded world's Llama, pre-trained, with its manifest

# lm-eval task -> (Hub dataset, the revision the fetch rule pins, metrics)
BUILT_IN_TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "arc_easy": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", ("acc", "acc_norm")),
    "arc_challenge": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", ("acc", "acc_norm")),
    "mmlu": ("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", ("acc",)),
    "truthfulqa_mc1": ("truthfulqa/truthful_qa", "741b8276f2d1982aa3d5b832d3ee81ed3b896490", ("acc",)),
    "winogrande": ("allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", ("acc",)),
    "tinystories": ("roneneldan/TinyStories", "main", ("bits_per_byte", "byte_perplexity", "word_perplexity")),
}
# Of the pinned revisions: items that are scored, and what examples can be drawn from (of MMLU: of each subject).
ITEMS = {"arc_easy": 2376, "arc_challenge": 1172, "mmlu": 14042, "truthfulqa_mc1": 817, "winogrande": 1267}
EXAMPLES = {"arc_easy": 2251, "arc_challenge": 1119, "mmlu": 5, "winogrande": 40398}
# Of the embedded world.
WORLD_TASKS = tuple(ITEMS)
WORLD_SUBJECTS = ("astronomy", "college_chemistry", "sociology")
WORLD_EXAMPLES = {"arc_easy": 100, "arc_challenge": 100, "mmlu": 5, "winogrande": 100}
MOST_ROUNDS = 1000  # each waits for the one before it, and Snakemake follows them all the way down


def check_config(config: dict[str, Any], name: str = "config.yaml") -> dict[str, Any]:
    """Return the config with the schema's defaults filled in; raises UserError, one line naming file and key."""
    schema = json.loads(SCHEMA.read_text())
    config = copy.deepcopy(config)
    for problem in _unfit_keys(config, "the config"):
        raise UserError(f"{name}: {problem}")
    errors = sorted(_validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path)))
    if errors:
        raise UserError(f"{name}: {_explain(errors[0])}")
    _fill_defaults(config, schema)
    for problem in _cross_checks(config):
        raise UserError(f"{name}: {problem}")
    return config


def _unfit_keys(value: Any, where: str) -> Iterator[str]:
    """What a JSON Schema takes for granted: that keys are text, and that text can be written."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                yield f"{where}: key {key!r} is no text; put it in quotes"
            else:
                yield from _unfit_keys(key, where)
                yield from _unfit_keys(below, key if where == "the config" else f"{where}.{key}")
    elif isinstance(value, list):
        for below in value:
            yield from _unfit_keys(below, where)
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{where}: {_shown(value)} has half a character (U+D800 to U+DFFF)"


def _validator(schema: dict[str, Any]) -> Any:
    """Of the schema, more strictly: 5.0 is no integer, NaN and infinity are no numbers, a pattern is for the whole."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(validator: Any, expression: str, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
        if isinstance(value, str) and not re.fullmatch(expression, value):
            yield ValidationError(f"{_shown(value)} does not match {expression}")

    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) is int or (type(value) is float and math.isfinite(value)),
        }
    )
    return validators.extend(Draft202012Validator, {"pattern": pattern}, type_checker=types)(schema)


def _shown(value: Any) -> str:
    """A value of the config in a message: one line, not too long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


TYPES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
TYPES |= {"array": "a list", "object": "a mapping of keys to values"}


def _explain(error: Any) -> str:
    """A jsonschema error as one line; unknown keys come with the closest known one."""
    where = ".".join(map(str, error.absolute_path)) or "the config"
    value = _shown(error.instance)
    if error.validator == "type":
        return f"{where}: {value} is not {TYPES[error.validator_value]}"
    if error.validator == "pattern" and "description" in error.schema:
        return f"{where}: {value} is not valid: {error.schema['description']}"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"{where}: unknown key {_shown(unknown)}; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}: key '{missing}' is missing ({error.schema['properties'][missing]['description']})"
    if error.validator == "enum":
        return f"{where}: {value} is not one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "contains":
        return f"{where}: {value} must contain {error.validator_value['const']}"
    if error.validator == "oneOf":
        return f"{where}: {value} is not valid ({error.schema.get('description', '')})"
    return f"{where}: {_short(error.message)}"


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:90]}... {message[-90:]}"


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
    yield from _check_search(config)
    yield from _check_constraints(config)
    for task, settings in config["tasks"].items():
        yield from _check_task(task, settings, config)
        yield from _check_items(task, settings, config)
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
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            yield f"base: cannot read {path} ({type(error).__name__}: {error})"
        for key, number in (("num_hidden_layers", layers), ("intermediate_size", width)):
            if type(number) is not int:
                yield f"base: {path}: {key} {_shown(number)} is not a whole number"
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


def pretraining_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What decides which Llama the embedded world's is: all but the number of items and of threads."""
    return {"seed": config["seed"]} | {k: v for k, v in config["embedded"].items() if k not in ("items", "threads")}


def takes_shipped_base(config: dict[str, Any]) -> bool:
    """Whether the run's base is the one in SHIPPED_BASE, which was pre-trained with the run's settings."""
    if config["base"]["source"] != "embedded":
        return False
    manifest = json.loads((SHIPPED_BASE / "manifest.json").read_text())
    return manifest["settings"] == pretraining_settings(config)


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


def _check_search(config: dict[str, Any]) -> Iterator[str]:
    search = config["search"]
    if search["evaluations"] % search["population"]:
        yield (
            f"search.evaluations: {search['evaluations']} is not a multiple of search.population {search['population']}"
        )
    if search_rounds(config) > MOST_ROUNDS:
        yield (
            f"search.evaluations: {search['evaluations']} in rounds of search.population {search['population']} are "
            f"{search_rounds(config)} rounds; at most {MOST_ROUNDS} are possible"
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
    """Raise UserError for a limit that is no size or, where the model's shape is known, that no network meets."""
    space, search, folder = config["space"], config["search"], local_base(config)
    parse_size(search["max_size"], "search.max_size")
    if config["base"]["source"] == "embedded":
        shape = _least_embedded_shape(config["embedded"])
    elif folder is not None:
        shape = ModelShape.from_folder(folder)
    else:
        return
    declared = SearchSpace.declare(shape, space["depths"], space["widths"], _depth_selection(config))
    check_max_size(search["max_size"], search["precision"], declared)


def _least_embedded_shape(embedded: dict[str, Any]) -> ModelShape:
    """Of the Llama that will be pre-trained, but with one token: a small corpus may give fewer than `vocabulary`."""
    config = {"model_type": "llama", "vocab_size": 1, "tie_word_embeddings": True}
    keys = {"num_hidden_layers": "layers", "num_attention_heads": "heads"}
    keys |= {key: key for key in ("hidden_size", "intermediate_size")}
    return ModelShape.from_config(config | {key: embedded[own] for key, own in keys.items()})


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
    if config["base"]["source"] == "embedded" and lm_eval_task not in WORLD_TASKS and not is_file:
        yield f"tasks.{task}: the embedded world has only {', '.join(WORLD_TASKS)}"
    root, dataset = config.get("data_root"), task_dataset(task, settings)
    if root and dataset and not Path(root, dataset).is_dir():
        yield f"tasks.{task}: no folder '{dataset}' under data_root '{root}'"
    if config["base"]["source"] != "embedded" and not root and not dataset and not is_file:
        yield f"tasks.{task}.dataset: is missing; the Hub id of its dataset is needed to fetch it (or set data_root)"


def _check_items(task: str, settings: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Subtasks, shots and items of a built-in task, as far as they are known before its data is read."""
    lm_eval_task = settings.get("lm_eval_task", task)
    if lm_eval_task not in ITEMS or settings.keys() & {"dataset", "revision"}:
        return
    in_world = config["base"]["source"] == "embedded"
    known = list(WORLD_SUBJECTS) if in_world else _mmlu_subjects()
    subtasks = settings.get("subtasks", known)
    if lm_eval_task != "mmlu":
        subtasks = [lm_eval_task]
        if "subtasks" in settings:
            yield f"tasks.{task}.subtasks: {lm_eval_task} is a single task and has none"
    elif in_world and "subtasks" not in settings:
        yield f"tasks.{task}.subtasks: is missing; the embedded world has only {', '.join(WORLD_SUBJECTS)}"
    elif known and (unknown := [subtask for subtask in subtasks if subtask not in known]):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        yield f"tasks.{task}.subtasks: mmlu has no '{unknown[0]}' here; {hint}"
    shots, most_shots = settings.get("num_fewshot", 0), WORLD_EXAMPLES if in_world else EXAMPLES
    if shots and lm_eval_task not in most_shots:
        yield f"tasks.{task}.num_fewshot: {lm_eval_task} has examples of its own, lm-eval follows no other number"
    elif shots > most_shots.get(lm_eval_task, 0):
        yield f"tasks.{task}.num_fewshot: {shots} are more than the {most_shots[lm_eval_task]} examples of the data"
    items = config["embedded"]["items"] if in_world else ITEMS[lm_eval_task]
    if "limit" in settings and subtasks:
        items = min(items, settings["limit"] * len(subtasks))
    if settings.get("search_items", 0) >= items:
        yield f"tasks.{task}.search_items: {settings['search_items']} leave none of the {items} items to judge on"


def _mmlu_subjects() -> list[str]:
    """As lm-eval names them; none where it is not installed: there the compile stage will find out."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return []
    files = Path(spec.origin).parent.glob("tasks/mmlu/default/mmlu_*.yaml")
    return sorted(file.stem.removeprefix("mmlu_") for file in files)


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

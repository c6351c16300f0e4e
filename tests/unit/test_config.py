"""The config check: defaults, and presets that hold. (Its error lines are tested through Snakemake: tests/workflow.)"""

import copy
import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pyarrow.parquet as parquet
import pytest
import yaml
from tests.support.spaces import LLAMA2_7B

from llama_nas.config import (
    BUILT_IN_TASKS,
    EXAMPLES,
    ITEMS,
    SCHEMA,
    WORLD_EXAMPLES,
    WORLD_SUBJECTS,
    check_config,
    dataset_revision,
    search_rounds,
)
from llama_nas.core.costs import UNITS
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import BYTES_PER_WEIGHT, PRECISIONS
from llama_nas.core.settings import Compute, TrieBounds
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import BLOCK_CODES, SearchSpace, grouped, ungrouped
from llama_nas.exports.forms import FORMS, GGUF_TYPES
from llama_nas.exports.forms.gguf import FILE_TYPES
from llama_nas.measuring.settings import CostSettings, SpeedSettings
from llama_nas.search.algorithms import ALGORITHMS
from llama_nas.search.propose import propose
from llama_nas.search.settings import AlgorithmSettings, Evolution, GoalSettings
from llama_nas.tasks.format import CHOICE_METRICS, TEXT_METRICS
from llama_nas.training.config import TrainingConfig

REPOSITORY = Path(__file__).resolve().parents[2]


def load(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / name).read_text())


@pytest.mark.parametrize("name", ["config.yaml", "workflow/presets/reduced.yaml", "workflow/presets/llama2-7b.yaml"])
def test_shipped_configs_are_valid(name):
    config = check_config(load(name), name)
    assert config["search"]["evaluations"] % config["search"]["population"] == 0


def test_real_tiny_preset_is_valid_on_local_data(hub):
    check_config(load("workflow/presets/real-tiny.yaml") | {"data_root": str(hub)}, "real-tiny.yaml")


def test_defaults_are_filled_in_and_the_input_is_left_alone():
    given = load("workflow/presets/reduced.yaml")
    checked = check_config(given)
    assert checked["search"]["crossover_eta"] == 15.0 and checked["training"]["warmup"] == 0.03
    assert "crossover_eta" not in given["search"]


@pytest.mark.parametrize(
    ("search", "rounds"),
    [
        ({"evaluations": 40}, 2),
        ({"evaluations": 200}, 6),  # 16 + 32 + 64 networks
        ({"evaluations": 200, "algorithm": "additive", "variant": "strict"}, 6),
        ({"evaluations": 200, "variant": "strict"}, 10),
    ],
)
def test_rounds_end_with_the_budget_or_with_the_space(search, rounds):
    config = load("workflow/presets/reduced.yaml")
    config["search"] |= search
    assert search_rounds(check_config(config)) == rounds


def test_every_key_has_a_description():
    def walk(schema, path=""):
        for key, value in schema.get("properties", {}).items():
            assert value.get("description"), f"{path}{key} has no description"
            walk(value, f"{path}{key}.")
        if isinstance(schema.get("additionalProperties"), dict):
            walk(schema["additionalProperties"], f"{path}*.")

    walk(json.loads(SCHEMA.read_text()))


def test_paper_preset_has_the_papers_space():
    config = load("workflow/presets/llama2-7b.yaml")
    space = SearchSpace.declare(LLAMA2_7B, config["space"]["depths"], config["space"]["widths"])
    assert space.num_networks == 2**24 + 2**28 + 2**32
    assert space.shape.parameters(space.full) == 6_738_415_616


def test_paper_preset_names_the_papers_architectures():
    """Section 4.5, layers counted from 1: how many are kept, and which MLPs are narrow."""
    found = {
        "arc_challenge": (32, {3, 4, 18, 25, 26, 28, 29, 32}),
        "mmlu": (24, set(range(17, 25))),
        "winogrande": (32, {6, 10, 20, 21, 23, 24, 26, 28, 29, 31}),
    }
    for task, settings in load("workflow/presets/llama2-7b.yaml")["tasks"].items():
        ids = map(ungrouped, settings.get("named", []))
        named = [(32 - i.count("x"), {at + 1 for at in range(32) if i[at] == "1"}) for i in ids]
        assert named == ([found[task]] if task in found else [])


def test_revisions_are_pinned():
    config = load("workflow/presets/llama2-7b.yaml")
    for dataset, _, _ in list(BUILT_IN_TASKS.values())[:5]:
        assert len(dataset_revision(dataset, config["tasks"])) == 40
    own = {"arc_easy": {"metric": "acc", "revision": "v2"}}
    assert dataset_revision("allenai/ai2_arc", own) == "v2"


def test_bad_config_names_file_and_key():
    config = load("workflow/presets/reduced.yaml")
    config["space"]["depth_selektion"] = "first"
    with pytest.raises(
        UserError, match=r"^my.yaml: space: unknown key 'depth_selektion'; did you mean 'depth_selection'"
    ):
        check_config(config, "my.yaml")


@pytest.mark.parametrize("name", ["config.yaml", "workflow/presets/reduced.yaml", "workflow/presets/llama2-7b.yaml"])
def test_a_named_network_is_checked_before_anything_runs(name):
    """Of a model that is still on the Hub, too: its layers are at least the space's."""
    config = load(name)
    layers = max(config["space"]["depths"])
    task = next(iter(config["tasks"]))
    config["tasks"][task]["named"] = [grouped("0" * layers), grouped("x" + "1" * (layers - 1))]
    check_config(config)
    for letters in ("0" * (layers - 1), "0" * (layers - 1) + "2", "x" * layers):
        config["tasks"][task]["named"] = [grouped(letters)]
        message = (
            f"my.yaml: tasks.{task}.named: '{grouped(letters)}' is no subnet id here: expected {layers} characters of "
            f"'x01' in groups of eight, as {grouped('0' * layers)}"
        )
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check_config(config, "my.yaml")


@pytest.mark.parametrize("wrong", ["000000000000", "000000-000000", "00000000-0000-", "-000000000000"])
def test_a_named_network_that_is_grouped_otherwise_is_refused_with_the_right_form(wrong):
    config = load("config.yaml")
    config["tasks"]["arc_easy"]["named"] = [wrong]
    with pytest.raises(UserError, match=r"tasks\.arc_easy\.named: .* in groups of eight, as 00000000-0000$"):
        check_config(config)


@pytest.mark.parametrize("selection", ["first", "even", "importance", [4, 1]])
def test_depth_selections_that_a_run_can_follow_are_valid(selection):
    config = load("workflow/presets/reduced.yaml")
    config["space"]["depth_selection"] = selection
    assert check_config(config)["space"]["depth_selection"] == selection


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("last", r"space\.depth_selection: 'last' is not valid \(.*importance: the run measures"),
        ([4], r"space\.depth_selection 4: lists 1 layers, but a network of 4 layers drops 2$"),
        ([4, 6], r"space\.depth_selection 4,6: must be distinct layers in 0\.\.5$"),
    ],
)
def test_depth_selections_that_no_run_can_follow_are_one_line(selection, message):
    config = load("workflow/presets/reduced.yaml")
    config["space"]["depth_selection"] = selection
    with pytest.raises(UserError, match=f"^config.yaml: {message}"):
        check_config(config)


def test_contenders_are_folders_of_models_named_by_method_and_setting(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config = load("workflow/presets/reduced.yaml")
    assert check_config(config)["contenders"] == {}
    config["contenders"] = {"slicegpt-0.25": str(tmp_path), "llm_pruner-half": str(tmp_path)}
    assert check_config(config)["contenders"] == config["contenders"]
    config["contenders"]["slicegpt-0.3"] = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"^my.yaml: contenders\.slicegpt-0\.3: no Hugging Face model folder '.*none'$"):
        check_config(config, "my.yaml")


@pytest.mark.parametrize("name", ["slicegpt", "SliceGPT-0.25", "0011-01xx", "slicegpt-", "a/b-c"])
def test_a_contender_whose_name_cannot_be_one_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    config = load("workflow/presets/reduced.yaml") | {"contenders": {name: str(tmp_path)}}
    with pytest.raises(UserError, match=rf"^config.yaml: contenders: '{name}' does not match"):
        check_config(config)


def test_constraints_that_cannot_be_met_are_one_line(tmp_path):
    """max_size against a model that is here already; min_accuracy of a metric of which less is better."""
    shape = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"num_attention_heads": 4, "vocab_size": 1000}))
    config = load("workflow/presets/reduced.yaml") | {"base": {"source": "path", "path": str(tmp_path)}}
    config |= {"instructions": {"path": str(tmp_path / "config.json")}, "data_root": str(tmp_path)}
    task = tmp_path / "own.yaml"
    task.touch()
    config["tasks"] = {"own": {"metric": "acc", "lm_eval_task": str(task)}}
    space = SearchSpace.declare(ModelShape.from_folder(tmp_path), [4, 5, 6], [96, 48])
    smallest = ModelShape.from_folder(tmp_path).size_bytes(space.parse("1111xx"), "int8")
    config["search"] |= {"max_size": str(smallest), "precision": "int8"}
    check_config(config)
    config["search"]["max_size"] = str(smallest - 1)
    message = rf"^my.yaml: search\.max_size {smallest - 1}: the smallest network of the space has 0\.366 MB .* in int8$"
    with pytest.raises(UserError, match=message):
        check_config(config, "my.yaml")
    del config["search"]["max_size"]
    config["tasks"]["own"] |= {"metric": "bits_per_byte", "min_accuracy": 0.5}
    with pytest.raises(UserError, match=r"^my.yaml: tasks.own.min_accuracy: the task is judged by bits_per_byte, of"):
        check_config(config, "my.yaml")


# ------------------------------------------------------------------ values that no key may have


def put(config: dict, path: str, value) -> dict:
    """A config with another value for a key, `a.b.c`."""
    *blocks, key = path.split(".")
    for block in blocks:
        config = config.setdefault(block, {})
    config[key] = value
    return config


def leaves(schema: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every key of the schema that is no block; of the tasks, those of arc_easy."""
    for key, value in schema["properties"].items():
        if key == "tasks":
            yield from leaves(value["additionalProperties"], "tasks.arc_easy.")
        elif "properties" in value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


LEAVES = dict(leaves(json.loads(SCHEMA.read_text())))
NUMBERS = {key: value["type"] for key, value in LEAVES.items() if value.get("type") in ("integer", "number")}


def refused(path: str, value, config: dict | None = None) -> str:
    """The line that a value of a key gets."""
    config = config or load("config.yaml")
    put(config, path, value)
    with pytest.raises(UserError) as raised:
        check_config(config, "my.yaml")
    said = str(raised.value)
    assert said.startswith("my.yaml: ") and said.isprintable() and len(said) < 500
    return said.removeprefix("my.yaml: ")


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_nan_or_infinite_or_beyond_all_bounds(key):
    kind = "a whole number" if NUMBERS[key] == "integer" else "a number"
    for value in (math.nan, math.inf, -math.inf, True, "8", [8], None):
        assert refused(key, value) == f"{key}: {value!r} is not {kind}"
    assert f"{key}: " in refused(key, 10**30) and f"{key}: " in refused(key, -1)
    if NUMBERS[key] == "integer":
        assert refused(key, 64.0) == f"{key}: 64.0 is not a whole number"


@pytest.mark.parametrize("key", ["space.widths", "space.depths", "space.depth_selection", "export.members"])
def test_whole_numbers_in_lists_and_choices_have_no_point_either(key):
    assert refused(key, [128.0, 64] if key != "export.members" else 2.0).startswith(key)


def test_every_list_and_text_has_a_bound():
    for key, schema in LEAVES.items():
        if schema.get("type") == "array":
            assert "maxItems" in schema or "enum" in schema["items"] or key.endswith("named"), key
        if schema.get("type") == "string":
            assert "$ref" in schema, key


PATHS = [key for key, schema in LEAVES.items() if schema.get("$ref") == "#/$defs/path"]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    "path", ["", "a\tb", "a\nb", "a\n", "\x7f", "a\x00b", "-rf", "--help", "a\u2028b", "\ud800", "x" * 5000]
)
def test_a_path_has_no_control_characters_and_is_no_option(key, path):
    assert refused(key, path).startswith(f"{key}: ")


def test_the_path_of_a_contender_is_a_path():
    assert refused("contenders.slicegpt-0", "--help").startswith("contenders.slicegpt-0: '--help' is not")


HUB = {"base": {"source": "hub", "hub_id": "o/m", "revision": "main"}, "instructions": {"hub_id": "o/d"}}
HUB |= {"tasks": {"mmlu": {"metric": "acc"}}}
WORDS = {
    "base.revision": "{}", "instructions.revision": "{}", "tasks.mmlu.revision": "{}",
    "base.hub_id": "owner/{}", "instructions.hub_id": "owner/{}", "tasks.mmlu.dataset": "owner/{}",
}  # fmt: skip


@pytest.mark.parametrize("key", WORDS)
def test_ids_and_revisions_are_matched_as_a_whole(key):
    right = load("workflow/presets/reduced.yaml") | copy.deepcopy(HUB)
    for word in ("main", "v1.0", "a" * 40, "Llama-2_7b.hf"):
        put(right, key, WORDS[key].format(word))
        check_config(right)
    for word in ("$(touch X)", "a b", "a\n", "a\tb", "it's", "a;b", "a/../b", "..", "-x", "", "{x}", "é", "*", "~"):
        assert refused(key, WORDS[key].format(word), copy.deepcopy(right)).startswith(f"{key}: ")


@pytest.mark.parametrize("word", ["$(touch X)", "arc easy", "a/b", "a.b", "ärc", "arc\n", "", "{a}", "../x", "a" * 101])
def test_keys_of_tasks_and_names_of_contenders_and_subtasks_are_matched_as_a_whole(word, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config = load("workflow/presets/reduced.yaml")
    for block, value in (("tasks", {"metric": "acc", "lm_eval_task": "arc_easy"}), ("contenders", str(tmp_path))):
        with pytest.raises(UserError, match=rf"^my\.yaml: {block}: .* does not match \^") as raised:
            check_config(config | {block: {word: value}}, "my.yaml")
        assert str(raised.value).isprintable()
    said = refused("tasks.mmlu", {"metric": "acc", "subtasks": [word]}, config)
    assert said.startswith("tasks.mmlu.subtasks")


def test_keys_that_are_no_text_are_one_line():
    config = load("workflow/presets/reduced.yaml")
    for key in (1, None, True, 1.5):
        with pytest.raises(UserError, match=rf"^my\.yaml: tasks: key {key} is no text; put it in quotes$"):
            check_config(config | {"tasks": {key: {"metric": "acc"}}}, "my.yaml")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", "x" * 10_000, "seed: 'xxxx.* \\(10002 characters\\) is not a whole number"),
        ("training.zero_stage", 2.0, "training.zero_stage: 2.0 is not a whole number"),
        ("embedded.layers", 10**12, "embedded.layers: 1000000000000 is greater than the maximum of 1000"),
        (
            "search",
            {"population": 4, "evaluations": 4004, "variant": "strict"},
            "search.evaluations: 4004 .* 1001 rounds; at most 1000",
        ),
        ("search.max_size", "1kB", "search.max_size 1kB: the smallest network of the space has 0.5.* MB"),
        ("search.max_size", "1GB\n", "search.max_size: '1GB\\\\n' is not valid: it must be text of one line"),
        (
            "tasks.arc_easy.search_items",
            1440,
            "tasks.arc_easy.search_items: 1440 leave none of the 1440 items to judge on",
        ),
        ("tasks.arc_easy.limit", 300, "tasks.arc_easy.search_items: 360 leave none of the 300 items"),
        ("tasks.arc_easy.subtasks", ["astronomy"], "tasks.arc_easy.subtasks: arc_easy is a single task and has none"),
        ("tasks.arc_easy.num_fewshot", 101, "tasks.arc_easy.num_fewshot: 101 are more than the 100 examples"),
        (
            "tasks.mmlu",
            {"metric": "acc"},
            "tasks.mmlu.subtasks: is missing; the embedded world has only astronomy, coll",
        ),
        (
            "tasks.mmlu",
            {"metric": "acc", "subtasks": ["astronmy"]},
            "tasks.mmlu.subtasks: mmlu has no 'astronmy' here; did you mean 'astronomy'",
        ),
        ("tasks.mmlu", {"metric": "acc", "subtasks": ["anatomy"]}, "tasks.mmlu.subtasks: mmlu has no 'anatomy' here; "),
        (
            "tasks.mmlu",
            {"metric": "acc", "subtasks": ["astronomy"], "num_fewshot": 6},
            "tasks.mmlu.num_fewshot: 6 are more than the 5",
        ),
        (
            "tasks.truthfulqa_mc1",
            {"metric": "acc", "num_fewshot": 1},
            "tasks.truthfulqa_mc1.num_fewshot: .* examples of its own",
        ),
    ],
)
def test_what_is_wrong_together_is_one_line(path, value, message):
    assert re.match(message, refused(path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "base: cannot read .*TypeError"),
        ("{", "base: cannot read .*JSONDecodeError"),
        ("\xff", "base: cannot read .*UnicodeDecodeError"),
        ('{"num_hidden_layers": 6}', "base: cannot read .*KeyError: 'intermediate_size'"),
        (
            '{"num_hidden_layers": "6", "intermediate_size": 96}',
            "base: .*config.json: num_hidden_layers '6' is not a whole",
        ),
        (
            '{"num_hidden_layers": 6, "intermediate_size": 96.0}',
            "base: .*config.json: intermediate_size 96.0 is not a whole",
        ),
    ],
)
def test_a_base_whose_shape_cannot_be_read_is_one_line(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    config = load("workflow/presets/reduced.yaml") | {
        "instructions": {"path": str(tmp_path)},
        "data_root": str(tmp_path),
    }
    assert re.match(message, refused("base", {"source": "path", "path": str(tmp_path)}, config))


def test_of_real_tasks_subjects_items_and_examples_are_known(hub):
    real = load("workflow/presets/real-tiny.yaml") | {"data_root": str(hub)}
    cases = {
        "tasks.mmlu.subtasks": (["astronmy"], "did you mean 'astronomy'?"),
        "tasks.mmlu.search_items": (114, "114 leave none of the 114 items"),
        "tasks.winogrande.num_fewshot": (1000, None),
        "tasks.arc_challenge.num_fewshot": (1001, "1001 is greater than the maximum"),
    }
    for path, (value, message) in cases.items():
        config = copy.deepcopy(real)
        if message is None:
            put(config, path, value)
            check_config(config)
        else:
            assert message in refused(path, value, config)


def test_items_and_examples_of_real_tasks_are_those_of_the_data(hub):
    def rows(pattern: str) -> list[int]:
        files = [file for file in hub.glob(pattern) if file.parent.name not in ("all", "auxiliary_train")]
        return [parquet.read_metadata(file).num_rows for file in files]

    arc = "allenai/ai2_arc/ARC-{}/{}-*.parquet"
    assert [sum(rows(arc.format(name, "test"))) for name in ("Easy", "Challenge")] == [2376, 1172]
    assert [sum(rows(arc.format(name, "train"))) for name in ("Easy", "Challenge")] == [2251, 1119]
    assert sum(rows("cais/mmlu/*/test-*.parquet")) == ITEMS["mmlu"]
    assert set(rows("cais/mmlu/*/dev-*.parquet")) == {EXAMPLES["mmlu"]}
    assert sum(rows("truthfulqa/truthful_qa/multiple_choice/validation-*.parquet")) == ITEMS["truthfulqa_mc1"]
    assert sum(rows("allenai/winogrande/winogrande_xl/validation-*.parquet")) == ITEMS["winogrande"]


def test_what_the_check_says_of_the_embedded_world_is_the_worlds(tmp_path):
    from llama_nas.base.world.facts import LISTED
    from llama_nas.base.world.questions import MMLU_SHOTS, TRAINING_ITEMS

    assert tuple(listed.subject for listed in LISTED) == WORLD_SUBJECTS
    assert set(WORLD_EXAMPLES.values()) == {MMLU_SHOTS, TRAINING_ITEMS} and WORLD_EXAMPLES["mmlu"] == MMLU_SHOTS


# ------------------------------------------------------------------ the schema and the code have the same lists


def schema_of(*path: str) -> dict:
    """The schema of a config key."""
    schema = json.loads(SCHEMA.read_text())
    for key in path:
        schema = schema["additionalProperties"] if key == "*" else schema["properties"][key]
    return schema


def choices(*path: str) -> list:
    """What the schema allows for a key, or in the list that a key is."""
    schema = schema_of(*path)
    return schema.get("items", schema)["enum"]


def test_precisions_of_the_schema_are_those_of_the_code():
    assert choices("benchmark", "precisions") == choices("search", "precision") == list(PRECISIONS)
    assert choices("compute", "dtype") == choices("costs", "dtype") == list(BYTES_PER_WEIGHT)


def test_forms_of_the_schema_are_those_of_the_code():
    assert choices("export", "formats") == list(FORMS)
    assert tuple(FILE_TYPES) == GGUF_TYPES


def test_algorithms_of_the_schema_are_those_of_the_code():
    assert choices("search", "algorithm") == list(ALGORITHMS)


def test_objectives_of_the_schema_are_the_metric_and_the_costs():
    assert choices("search", "objectives") == ["metric", *UNITS]


def test_metrics_of_the_schema_are_some_that_a_compiled_task_has():
    assert set(choices("tasks", "*", "metric")) <= {*CHOICE_METRICS, *TEXT_METRICS}


def test_widths_are_at_most_as_many_as_a_subnet_id_has_letters_for():
    assert schema_of("space", "widths")["maxItems"] == len(BLOCK_CODES)


SETTINGS = [  # a block of the config, the settings that its keys become, and those fields that are no keys
    (("tasks", "*"), TrieBounds, set()),
    (("compute",), Compute, set()),
    (("search",), AlgorithmSettings, set()),
    (("search",), Evolution, set()),
    (("search",), GoalSettings, {"min_accuracy", "measured"}),  # of a task; files of the run
    (("throughput",), SpeedSettings, set()),
    (("costs",), CostSettings, set()),
    # Folders and files of the run, what other blocks say, and what only tests set.
    (("training",), TrainingConfig, {"base", "rows", "space", "output", "checkpoints", "seed", "device", "optimizer"}),
]


@pytest.mark.parametrize(("block", "settings", "no_keys"), SETTINGS, ids=[kind.__name__ for _, kind, _ in SETTINGS])
def test_settings_of_a_stage_are_keys_with_the_same_choices_and_defaults(block, settings, no_keys):
    keys, kinds = schema_of(*block)["properties"], get_type_hints(settings)
    assert {field.name for field in fields(settings)} - keys.keys() == no_keys
    for field in fields(settings):
        if field.name in no_keys:
            continue
        if literal := [value for value in get_args(kinds[field.name]) if isinstance(value, str | int)]:
            assert sorted(keys[field.name]["enum"]) == sorted(literal), field.name
        given = keys[field.name].get("default")
        if field.default is not MISSING and kinds[field.name] != Path | None:  # a switch, where the option is a folder
            assert given == (list(field.default) if isinstance(field.default, tuple) else field.default), field.name


def test_predictors_of_the_schema_are_those_of_the_code():
    parameter = inspect.signature(propose, eval_str=True).parameters["predictor"]
    assert sorted(choices("search", "predictor")) == sorted(get_args(parameter.annotation))

"""The config check: defaults, and presets that hold. (Its error lines are tested through Snakemake: tests/workflow.)"""

import inspect
import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from tests.support.spaces import LLAMA2_7B

from llama_nas.config import BUILT_IN_TASKS, SCHEMA, check_config, dataset_revision, search_rounds
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
    config["tasks"]["mmlu"]["named"] = [wrong]
    with pytest.raises(UserError, match=r"tasks\.mmlu\.named: .* in groups of eight, as 00000000-0000$"):
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

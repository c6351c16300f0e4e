"""The config check: defaults, and presets that hold. (Its error lines are tested through Snakemake: tests/workflow.)"""

import json
from pathlib import Path

import pytest
import yaml

from llama_nas.config import BUILT_IN_TASKS, SCHEMA, check_config, dataset_revision, search_rounds
from llama_nas.core.errors import UserError
from llama_nas.core.space import ModelShape, SearchSpace

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
    shape = ModelShape("llama", 4096, 11008, 32, 32, 32, 128, 32000)
    space = SearchSpace.for_model(shape, config["space"]["depths"], config["space"]["widths"])
    assert space.num_networks == 2**24 + 2**28 + 2**32
    assert shape.parameters(space.full) == 6_738_415_616


def test_paper_preset_names_the_papers_architectures():
    """Section 4.5, layers counted from 1: how many are kept, and which MLPs are narrow."""
    found = {
        "arc_challenge": (32, {3, 4, 18, 25, 26, 28, 29, 32}),
        "mmlu": (24, set(range(17, 25))),
        "winogrande": (32, {6, 10, 20, 21, 23, 24, 26, 28, 29, 31}),
    }
    for task, settings in load("workflow/presets/llama2-7b.yaml")["tasks"].items():
        named = [(32 - i.count("x"), {at + 1 for at in range(32) if i[at] == "1"}) for i in settings.get("named", [])]
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


@pytest.mark.parametrize("name", ["workflow/presets/reduced.yaml", "workflow/presets/llama2-7b.yaml"])
def test_a_named_network_is_checked_before_anything_runs(name):
    """Of a model that is still on the Hub, too: its layers are at least the space's."""
    config = load(name)
    layers = max(config["space"]["depths"])
    config["tasks"]["arc_easy"]["named"] = ["0" * layers]
    check_config(config)
    for wrong in ("0" * (layers - 1), "0" * (layers - 1) + "2"):
        config["tasks"]["arc_easy"]["named"] = [wrong]
        message = f"^my.yaml: tasks.arc_easy.named: subnet id '{wrong}' is not valid here: expected {layers} char"
        with pytest.raises(UserError, match=message):
            check_config(config, "my.yaml")


def test_constraints_that_cannot_be_met_are_one_line(tmp_path):
    """max_size against a model that is here already; min_accuracy of a metric of which less is better."""
    shape = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"num_attention_heads": 4, "vocab_size": 1000}))
    config = load("workflow/presets/reduced.yaml") | {"base": {"source": "path", "path": str(tmp_path)}}
    config |= {"instructions": {"path": str(tmp_path / "config.json")}, "data_root": str(tmp_path)}
    task = tmp_path / "own.yaml"
    task.touch()
    config["tasks"] = {"own": {"metric": "acc", "lm_eval_task": str(task)}}
    space = SearchSpace.for_model(ModelShape.from_folder(tmp_path), [4, 5, 6], [96, 48])
    smallest = ModelShape.from_folder(tmp_path).size_bytes(space.parse("1111xx"), "int8")
    config["search"] |= {"max_size": str(smallest), "precision": "int8"}
    check_config(config)
    config["search"]["max_size"] = str(smallest - 1)
    with pytest.raises(UserError, match=rf"my.yaml: search.max_size: {smallest - 1} is less than the smallest network"):
        check_config(config, "my.yaml")
    del config["search"]["max_size"]
    config["tasks"]["own"] |= {"metric": "bits_per_byte", "min_accuracy": 0.5}
    with pytest.raises(UserError, match=r"^my.yaml: tasks.own.min_accuracy: the task is judged by bits_per_byte, of"):
        check_config(config, "my.yaml")

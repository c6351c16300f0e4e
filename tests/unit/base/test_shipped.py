"""The Llama that comes with the repository: it is what its manifest says, of the world that a run makes."""

from pathlib import Path

import pytest
import yaml

from llama_nas.base.take import take_base
from llama_nas.base.world import make_world
from llama_nas.config import SHIPPED_BASE, check_config, pretraining_settings, takes_shipped_base
from llama_nas.core.artifacts import file_digest, read_json
from llama_nas.core.shape import ModelShape

REPOSITORY = Path(__file__).parents[3]
MANIFEST = read_json(SHIPPED_BASE / "manifest.json")


def load(name: str) -> dict:
    return check_config(yaml.safe_load((REPOSITORY / name).read_text()))


def test_the_weights_are_those_of_the_manifest():
    assert file_digest(SHIPPED_BASE / "model.safetensors") == MANIFEST["weights_sha256"]
    shape = ModelShape.from_folder(SHIPPED_BASE)
    settings = MANIFEST["settings"]
    assert (shape.num_hidden_layers, shape.hidden_size) == (settings["layers"], settings["hidden_size"])
    assert shape.size_bytes(shape.full, "fp32") <= 2.5e6


def test_the_corpus_it_learned_is_that_of_the_world_that_a_run_makes(tmp_path):
    settings = MANIFEST["settings"]
    make_world(tmp_path / "world", seed=settings["seed"], inhabitants=settings["inhabitants"], items=20)
    assert file_digest(tmp_path / "world/corpus.txt") == MANIFEST["corpus_sha256"]


def test_a_run_can_take_it(tmp_path):
    take_base(tmp_path / "base", source=SHIPPED_BASE)
    assert file_digest(tmp_path / "base/model.safetensors") == MANIFEST["weights_sha256"]
    assert not (tmp_path / "base/manifest.json").exists()


@pytest.mark.parametrize("name", ["config.yaml", "workflow/presets/world.yaml"])
def test_the_default_run_and_the_study_take_it(name):
    assert takes_shipped_base(load(name))


@pytest.mark.parametrize(("key", "value"), [("inhabitants", 599), ("steps", 10), ("layers", 11)])
def test_a_world_with_other_settings_pretrains_its_own(key, value):
    config = load("config.yaml")
    config["embedded"][key] = value
    assert not takes_shipped_base(config)


def test_another_seed_pretrains_its_own_and_other_items_or_threads_do_not():
    config = load("config.yaml")
    assert not takes_shipped_base(config | {"seed": config["seed"] + 1})
    assert takes_shipped_base(config | {"embedded": config["embedded"] | {"items": 20, "threads": 2}})
    assert pretraining_settings(config)["inhabitants"] == MANIFEST["settings"]["inhabitants"]

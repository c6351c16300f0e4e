"""Make the shipped base model again: `make base`. It takes half an hour on one core.

Reads seed and the block `embedded` of config.yaml. Writes the model's files and manifest.json beside this script.
Another processor or another number of threads gives other weights that know the same world.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import yaml

from llama_nas.base.pretrain import pretrain
from llama_nas.base.recipe import Recipe
from llama_nas.base.world import make_world
from llama_nas.config import SHIPPED_BASE, check_config, pretraining_settings
from llama_nas.core.artifacts import file_digest, write_json
from llama_nas.core.machine import device_name
from llama_nas.core.settings import Compute

CONFIG = SHIPPED_BASE.parents[1] / "config.yaml"


def main() -> None:
    config = check_config(yaml.safe_load(CONFIG.read_text()))
    embedded = config["embedded"]
    recipe = Recipe(**{key: embedded[key] for key in Recipe.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as scratch:
        world, model = Path(scratch, "world"), Path(scratch, "base")
        make_world(world, seed=config["seed"], inhabitants=embedded["inhabitants"], items=embedded["items"])
        pretrain(model, world=world, seed=config["seed"], recipe=recipe, compute=Compute(threads=embedded["threads"]))
        corpus = file_digest(world / "corpus.txt")
        for path in model.iterdir():
            shutil.copyfile(path, SHIPPED_BASE / path.name)
    write_json(
        SHIPPED_BASE / "manifest.json",
        {
            "command": "make base",
            "settings": pretraining_settings(config),
            "threads": embedded["threads"],
            "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=SHIPPED_BASE, text=True).strip(),
            "processor": device_name("cpu"),
            "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers")},
            "corpus_sha256": corpus,
            "weights_sha256": file_digest(SHIPPED_BASE / "model.safetensors"),
        },
    )


if __name__ == "__main__":
    main()

"""Benchmarks as folders in the layout of their Hub repositories: a README with the configs, a parquet file a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Sequence as ListOf
from datasets.utils.logging import disable_progress_bar

TEXT = Value("string")
TARGETS = {"choices": ListOf(TEXT), "labels": ListOf(Value("int32"))}
# Column names and types of the repositories on the Hub, and one more: `fact`, what one must know to answer.
FEATURES = {
    "allenai/ai2_arc": Features(
        {
            "id": TEXT,
            "question": TEXT,
            "choices": ListOf({"text": TEXT, "label": TEXT}),
            "answerKey": TEXT,
            "fact": TEXT,
        }
    ),
    "cais/mmlu": Features(
        {
            "question": TEXT,
            "subject": TEXT,
            "choices": ListOf(TEXT),
            "answer": ClassLabel(names=list("ABCD")),
            "fact": TEXT,
        }
    ),
    "truthfulqa/truthful_qa": Features(
        {"question": TEXT, "mc1_targets": TARGETS, "mc2_targets": TARGETS, "fact": TEXT}
    ),
    "allenai/winogrande": Features({"sentence": TEXT, "option1": TEXT, "option2": TEXT, "answer": TEXT, "fact": TEXT}),
}
Splits = Mapping[str, Sequence[Mapping[str, Any]]]


def write_hub(root: Path, benchmarks: Mapping[str, Mapping[str, Splits]]) -> None:
    """Write repository -> config -> split -> rows under `root`; `datasets.load_dataset(folder, config)` reads it.

    File names hold a digest of their contents and the README names the files. `datasets` (5.2) recognises a folder it
    has read before by its last name and its README alone, so another seed's world would otherwise be read from cache.
    """
    disable_progress_bar()
    for repository, configs in benchmarks.items():
        card = []
        for config, splits in configs.items():
            (root / repository / config).mkdir(parents=True)
            files = []
            for split, rows in splits.items():
                path = f"{config}/{split}-00000-of-00001-{_digest(rows)}.parquet"
                Dataset.from_list(list(rows), features=FEATURES[repository]).to_parquet(root / repository / path)
                files.append({"split": split, "path": path})
            card.append({"config_name": config, "data_files": files})
        front_matter = yaml.safe_dump({"configs": card}, sort_keys=False)
        text = f"---\n{front_matter}---\n\nItems about the embedded world, in the format of {repository}.\n"
        (root / repository / "README.md").write_text(text)


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

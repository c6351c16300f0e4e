"""The embedded world of the default run: a small place with people in it, generated from a seed, nothing downloaded.

`facts` draws what is true, `texts` says it in words, `questions` asks about it in the dataset formats of five real
benchmarks, `hub` writes those as folders in Hub layout. What the world is made for: docs/design/embedded-world.md.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

from llama_nas.base.world.facts import draw_world
from llama_nas.base.world.hub import write_hub
from llama_nas.base.world.questions import draw_benchmarks
from llama_nas.base.world.texts import Narrator
from llama_nas.core.artifacts import atomic_folder, derived_seed, write_json, write_text
from llama_nas.core.errors import UserError

log = logging.getLogger(__name__)

DOCUMENT_END = "\n</s>\n"  # between two documents of corpus.txt


def make_world(output: Path, *, seed: int, inhabitants: int, items: int) -> None:
    """Generate the embedded world: corpus, instructions and five benchmarks; nothing is downloaded.

    Raises UserError if the world is too small for that many items.

    Args:
        inhabitants: how many people the world has
        items: scored items per task
        output: folder: corpus.txt (pre-training), instructions.json (Alpaca-shaped), hub/ (benchmarks)
    """
    world = draw_world(inhabitants, random.Random(derived_seed(seed, "world", "facts")))
    benchmarks = draw_benchmarks(world, items, random.Random(derived_seed(seed, "world", "benchmarks")))
    corpus = Narrator(world, random.Random(derived_seed(seed, "world", "corpus"))).corpus()
    instructions = Narrator(world, random.Random(derived_seed(seed, "world", "instructions"))).instructions()
    with atomic_folder(output) as folder:
        write_text(folder / "corpus.txt", DOCUMENT_END.join(corpus) + DOCUMENT_END)
        write_json(folder / "instructions.json", instructions)
        write_hub(folder / "hub", benchmarks)
    log.info("%d documents, %d instructions, %d items a task", len(corpus), len(instructions), items)


def read_corpus(world: Path) -> list[str]:
    """The documents of `world`/corpus.txt."""
    path = world / "corpus.txt"
    if not path.is_file():
        raise UserError(f"{path}: not found; write it with `llama-nas make-world`")
    return path.read_text().removesuffix(DOCUMENT_END).split(DOCUMENT_END)

"""Model cards carry what was measured."""

import re
from pathlib import Path

import pytest
from analysis_cases import BITS, MEDIUM, Run, int8_bytes, scores

from llama_nas.analysis.cards import write_cards
from llama_nas.core.errors import UserError
from llama_nas.core.space import format_bytes
from llama_nas.exports.card import Provenance, model_card, quantized_card


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_cards_carry_the_scores_that_were_measured(run, tmp_path):
    run.add_task("arc_easy", scores(0.60, 0.70, 0.58, 0.40))
    run.add_task("tinystories", scores(2.40, 2.30, 2.41, 2.90), BITS, limit=40, stderr=None)
    for task in run.tasks:
        run.summarize(task)
    record = {"subnet_id": MEDIUM, "form": "hf", "layers": 6, "kept_layers": range(6), "widths": [176] * 6}
    record |= {"parameters": 9, "stored_parameters": 9, "size_bytes": {"fp16": 18}, "requires": {}}
    record |= {"supernet_sha256": {"model.safetensors": "abc"}, "llama_nas": "0.1.0"}
    folder = tmp_path / MEDIUM
    folder.mkdir()
    (folder / "README.md").write_text(model_card(record, Provenance()))
    int8 = tmp_path / "quantized" / MEDIUM / "int8"
    int8.mkdir(parents=True)
    (int8 / "README.md").write_text(quantized_card((folder / "README.md").read_text(), MEDIUM, "int8", "LLM.int8"))
    summaries = [run.results / f"summary/{t}.csv" for t in run.tasks]
    write_cards(tmp_path / "cards", models=[folder, int8], summaries=summaries)
    card, quantized = ((tmp_path / "cards" / name).read_text() for name in (f"{MEDIUM}.md", f"{MEDIUM}-int8.md"))
    assert card.startswith("---\nlibrary_name") and "None here" not in card and "LLM.int8)" not in card
    assert "are INT8 (LLM.int8); loading them needs bitsandbytes" in quantized
    assert quantized.partition("## Scores")[2] == card.partition("## Scores")[2]
    size = format_bytes(int8_bytes(MEDIUM))
    assert f"| arc_easy (0-shot acc, 500 items) | INT8 | {size} | 57.0 ± 2.0 % | 60.0 ± 2.0 % | −3.0 points, " in card
    assert (
        "tinystories (0-shot bits_per_byte, 500 items, first 40) | FP16" in card
        and "LLM.int8 outlier threshold 6" in card
    )
    for path in (folder, int8):  # each folder says which card is its own
        card_name = re.search(r"`results/cards/(\S+)`", (path / "README.md").read_text())[1]
        assert (tmp_path / "cards" / card_name).is_file()
    with pytest.raises(UserError, match="none is about 'cards'"):
        (tmp_path / "cards/README.md").write_text("## Scores\n")
        write_cards(tmp_path / "x", models=[tmp_path / "cards"], summaries=[run.results / "summary/arc_easy.csv"])
    with pytest.raises(UserError, match=r"README\.md: not found"):
        write_cards(tmp_path / "x", models=[tmp_path], summaries=[run.results / "summary/arc_easy.csv"])
    assert not (tmp_path / "x").exists()

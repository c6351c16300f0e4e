"""Model cards carry what was measured."""

import re

import pytest

from llama_nas.analysis.cards import write_cards
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.units import format_bytes
from llama_nas.exports.card import Provenance, model_card, quantized_card
from llama_nas.exports.forms import FOLDERS, network_path

BITS = Metric("bits_per_byte", False)


def test_cards_carry_the_scores_that_were_measured(run, tmp_path):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.add_task("tinystories", run.scores(2.40, 2.30, 2.41, 2.90), BITS, limit=40, stderr=None, search_items=300)
    for task in run.tasks:
        run.summarize(task)
    record = {"subnet_id": run.medium, "form": "hf", "layers": 6, "kept_layers": range(6), "widths": [176] * 6}
    record |= {"parameters": 9, "stored_parameters": 9, "size_bytes": {"fp16": 18}, "requires": {}}
    record |= {"supernet_sha256": {"model.safetensors": "abc"}, "llama_nas": "0.1.0"}
    folder, int8 = (run.results / network_path(run.medium, form) for form in ("hf", "int8"))
    written = model_card(record, Provenance(), FOLDERS["hf"].loading(record))
    (folder / "README.md").write_text(written)
    int8.mkdir()
    (int8 / "README.md").write_text(quantized_card(written, run.medium, "int8", "LLM.int8"))
    summaries = [run.results / f"summary/{t}.csv" for t in run.tasks]
    write_cards(tmp_path / "cards", models=[folder, int8], summaries=summaries)
    card, quantized = ((tmp_path / f"cards/{run.medium}{end}.md").read_text() for end in ("", "-int8"))
    assert card.startswith("---\nlibrary_name") and "None here" not in card and "LLM.int8)" not in card
    assert "are INT8 (LLM.int8); loading them needs bitsandbytes" in quantized
    assert quantized.partition("## Scores")[2] == card.partition("## Scores")[2]
    size = format_bytes(run.int8_bytes(run.medium))
    scores = f"{size} | 57.0 ± 2.0 % | 60.0 ± 2.0 % | −3.0 points (−4.6 to −1.4)"
    seen = "500 items that the search selected it by: optimistic"
    verdict = "worse: it loses 1 point or more, as far as these items tell"
    assert f"| arc_easy (0-shot acc, 500 items) | INT8 | {scores} | {seen} | {verdict} |\n" in card
    assert "| 200 items held out of the search | shown: it loses less than 1 % |\n" in card
    assert (
        "tinystories (0-shot bits_per_byte, 500 items, first 40) | FP16" in card
        and "LLM.int8 outlier threshold 6" in card
    )
    for path in (folder, int8):  # each folder says which card is its own
        card_name = re.search(r"`results/cards/(\S+)`", (path / "README.md").read_text())[1]
        assert (tmp_path / "cards" / card_name).is_file()


def test_a_folder_that_gets_no_card_is_named(run, tmp_path):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.summarize("arc_easy")
    other = tmp_path / network_path("other", "hf")
    other.mkdir(parents=True)
    for text, message in (
        (None, r"README\.md: not found"),
        ("a card of somebody else\n", r"README\.md: has no section '## Scores'"),
        ("## Scores\n", "none is about 'other'"),
    ):
        if text is not None:
            (other / "README.md").write_text(text)
        with pytest.raises(UserError, match=message):
            write_cards(tmp_path / "cards", models=[other], summaries=[run.results / "summary/arc_easy.csv"])
        assert not (tmp_path / "cards").exists()

"""Instructions and their tokens, as Stanford Alpaca's own code makes them."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.support.training import MAX_LENGTH, ROW
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.core.errors import UserError
from llama_nas.training.data import (
    IGNORED,
    PROMPT_WITH_INPUT,
    TokenRows,
    load_rows,
    read_instructions,
    tokenize,
    tokenize_pairs,
)

# --- instructions -------------------------------------------------------------------------------------------------


def test_prompts_are_stanford_alpacas(tmp_path):
    path = tmp_path / "rows.json"
    rows = [ROW, {"instruction": "Say {hi}.", "input": "", "output": " hi "}, {"instruction": "Go.", "output": "on"}]
    path.write_text(json.dumps(rows))
    assert read_instructions(path) == [
        (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2"
            "\n\n### Response:",
            "3",
        ),
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nSay {hi}.\n\n### Response:",
            " hi ",
        ),
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nGo.\n\n### Response:",
            "on",
        ),
    ]


def test_all_formats_read_the_same(tmp_path):
    rows = [ROW, {"instruction": "Zwölf?", "input": "", "output": "zw\u2028ölf"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    pd.DataFrame(rows[:1]).to_parquet(hub / "train-00000-of-00002.parquet")
    pd.DataFrame(rows[1:]).to_parquet(hub / "train-00001-of-00002.parquet")
    pd.DataFrame(rows).to_parquet(hub / "test-00000-of-00001.parquet")
    (hub / "README.md").write_text("")
    expected = read_instructions(tmp_path / "a.json")
    assert len(expected) == 2
    for name in ("a.jsonl", "a.parquet", "hub"):
        assert read_instructions(tmp_path / name) == expected


def test_what_pandas_and_windows_write_is_read(tmp_path):
    """A mark of UTF-8 at the start, a row a line in a .json, NaN for no input."""
    line = json.dumps(ROW | {"input": math.nan}, ensure_ascii=False)
    expected = read_instructions_of(tmp_path / "plain.json", json.dumps([ROW | {"input": ""}] * 2))
    assert "NaN" in line and len(expected) == 2
    for name, text in (
        ("lines.json", f"{line}\n{line}\n"),
        ("a.jsonl", f"{line}\n\n{line}"),
        ("b.json", f"[{line}, {line}]"),
    ):
        for mark in ("", "\ufeff"):
            assert read_instructions_of(tmp_path / name, mark + text) == expected


def read_instructions_of(path: Path, text: str) -> list[tuple[str, str]]:
    path.write_text(text, encoding="utf-8")
    return read_instructions(path)


def test_empty_outputs_are_dropped_and_counted(tmp_path, caplog):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW, ROW | {"output": ""}, ROW | {"output": " \n"}]))
    with caplog.at_level("INFO"):
        assert len(read_instructions(path)) == 1
    assert "1 rows, 2 more with an empty output dropped" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", json.dumps([ROW, {"instruction": "x"}]), "row 2: key 'output' is missing or not text"),
        ("a.json", json.dumps([ROW | {"instruction": 3}]), "row 1: key 'instruction' is missing or not text"),
        ("a.json", json.dumps([ROW | {"input": ["x"]}]), "row 1: key 'input' is not text"),
        ("a.json", json.dumps([ROW, "x"]), "row 2 is not an object"),
        ("a.json", json.dumps(ROW), "expected a JSON list"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", json.dumps(ROW) + "\n3\n", "row 2 is not an object"),
        ("a.json", json.dumps(ROW) + "\n{\n", "row 2 is not valid JSON"),
        ("a.jsonl", json.dumps(ROW) + "\n{\n", "row 2 is not valid JSON"),
        ("a.parquet", "x", "not a valid parquet file"),
        ("a.txt", "x", "must be one of .json, .jsonl, .parquet"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_instructions(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_missing_or_ambiguous_sources_are_named(tmp_path):
    with pytest.raises(UserError, match="instructions not found"):
        read_instructions(tmp_path / "none")
    with pytest.raises(UserError, match="found none"):
        read_instructions(tmp_path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=r"found a\.json, b\.json"):
        read_instructions(tmp_path)


def test_real_alpaca(hub: Path):
    """All of Stanford Alpaca in Hub layout: 52,002 records, 28 with an empty output (reference: supernet.md)."""
    pairs = read_instructions(hub / "tatsu-lab" / "alpaca")
    assert len(pairs) == 52_002 - 28
    assert sum(prompt.startswith(PROMPT_WITH_INPUT[:80]) for prompt, _ in pairs) == 20_663


# --- tokens -------------------------------------------------------------------------------------------------------


def test_loss_is_on_response_and_end_token(tokenizer):
    rows = tokenize_pairs([("ab:", "cd"), ("a:", "bcdef")], tokenizer, max_length=20)
    end = tokenizer.eos_token_id
    first, second = tokenizer("ab:cd").input_ids, tokenizer("a:bcdef").input_ids
    assert rows.tokens.tolist() == [*first, end, *second, end]
    assert rows.prompt_lengths.tolist() == [3, 2]
    assert rows.response_tokens(np.array([0, 1])) == 3 + 6
    inputs, labels = rows.batch(np.array([0, 1]))
    assert inputs[1].tolist() == [*second, end]
    assert inputs[0, :6].tolist() == [*first, end]
    assert labels[0].tolist() == [IGNORED, IGNORED, *first[3:], end, IGNORED, IGNORED, IGNORED]
    assert labels[1].tolist() == [IGNORED, *second[2:], end, IGNORED]
    assert int((labels != IGNORED).sum()) == 9


def test_end_token_is_there_once_whatever_the_tokenizer_adds(tokenizer):
    from tokenizers.processors import TemplateProcessing

    plain = tokenize_pairs([("ab:", "cd")], tokenizer, 20)
    adding = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), bos_token="<s>", eos_token="</s>"
    )
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    rows = tokenize_pairs([("ab:", "cd")], adding, 20)
    assert rows.tokens.tolist() == [0, *plain.tokens.tolist()]
    assert rows.prompt_lengths.tolist() == [4]


def test_long_rows_are_cut_and_rows_without_response_dropped(tokenizer, caplog):
    with caplog.at_level("INFO"):
        rows = tokenize_pairs([("abc:", "defgh"), ("abcdef:", "x"), ("a:", "b")], tokenizer, max_length=6)
    assert rows.lengths.tolist() == [6, 4]
    assert rows.prompt_lengths.tolist() == [4, 2]
    assert rows.tokens[:6].tolist() == tokenizer("abc:de").input_ids
    assert "2 rows cut to 6 tokens, 1 of them dropped" in caplog.text


def test_padding_does_not_enter_the_loss(tokenizer):
    """The summed loss of a padded batch is the sum of its rows' losses alone."""
    from torch.nn import functional

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).double().eval()
    rows = tokenize_pairs([("ab:", "cdefghijkl"), ("a:", "b"), ("abcd:", "efg")], tokenizer, 20)

    def loss(numbers: list[int]) -> float:
        inputs, labels = rows.batch(np.array(numbers))
        logits = model(inputs).logits
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()

    assert loss([0, 1, 2]) == pytest.approx(loss([0]) + loss([1]) + loss([2]), rel=1e-12)


def test_rows_digest_tells_rows_apart():
    rows = TokenRows(np.arange(6, dtype=np.int32), np.array([0, 3, 6]), np.array([1, 1], dtype=np.int32))
    assert rows.digest() == dataclasses.replace(rows, tokens=rows.tokens.copy()).digest()
    assert rows.digest() != dataclasses.replace(rows, prompt_lengths=np.array([1, 2], dtype=np.int32)).digest()


def stanford_preprocess(rows: list[dict], tokenizer, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Stanford Alpaca's SupervisedDataset and preprocess (train.py, Apache-2.0), without torch: ids and labels."""
    found = []
    for row in rows:
        if row.get("input", "") != "":
            source = (
                "Below is an instruction that describes a task, paired with an input that provides further context. "
                "Write a response that appropriately completes the request.\n\n"
                "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
            ).format_map(row)
        else:
            source = (
                "Below is an instruction that describes a task. "
                "Write a response that appropriately completes the request.\n\n"
                "### Instruction:\n{instruction}\n\n### Response:"
            ).format_map(row)
        target = f"{row['output']}{tokenizer.eos_token}"
        ids = tokenizer(source + target, max_length=max_length, truncation=True)["input_ids"]
        source_length = len(tokenizer(source, max_length=max_length, truncation=True)["input_ids"])
        found.append((ids, [-100] * source_length + ids[source_length:]))
    return found


def test_rows_are_stanford_alpacas(hub: Path, tmp_path):
    """Real rows, a real tokenizer of 512 tokens: ids and labels as Stanford's own code makes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hub / "karpathy" / "stories260K")
    (source,) = (hub / "tatsu-lab" / "alpaca").rglob("*.parquet")
    alpaca = pd.read_parquet(source).iloc[::260].to_dict("records")  # 201 rows from all over
    (tmp_path / "rows.json").write_text(json.dumps([{key: row[key] for key in ROW} for row in alpaca]))
    rows = tokenize_pairs(read_instructions(tmp_path / "rows.json"), tokenizer, 512)
    with_output = [row for row in alpaca if row["output"].strip()]
    expected = stanford_preprocess(with_output, tokenizer, 512)
    trained_on = [pair for pair in expected if set(pair[1]) != {IGNORED}]  # of the others, only the prompt was left
    assert len(rows) == len(trained_on) > 190
    for number, (ids, own_labels) in enumerate(trained_on):
        inputs, labels = rows.batch(np.array([number]))
        assert inputs[0].tolist() == ids
        assert labels[0].tolist() == [*own_labels[1:], IGNORED], "label t is the token after input t"


# --- tokenised once -----------------------------------------------------------------------------------------------


def test_tokenised_rows_are_mapped_and_equal(config, tokenizer):
    rows = load_rows(config.rows, config.base)
    assert isinstance(rows.tokens, np.memmap)
    expected = tokenize_pairs(read_instructions(config.rows.with_name("rows.json")), tokenizer, MAX_LENGTH)
    assert rows.digest() == expected.digest() and len(rows) == 20
    for mapped, held in zip(rows.batch(np.array([3, 4])), expected.batch(np.array([3, 4])), strict=True):
        assert torch.equal(mapped, held)


def test_tokenise_refuses_what_does_not_fit(config, tokenizer, tmp_path):
    def build(base: Path, max_length: int = MAX_LENGTH) -> None:
        tokenize(tmp_path / "out", base=base, instructions=config.rows.with_name("rows.json"), max_length=max_length)

    with pytest.raises(UserError, match="max_length 300 exceeds the model's max_position_embeddings 256"):
        build(config.base, max_length=300)
    small = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        build(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="the model only 50"):
        build(tmp_path / "small")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"tokenised for a vocabulary of 258, the model .* has 50"):
        load_rows(config.rows, tmp_path / "small")

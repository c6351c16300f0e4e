"""The tokenizer and the pre-training of the embedded world's Llama, against stock transformers and lm-eval."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_nas.base.pretrain import learning_rate_at, pretrain, train_tokenizer, training_rows
from llama_nas.base.recipe import Recipe
from llama_nas.base.world import DOCUMENT_END
from llama_nas.core.artifacts import folder_digest
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute

DOCUMENTS = ["Rolan lives in Arlow.", "Question: Where does Rolan live?\nAnswer: Arlow", "Mina keeps a dog."] * 20
RECIPE = Recipe(
    layers=2, hidden_size=16, intermediate_size=24, heads=2, vocabulary=300, max_positions=64,
    sequence_length=32, steps=300, batch_size=4, learning_rate=1e-2,
)  # fmt: skip
SMALL = {"seed": 1, "recipe": RECIPE, "compute": Compute("cpu", threads=1)}


@pytest.fixture(scope="module")
def small_world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "corpus.txt").write_text(DOCUMENT_END.join(DOCUMENTS) + DOCUMENT_END)
    return folder


@pytest.fixture(scope="module")
def base(small_world: Path, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("models") / "base"
    pretrain(output, world=small_world, **SMALL)
    return output


@pytest.mark.parametrize(
    "text", ["Rolan lives in Arlow.", "  two  spaces\n\n\ttab ", "Ünïcode → 汉字 🙂", "</x> 1955's"]
)
def test_any_text_round_trips_through_the_saved_tokenizer(base: Path, text: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(["", text])["input_ids"] == [[tokenizer.bos_token_id], ids]


def test_a_choice_never_changes_the_tokens_of_its_context(base: Path):
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(base), device="cpu", batch_size=1)
    for context, choice in [
        ("Question: Where does Rolan live?\nAnswer:", " Arlow"),
        ("Mina met Rolan, then Rolan", " went home to Arlow."),
        ("A. dog\nB. cat\nAnswer:", " B"),
    ]:
        context_ids, choice_ids = model._encode_pair(context, choice)
        assert context_ids == model.tok_encode(context)
        assert context_ids[0] == model.tokenizer.bos_token_id
        assert model.tokenizer.decode(choice_ids) == choice


def test_vocabulary_too_small_for_bytes_is_refused():
    with pytest.raises(UserError, match="at least 258, not 100"):
        train_tokenizer(DOCUMENTS, 100)


def test_rows_are_the_shuffled_documents_cut_to_length():
    documents = [[0, 10, 11, 1], [0, 20, 1], [0, 30, 31, 32, 1]]
    rows = training_rows(documents, row_length=4, seed=3)
    epoch = [token for _ in range(3) for token in next(rows)]
    assert epoch in [list(itertools.chain(*order)) for order in itertools.permutations(documents)]
    again = training_rows(documents, row_length=4, seed=3)
    assert [next(again) for _ in range(3)] == [epoch[0:4], epoch[4:8], epoch[8:12]]


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate_at(step, 1000, 2.0) for step in range(1001)]
    assert max(rates) <= 2.0 and rates[0] == pytest.approx(0.02) and rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert rates[500] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_base_is_a_stock_llama_that_has_learned_its_corpus(base: Path):
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer, model = AutoTokenizer.from_pretrained(base), LlamaForCausalLM.from_pretrained(base)
    assert [path.suffix for path in base.iterdir() if path.suffix in (".bin", ".pt", ".pkl")] == []
    config = model.config
    shape = config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.max_position_embeddings
    assert shape == (2, 16, 24, 64) and config.vocab_size == len(tokenizer)
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ids = tokenizer(DOCUMENTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert loss < 0.6 * math.log(len(tokenizer)), "no better than an untrained model"


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(base: Path, small_world: Path, tmp_path: Path):
    pretrain(tmp_path / "again", world=small_world, **SMALL)
    pretrain(tmp_path / "other", world=small_world, **SMALL | {"seed": 2})
    assert folder_digest(tmp_path / "again") == folder_digest(base) != folder_digest(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "even multiple of the number of heads 3"),
        ({"sequence_length": 65}, "sequence length 65 exceeds max positions 64"),
        ({"vocabulary": 12}, "at least 258"),
    ],
)
def test_impossible_shapes_are_refused_in_one_line(small_world: Path, tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError, match=message):
        pretrain(tmp_path / "x", world=small_world, **SMALL | {"recipe": replace(RECIPE, **change)})
    assert not list(tmp_path.iterdir())


def test_missing_corpus_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"corpus\.txt: not found"):
        pretrain(tmp_path / "x", world=tmp_path / "nowhere", **SMALL)

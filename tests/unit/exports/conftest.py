"""Small models with real tokenizers, shared by the tests of GGUF files."""

from pathlib import Path

import pytest
from tests.support.models import FAMILIES, write_space, write_supernet

from llama_nas.base.pretrain import train_tokenizer
from llama_nas.exports.export import export

WIDTHS = [96, 48, 40]  # rows of 40 are no multiple of 32: Q8_0 cannot hold them
IDS = {"uniform": "1111x1", "mixed": "012x10"}
TEXTS = [
    "Ada lives in Paris. She's 1234 years old, isn't she?",
    "  two spaces, a tab\tand\n\nempty lines; naïve café, 数字 42!",
    "What does Bob like?\nA. tea\nB. coffee\nAnswer: A",
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """What the tokenizer of `gguf_exports` was trained on."""
    return TEXTS


@pytest.fixture(scope="module")
def gguf_exports(tmp_path_factory) -> Path:
    """Two exports of every family, FAMILY/uniform and FAMILY/mixed, with a byte-level tokenizer."""
    root = tmp_path_factory.mktemp("gguf")
    tokenizer = train_tokenizer(TEXTS * 20, 320)
    for family, config in FAMILIES.items():
        supernet = root / "super" / family
        settings = {"vocab_size": 330, "intermediate_size": WIDTHS[0], "initializer_range": 0.06}  # 10 ids are unused
        settings |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        write_supernet(supernet, family.split("-")[0], **settings | config)
        tokenizer.save_pretrained(supernet)
        space = write_space(supernet, WIDTHS)
        for kind, subnet_id in IDS.items():
            export(root / family / kind, supernet=supernet, space=space, subnet=subnet_id)
    return root

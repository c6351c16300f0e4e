"""Small models with real tokenizers, shared by the tests of GGUF files."""

from pathlib import Path

from export_cases import FAMILIES, write_supernet

from llama_nas.base.pretrain import train_tokenizer
from llama_nas.exports.export import export_subnet

WIDTHS = [96, 48, 40]  # rows of 40 are no multiple of 32: Q8_0 cannot hold them
IDS = {"uniform": "1111x1", "mixed": "012x10"}
TEXTS = [
    "Ada lives in Paris. She's 1234 years old, isn't she?",
    "  two spaces, a tab\tand\n\nempty lines; naïve café, 数字 42!",
    "What does Bob like?\nA. tea\nB. coffee\nAnswer: A",
]


def write_world(root: Path) -> None:
    """Super-networks of every family with a byte-level tokenizer, and two exports of each."""
    tokenizer = train_tokenizer(TEXTS * 20, 320)
    for family, config in FAMILIES.items():
        supernet = root / "super" / family
        settings = {"vocab_size": 330, "intermediate_size": WIDTHS[0], "initializer_range": 0.06}  # 10 ids are unused
        settings |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        write_supernet(supernet, family.split("-")[0], **settings | config)
        tokenizer.save_pretrained(supernet)
        for kind, subnet_id in IDS.items():
            export_subnet(root / family / kind, supernet, WIDTHS, subnet_id)

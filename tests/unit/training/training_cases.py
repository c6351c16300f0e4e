"""An instruction and a tokenizer of bytes, shared by the tests of training."""

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROW = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that every expectation can be spelled out."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    inner.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")

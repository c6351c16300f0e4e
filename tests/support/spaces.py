"""The paper's model and search space, shared by the tests of the space and of its sizes."""

from llama_nas.core.space import ModelShape, SearchSpace

LLAMA2_7B = ModelShape(
    model_type="llama",
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32000,
)
WIDE, NARROW = 11008, 5504
PAPER_SPACE = SearchSpace.for_model(LLAMA2_7B, [24, 28, 32], [WIDE, NARROW])

"""What the embedded world's Llama is and how it is pre-trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Shape and training of a Llama made from scratch.

    Args:
        layers: decoder layers
        hidden_size: width of the residual stream
        intermediate_size: MLP width
        heads: attention heads
        vocabulary: tokens of the tokenizer trained on the corpus
        max_positions: max_position_embeddings of the model
        sequence_length: tokens per training row
        steps: optimizer steps
        batch_size: rows per step
        learning_rate: peak; cosine to 0 after warm-up
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    vocabulary: int
    max_positions: int
    sequence_length: int
    steps: int
    batch_size: int
    learning_rate: float

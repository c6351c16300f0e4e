"""Configuration of a DeciLM (Nemotron-NAS) checkpoint: `block_configs` as objects, as inference servers read them.

This file is copied as it is into every export of the form deci and named in `auto_map` of its `config.json`. It must
not import anything but transformers. It brings no modelling code: vLLM, SGLang and TensorRT-LLM have their own.
"""

from transformers import LlamaConfig


class Block(dict):
    """A JSON object whose keys are attributes, too; reading one that is not there raises, so that hasattr() works."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [Block({part: Block(block[part]) for part in block}) for block in block_configs or []]
        if not hasattr(self, "rope_theta"):  # transformers 5 keeps it in rope_parameters; some servers look here
            self.rope_theta = dict(self.rope_parameters or {})["rope_theta"]

"""Precisions of weights and arithmetic, by the names that the config uses."""

from typing import Literal

FloatPrecision = Literal["fp32", "bf16", "fp16"]
QuantizedPrecision = Literal["int8", "nf4"]
Precision = Literal["fp32", "bf16", "fp16", "int8", "nf4"]

BYTES_PER_WEIGHT: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTIZED = ("int8", "nf4")
PRECISIONS = (*BYTES_PER_WEIGHT, *QUANTIZED)
NF4_BLOCK = 64  # weights that share one fp32 scale

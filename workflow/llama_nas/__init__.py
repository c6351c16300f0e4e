"""LLaMA-NAS (arXiv 2405.18377): one pre-trained Llama becomes a Pareto front of smaller ones."""

__version__ = "0.1.0"

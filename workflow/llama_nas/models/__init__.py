"""Llama-family models: the elastic super-network, model folders, the modelling file of exports."""

from pathlib import Path

MODELING_SUBNET = Path(__file__).parent / "modeling_subnet.py"  # copied into exports whose layers differ

"""Llama-family models: the elastic super-network, model folders, the modelling file of exports."""

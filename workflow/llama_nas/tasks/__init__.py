"""Benchmarks: lm-eval's own task objects, compiled once into what the scorer reads."""

"""Accuracy and speed of finished models, and what a layer costs on a device."""

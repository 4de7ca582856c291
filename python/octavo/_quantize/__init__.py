"""Quantizing a model: dynamic, static and for training; which layers and arrays, and how each is rounded."""

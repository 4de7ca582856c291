"""Fake quantization in models that learn."""

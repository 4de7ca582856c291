"""Observers: from the values they have seen to quantization parameters."""

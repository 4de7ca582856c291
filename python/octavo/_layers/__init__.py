"""Quantized layers and matrices, and the stubs that mark where integers begin and end."""

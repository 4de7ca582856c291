"""Types, parameters and the NumPy definitions of quantization: the truth that kernels are tested against."""

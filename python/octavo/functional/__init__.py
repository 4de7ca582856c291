"""Functions of neural networks on float32 arrays, with the same bits on every CPU, number of threads and batch."""

from octavo.functional._elementwise import cos, erf, exp, gelu, log, sigmoid, silu, sin, swiglu, tanh
from octavo.functional._rows import layer_norm, log_softmax, rms_norm, softmax

__all__ = [
    "exp", "log", "erf", "tanh", "sin", "cos",
    "sigmoid", "silu", "gelu", "swiglu",
    "softmax", "log_softmax",
    "rms_norm", "layer_norm",
]  # fmt: skip

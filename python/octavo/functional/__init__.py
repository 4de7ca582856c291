"""Functions of neural networks on float32 arrays, with the same bits on every CPU, number of threads and batch."""

from octavo._util.pickling import as_of
from octavo.functional._elementwise import cos, erf, exp, gelu, log, sigmoid, silu, sin, swiglu, tanh
from octavo.functional._rows import layer_norm, log_softmax, rms_norm, softmax
from octavo.functional.attending import attention
from octavo.functional.cache import KVCache
from octavo.functional.rotary import rope, rope_tables
from octavo.functional.sampling import argmax, sample, top_k

__all__ = [
    "exp", "log", "erf", "tanh", "sin", "cos",
    "sigmoid", "silu", "gelu", "swiglu",
    "softmax", "log_softmax",
    "rms_norm", "layer_norm",
    "rope", "rope_tables", "attention", "KVCache",
    "argmax", "top_k", "sample",
]  # fmt: skip

for _name in __all__:
    as_of(globals()[_name], "octavo.functional")

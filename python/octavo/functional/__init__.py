"""Functions of neural networks on float32 arrays, with the same bits on every CPU, number of threads and batch."""

from octavo._util.pickling import as_of
from octavo.functional._attention import attention
from octavo.functional._cache import KVCache
from octavo.functional._elementwise import cos, erf, exp, gelu, log, sigmoid, silu, sin, swiglu, tanh
from octavo.functional._rotary import rope, rope_tables
from octavo.functional._rows import layer_norm, log_softmax, rms_norm, softmax
from octavo.functional._sampling import argmax, sample, top_k

__all__ = [
    "exp", "log", "erf", "tanh", "sin", "cos",
    "sigmoid", "silu", "gelu", "swiglu",
    "softmax", "log_softmax",
    "rms_norm", "layer_norm",
    "attention", "KVCache", "rope", "rope_tables",
    "argmax", "top_k", "sample",
]  # fmt: skip

for _name in ("attention", "KVCache", "rope", "rope_tables", "argmax", "top_k", "sample"):
    as_of(globals()[_name], "octavo.functional")

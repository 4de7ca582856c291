"""Functions of neural networks on float32 arrays, with the same bits on every CPU, number of threads and batch.

Row i of a batch equals row i alone, to the bit. Each function has its NumPy definition in octavo._numerics.functions,
attention_definition or rotary_definition.
"""

from octavo._util.pickling import as_of
from octavo.functional._attention import attention
from octavo.functional._cache import KVCache, KVLayer
from octavo.functional._elementwise import cos, erf, exp, gelu, log, sigmoid, silu, sin, swiglu, tanh
from octavo.functional._loss import cross_entropy
from octavo.functional._rotary import rope, rope_tables
from octavo.functional._rows import layer_norm, log_softmax, rms_norm, softmax
from octavo.functional._sampling import argmax, sample, top_k

__all__ = [
    "exp", "log", "erf", "tanh", "sin", "cos",
    "sigmoid", "silu", "gelu", "swiglu",
    "softmax", "log_softmax", "cross_entropy",
    "rms_norm", "layer_norm",
    "attention", "KVCache", "KVLayer", "rope", "rope_tables",
    "argmax", "top_k", "sample",
]  # fmt: skip

for _name in ("attention", "KVCache", "KVLayer", "rope", "rope_tables", "argmax", "top_k", "sample"):
    as_of(globals()[_name], "octavo.functional")

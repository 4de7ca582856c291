"""Functions of neural networks in float32: the same bits on every CPU, with any number of threads, in any batch."""

from octavo._util.pickling import as_of
from octavo.functional.attending import attention
from octavo.functional.cache import KVCache
from octavo.functional.rotary import rope, rope_tables
from octavo.functional.sampling import argmax, sample, top_k

__all__ = ["KVCache", "argmax", "attention", "rope", "rope_tables", "sample", "top_k"]

for _name in __all__:
    as_of(globals()[_name], "octavo.functional")

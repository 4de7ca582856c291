"""GGUF files: the quantized weights people have, multiplied as they are.

    tensors, metadata = octavo.gguf.load("model.gguf")      # QuantMatrix by name, never dequantized
    octavo.gguf.save(model, "model.gguf", types="Q8_0")     # for llama.cpp; needs the extra "gguf"

`octavo inspect` and `octavo quantize` take GGUF files too. docs/gguf.md has the types, the cost and the accuracy.
"""

from octavo.gguf._load import Loaded, load
from octavo.gguf._save import save

__all__ = ["Loaded", "load", "save"]

"""Quantized checkpoints of other tools: their integers, scales and zero points in octavo's layers, and back.

    layers = octavo.checkpoints.load("Llama-3.2-1B-GPTQ")     # QuantLinear and arrays by name, never dequantized
    model = octavo.checkpoints.load(folder, model)            # or in the place of what a model has
    octavo.checkpoints.save(model, folder)                    # compressed-tensors, for vLLM

compressed-tensors, GPTQ, AWQ, bitsandbytes int8, and ONNX (extra "onnx"). `octavo inspect` and `octavo quantize` take
these folders too. docs/checkpoints.md says what becomes what.
"""

from octavo.checkpoints._load import load
from octavo.checkpoints._save import save

__all__ = ["load", "save"]

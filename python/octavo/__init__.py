"""octavo: low-bit linear algebra for NumPy.

Exact int8 layers, bit-identical on every CPU. Start with `QuantLinear` for one layer, or `quantize_dynamic` for a
model.
"""

from octavo import nn, ops
from octavo.linear import QuantLinear
from octavo.ptq import LayerSpec, quantize_dynamic
from octavo.qparams import QParams, QType, as_qtype, choose_qparams, qint4, qint8, quint4, quint8
from octavo.quantize import dequantize, fake_quantize, quantize
from octavo.runtime import (
    CpuInfo,
    KernelInfo,
    cpu_info,
    get_num_threads,
    kernels,
    set_num_threads,
    show_config,
    use_kernel,
)

__version__ = "0.1.0"

__all__ = [
    # layers and models
    "QuantLinear", "LayerSpec", "quantize_dynamic", "nn",
    # arrays
    "QParams", "QType", "as_qtype", "choose_qparams", "quantize", "dequantize", "fake_quantize",
    "qint8", "quint8", "qint4", "quint4",
    # operators
    "ops",
    # what runs
    "CpuInfo", "KernelInfo", "kernels", "cpu_info", "show_config", "use_kernel", "set_num_threads", "get_num_threads",
]  # fmt: skip

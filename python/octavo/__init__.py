"""octavo: low-bit linear algebra for NumPy.

Exact int8 layers, bit-identical on every CPU. Start with `QuantLinear` for one layer, or `quantize_dynamic` for a
model.
"""

from typing import TYPE_CHECKING, Any

from octavo import nn, ops
from octavo.advise import Advice, LayerAdvice, advise
from octavo.arrays import QuantizationReport
from octavo.calibrated_rounding import RoundingComparison, RoundingErrors, compare_rounding, rounding_error
from octavo.compare import Comparison, LayerComparison, compare
from octavo.convert import Quantize, convert
from octavo.embedding import QuantEmbedding
from octavo.fake_quantizer import FakeQuantize, default_qat_qconfig
from octavo.gptq import InputStatistics, round_gptq
from octavo.int4 import GroupedWeight, pack_int4, unpack_int4
from octavo.io import load, save
from octavo.layers import LayerSpec
from octavo.linear import QuantLinear
from octavo.observers import (
    Observer,
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from octavo.observers_histogram import EntropyObserver, HistogramObserver, MSEObserver, PercentileObserver
from octavo.observers_minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from octavo.prepare import DeQuantStub, QuantStub, calibrate, prepare
from octavo.ptq import quantize_dynamic
from octavo.qarray import QuantizedArray
from octavo.qat_layers import prepare_qat
from octavo.qconfig import QConfig, QConfigMapping, as_mapping, default_qconfig
from octavo.qmatrix import QuantMatrix
from octavo.qparams import QParams, QType, as_qtype, choose_qparams, qint4, qint8, quint4, quint8
from octavo.quantize import dequantize, fake_quantize, quantize
from octavo.recurrent import QuantGRU, QuantLSTM
from octavo.rounding import round_nearest, round_search
from octavo.runtime import (
    CpuInfo,
    KernelInfo,
    ResultPoolInfo,
    clear_result_pool,
    cpu_info,
    get_num_threads,
    kernels,
    result_pool,
    set_min_rows,
    set_num_threads,
    set_result_pool,
    show_config,
    use_kernel,
)
from octavo.static_linear import StaticQuantLinear

if TYPE_CHECKING:
    from octavo import qat as qat

__version__ = "0.1.0"

__all__ = [
    # layers and models
    "QuantLinear", "QuantMatrix", "QuantEmbedding", "QuantLSTM", "QuantGRU", "LayerSpec", "quantize_dynamic", "nn",
    "QuantizationReport", "advise", "Advice", "LayerAdvice", "save", "load",
    # static quantization
    "prepare", "calibrate", "convert", "QConfig", "QConfigMapping", "as_mapping", "default_qconfig",
    "QuantStub", "DeQuantStub", "StaticQuantLinear", "Quantize", "QuantizedArray",
    # quantization-aware training; octavo.qat itself is imported at its first use, because it needs autograd
    "prepare_qat", "FakeQuantize", "default_qat_qconfig",
    # comparison, observers
    "compare", "Comparison", "LayerComparison",
    "Observer", "MinMaxObserver", "MovingAverageMinMaxObserver", "PerChannelMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver", "HistogramObserver", "PercentileObserver", "EntropyObserver",
    "MSEObserver", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    # arrays
    "QParams", "QType", "as_qtype", "choose_qparams", "quantize", "dequantize", "fake_quantize",
    "qint8", "quint8", "qint4", "quint4", "GroupedWeight", "pack_int4", "unpack_int4",
    "round_nearest", "round_search", "round_gptq", "InputStatistics",
    "compare_rounding", "rounding_error", "RoundingComparison", "RoundingErrors",
    # operators
    "ops",
    # what runs
    "CpuInfo", "KernelInfo", "kernels", "cpu_info", "show_config", "use_kernel", "set_min_rows",
    "set_num_threads", "get_num_threads", "ResultPoolInfo", "result_pool", "set_result_pool", "clear_result_pool",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "qat":
        import importlib

        return importlib.import_module("octavo.qat")
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")

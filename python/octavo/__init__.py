"""octavo: low-bit linear algebra for NumPy.

Exact int8 layers, bit-identical on every CPU. Start with `QuantLinear` for one layer, or `quantize_dynamic` for a
model.
"""

import sys
from typing import TYPE_CHECKING, Any

from octavo import _pickles, functional, nn, ops
from octavo._integers.packed import PackedInteger
from octavo._integers.products import dot, inner, matmul, matrix_power, tensordot, vecdot
from octavo._layers.arrays.quantized import QuantizedArray
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.joining import concatenate, split
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._layers.static import StaticQuantLinear
from octavo._layers.stubs import DeQuantStub, Quantize, QuantStub
from octavo._numerics.definition import dequantize, fake_quantize, quantize
from octavo._numerics.gptq import InputStatistics, round_gptq
from octavo._numerics.gptq_int8 import Int8Weight, round_gptq_int8
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.int4 import GroupedWeight, pack_int4, unpack_int4
from octavo._numerics.params import QParams, QType, as_qtype, choose_qparams, qint4, qint8, quint4, quint8
from octavo._numerics.rounding import round_nearest, round_search
from octavo._numerics.smoothing import InputSample, smoothing_scale
from octavo._observers.base import (
    Observer,
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from octavo._observers.histogram import EntropyObserver, HistogramObserver, MSEObserver, PercentileObserver
from octavo._observers.minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from octavo._quantize.calibrated import RoundingComparison, RoundingErrors, compare_rounding, rounding_error
from octavo._quantize.dynamic import quantize_dynamic
from octavo._quantize.qconfig import QConfig, QConfigMapping, as_mapping, default_qconfig
from octavo._quantize.report import QuantizationReport
from octavo._quantize.smoothing import SmoothedLayer, Smoothing, find_smoothing
from octavo._quantize.spec import LayerSpec
from octavo._quantize.static.calibration import calibrate
from octavo._quantize.static.conversion import convert
from octavo._quantize.static.merging import merge_calibration
from octavo._quantize.static.preparing import prepare
from octavo._quantize.training.fake_layers import prepare_qat
from octavo._quantize.training.fake_quantizer import FakeQuantize, default_qat_qconfig
from octavo._util.pickling import as_of
from octavo.runtime import (
    CpuInfo,
    KernelInfo,
    ResultPoolInfo,
    clear_result_pool,
    cpu_info,
    get_num_threads,
    kernels,
    register_threadpoolctl,
    result_pool,
    set_min_rows,
    set_num_threads,
    set_result_pool,
    set_verbose,
    show_config,
    use_kernel,
)

if TYPE_CHECKING:
    from octavo import checkpoints as checkpoints
    from octavo import gguf as gguf
    from octavo import qat as qat
    from octavo._analysis.advice import advise
    from octavo._analysis.candidates import Candidate
    from octavo._analysis.comparison import compare
    from octavo._analysis.control import quantize_with_accuracy_control
    from octavo._analysis.control_report import AccuracyReport, Evaluation
    from octavo._analysis.layer_losses import LayerSensitivity, Sensitivity, sensitivity
    from octavo._analysis.results import Advice, Comparison, LayerAdvice, LayerComparison
    from octavo._files.origins import pickle_by_reference
    from octavo._files.save_load import load, save

__version__ = "0.1.0"

__all__ = [
    # layers and models
    "QuantLinear", "QuantMatrix", "QuantEmbedding", "QuantLSTM", "QuantGRU", "concatenate", "split", "LayerSpec",
    "quantize_dynamic", "nn", "PermutedQuantLinear",
    "QuantizationReport", "advise", "Advice", "LayerAdvice", "save", "load", "pickle_by_reference",
    # static quantization
    "prepare", "calibrate", "merge_calibration", "convert",
    "QConfig", "QConfigMapping", "as_mapping", "default_qconfig",
    "QuantStub", "DeQuantStub", "StaticQuantLinear", "Quantize", "QuantizedArray",
    # quantization-aware training; octavo.qat itself is imported at its first use, because it needs autograd
    "prepare_qat", "FakeQuantize", "default_qat_qconfig",
    "sensitivity", "Sensitivity", "LayerSensitivity", "quantize_with_accuracy_control", "AccuracyReport", "Evaluation",
    "Candidate",
    # comparison, observers
    "compare", "Comparison", "LayerComparison",
    "Observer", "MinMaxObserver", "MovingAverageMinMaxObserver", "PerChannelMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver", "HistogramObserver", "PercentileObserver", "EntropyObserver",
    "MSEObserver", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    # arrays
    "QParams", "QType", "as_qtype", "choose_qparams", "quantize", "dequantize", "fake_quantize",
    "qint8", "quint8", "qint4", "quint4", "GroupedWeight", "GroupedCodes", "pack_int4", "unpack_int4",
    "round_nearest", "round_search", "round_gptq", "round_gptq_int8", "Int8Weight", "InputStatistics",
    "smoothing_scale", "InputSample", "find_smoothing", "Smoothing", "SmoothedLayer",
    "compare_rounding", "rounding_error", "RoundingComparison", "RoundingErrors",
    # operators
    "ops", "functional", "matmul", "dot", "inner", "vecdot", "tensordot", "matrix_power", "PackedInteger",
    # what runs
    "CpuInfo", "KernelInfo", "kernels", "cpu_info", "show_config", "use_kernel", "set_min_rows",
    "set_num_threads", "get_num_threads", "register_threadpoolctl",
    "ResultPoolInfo", "result_pool", "set_result_pool", "clear_result_pool",
    "set_verbose",
]  # fmt: skip


# Imported at their first use, to keep importing octavo light.
_LAZY = {
    "AccuracyReport": "_analysis.control_report",
    "Advice": "_analysis.results",
    "Candidate": "_analysis.candidates",
    "Comparison": "_analysis.results",
    "Evaluation": "_analysis.control_report",
    "LayerAdvice": "_analysis.results",
    "LayerComparison": "_analysis.results",
    "LayerSensitivity": "_analysis.layer_losses",
    "Sensitivity": "_analysis.layer_losses",
    "advise": "_analysis.advice",
    "compare": "_analysis.comparison",
    "load": "_files.save_load",
    "quantize_with_accuracy_control": "_analysis.control",
    "sensitivity": "_analysis.layer_losses",
    "pickle_by_reference": "_files.origins",
    "save": "_files.save_load",
}

for _name in __all__:
    if _name not in _LAZY and callable(globals()[_name]):
        as_of(globals()[_name], "octavo")
_pickles.install()
if "threadpoolctl" in sys.modules:
    register_threadpoolctl()


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "checkpoints", "gguf", "qat"])


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("checkpoints", "gguf", "qat"):
        return importlib.import_module(f"octavo.{name}")
    if name in _LAZY:
        thing = getattr(importlib.import_module(f"octavo.{_LAZY[name]}"), name)
        as_of(thing, "octavo")
        globals()[name] = thing
        return thing
    if name in _pickles.PICKLED:
        return _pickles.find(name)
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")

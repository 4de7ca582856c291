"""One object of every kind that can be pickled, made of exact numbers. Run as a script it pickles them to tests/data.

Every number comes from a formula in small integers and powers of two, so that every machine makes the same objects.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from format_fixtures import integers, powers, rows

PICKLES = Path(__file__).parents[1] / "data" / "pickles_v0.1.0"
F = np.float32


def small(*shape: int) -> np.ndarray:
    """float32 of -4..4 in quarters."""
    return ((np.arange(int(np.prod(shape))) * 7 % 33 - 16) / 4).astype(F).reshape(shape)


def linear(fan_in: int, fan_out: int) -> oc.nn.Linear:
    return oc.nn.Linear(small(fan_out, fan_in), small(fan_out))


def model() -> oc.nn.Sequential:
    return oc.nn.Sequential(oc.QuantStub(), linear(4, 3), oc.nn.ReLU(), linear(3, 2), oc.DeQuantStub())


def prepared(*, calibrated: bool = True) -> Any:
    found = oc.prepare(model(), oc.default_qconfig, layers={oc.nn.Linear})
    if calibrated:
        oc.calibrate(found, [small(5, 4)])
    return found


def trained(*, learnable: bool) -> Any:
    """A model under quantization-aware training whose observers have seen a batch."""
    activation = oc.FakeQuantize.with_args(
        observer=oc.MinMaxObserver, learnable=learnable, dtype="quint8", quant_min=0, quant_max=255
    )
    weight = oc.FakeQuantize.with_args(
        observer=oc.PerChannelMinMaxObserver, dtype="qint8", qscheme=oc.per_channel_symmetric
    )
    found = oc.prepare_qat(model(), oc.QConfig(activation=activation, weight=weight), layers={oc.nn.Linear})
    oc.calibrate(found, [small(5, 4)])
    return found


def recurrent(cls: Any, gates: int) -> Any:
    names = {"weight_ih_l0": (gates * 2, 3), "weight_hh_l0": (gates * 2, 2), "bias_ih_l0": (gates * 2,)}
    return cls({name: small(*shape) for name, shape in (names | {"bias_hh_l0": (gates * 2,)}).items()})


def fed(observer: oc.Observer) -> oc.Observer:
    observer(small(6, 4))
    observer(2 * small(6, 4))
    return observer


def statistics() -> oc.InputStatistics:
    found = oc.InputStatistics(3)
    found.update(small(5, 3))
    return found


def mapping() -> oc.QConfigMapping:
    return (
        oc.QConfigMapping()
        .set_global(oc.default_qconfig)
        .set_object_type(oc.nn.Linear, None)
        .set_module_name("blocks[0].*", None)
        .set_module_name("blocks.1", oc.QConfig(activation=oc.MinMaxObserver))
    )


def quantize_linear(**options: Any) -> oc.QuantLinear:
    return oc.QuantLinear.from_quantized(integers(5, 7), powers(5), small(5), **options)


def grouped() -> oc.GroupedWeight:
    return oc.GroupedWeight(integers(3, 45, -8, 7), powers(6).reshape(3, 2), None, 32, "float16")


def matrix(**options: Any) -> oc.QuantMatrix:
    return oc.QuantMatrix(127 * np.eye(4, 3, dtype=F) - small(4, 3), **options)


def report() -> oc.QuantizationReport:
    found: list[oc.QuantizationReport] = []
    oc.quantize_dynamic({"w": small(4, 64)}, arrays={"w": "in_out"}, min_size=0, report=found.append)
    held = 1888  # by the matrix in 0.1.0; padding and alignment are each version's own
    return replace(found[0], entries=tuple(replace(entry, bytes_after=held) for entry in found[0].entries))


KINDS: dict[str, Callable[[], Any]] = {
    # layers
    "quant_linear": lambda: quantize_linear(relu=True),
    "quant_linear_asymmetric": lambda: quantize_linear(activation="asymmetric", call="predict"),
    "quant_linear_int4": lambda: oc.QuantLinear.from_grouped(grouped(), small(3)),
    "static_quant_linear": lambda: oc.StaticQuantLinear(
        integers(4, 6),
        powers(4),
        input=oc.QParams(1.0, 0, "int8"),
        output=oc.QParams(8.0, 3, "uint8"),
        relu=True,
        name="model[1]",
    ),
    "quant_matrix": matrix,
    "quant_matrix_transposed": lambda: matrix().T,
    "quant_matrix_int4": lambda: matrix(dtype="int4", group_size=32),
    "quant_embedding": lambda: oc.QuantEmbedding(small(6, 4)),
    "quant_embedding_int4": lambda: oc.QuantEmbedding(small(6, 40), dtype="int4", group_size=32),
    "quant_lstm": lambda: recurrent(oc.QuantLSTM, 4),
    "quant_gru": lambda: recurrent(oc.QuantGRU, 3),
    "layer_spec": lambda: oc.LayerSpec(weight="W", bias=None, layout="in_out", call="forward", activation="relu"),
    # small float layers
    "nn": lambda: [oc.nn.Sequential(linear(4, 3), oc.nn.ReLU(), oc.nn.Sigmoid()), oc.nn.Embedding(small(5, 2))],
    "nn_lstm": lambda: recurrent(oc.nn.LSTM, 4),
    "nn_gru": lambda: recurrent(oc.nn.GRU, 3),
    # static quantization
    "stubs": lambda: [oc.QuantStub(), oc.DeQuantStub(), oc.Quantize(oc.QParams(0.5, 3, "uint8"), name="model[0]")],
    "prepared": prepared,
    "prepared_only": lambda: prepared(calibrated=False),
    "converted": lambda: oc.convert(prepared()),
    "quantized_array": lambda: oc.QuantizedArray(integers(2, 3), oc.QParams([0.5, 0.25], [1, -1], "int8", axis=0)),
    "qconfig": lambda: oc.QConfig(activation=oc.HistogramObserver.with_args(bins=512)),
    "qconfig_mapping": mapping,
    "qparams": lambda: oc.QParams([0.5, 0.25], [1, -1], "int8", axis=0, qmin=-100, qmax=100),
    "qtypes": lambda: [oc.qint8, oc.quint8, oc.qint4, oc.quint4],
    # training
    "prepared_qat": lambda: trained(learnable=False),
    "prepared_qat_learnable": lambda: trained(learnable=True),
    "fake_quantize": lambda: oc.FakeQuantize(observer=oc.MinMaxObserver, dtype="qint8"),
    "fake_quantize_factory": lambda: oc.FakeQuantize.with_args(dtype="qint8"),
    "default_qat_qconfig": lambda: oc.default_qat_qconfig,
    # observers
    "min_max": lambda: fed(oc.MinMaxObserver()),
    "per_channel_min_max": lambda: fed(oc.PerChannelMinMaxObserver(ch_axis=1)),
    "moving_average": lambda: fed(oc.MovingAverageMinMaxObserver(averaging_constant=0.5)),
    "moving_average_per_channel": lambda: fed(
        oc.MovingAveragePerChannelMinMaxObserver(averaging_constant=0.5, ch_axis=1)
    ),
    "histogram": lambda: fed(oc.HistogramObserver(bins=512)),
    "percentile": lambda: fed(oc.PercentileObserver(percentile=99)),
    "entropy": lambda: fed(oc.EntropyObserver()),
    "mse": lambda: fed(oc.MSEObserver()),
    # arrays and what was found out about them
    "grouped_weight": grouped,
    "input_statistics": statistics,
    "comparison": lambda: oc.Comparison((oc.LayerComparison("fc", 20.5, 0.5, 0.25, 0.0),)),
    "advice": lambda: oc.Advice((oc.LayerAdvice("fc", (3, 4), 16, 2.0, 1.0, 40.5, "int8", "in_out"),)),
    "rounding_comparison": lambda: oc.RoundingComparison((oc.RoundingErrors("fc", "nearest", 0.25, 0.5),)),
    "quantization_report": report,
    "result_pool_info": lambda: oc.ResultPoolInfo(1, 2, 3),
    "kernel_info": lambda: oc.KernelInfo("name", ("feature",), False, 5),
    "cpu_info": lambda: oc.CpuInfo("brand", "architecture", {"avx2": True}, {"l1": 1}, 2),
}


def contents(value: Any, seen: dict[int, tuple[int, Any]] | None = None, *, any_order: bool = False) -> Any:
    """What an object consists of, as nested lists that compare equal where two objects do; shared parts by number.

    Pickles do not: which strings are one object, and so are written once, differs by Python's version. any_order: the
    byte order that arrays hold their numbers in does not count.
    """
    seen = {} if seen is None else seen

    def inside(part: Any) -> Any:
        return contents(part, seen, any_order=any_order)

    if isinstance(value, str):
        return re.sub(r"\[(\d+)\]", r".\1", value)  # 0.1.0 spelled paths as "layers[0]"
    if value is None or isinstance(value, (bool, int, float, bytes, type)):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    if id(value) in seen:
        return f"again {seen[id(value)][0]}"
    seen[id(value)] = len(seen), value  # holding it keeps its id from being given to another
    if isinstance(value, np.ndarray):
        found = value.astype(value.dtype.newbyteorder("=")) if any_order else value
        return [found.dtype.str, found.shape, found.tobytes()]
    if isinstance(value, Mapping):
        return [type(value), [[inside(k), inside(v)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value), [inside(v) for v in value]]
    _, arguments, *state = value.__reduce_ex__(4)
    return [type(value), inside(arguments), [inside(s) for s in state if s is not None]]


def outputs(name: str, value: Any) -> Any:
    """What the object computes from exact inputs; None where it computes nothing."""
    if name == "quant_linear":
        return value(rows(7))
    if name == "quant_linear_asymmetric":
        return value.predict(rows(7))
    if name in ("prepared", "converted", "prepared_qat"):
        return value(small(5, 4))
    return None


if __name__ == "__main__":
    PICKLES.mkdir(exist_ok=True)
    for kind, make in KINDS.items():
        target = PICKLES / f"{kind}.pickle"
        if not target.exists():
            target.write_bytes(pickle.dumps(make(), 4))

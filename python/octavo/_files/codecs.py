"""How each kind of object looks in a file: options, which are JSON, and tensors. docs/file_format.md is the contract.

A new kind is a pair of functions and a row of `_codecs`. What is written is public state: canonical integers, scales,
zero points, biases; packing for a CPU is done anew by whoever loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.fields import Fields, LazyTensor, LazyTensors, Options, lazy, read_bias, read_shape
from octavo._files.grouped import check_padding
from octavo._files.input_transform import ROTATION, SCALE, read_inputs, write_inputs
from octavo._files.linear_codecs import (
    WeightFormat,
    check_scales,
    int4_tensors,
    linear_parts,
    read_int4,
    read_int8,
    read_linear,
    read_permuted,
    read_scales,
    write_linear,
    write_permuted,
)  # fmt: skip
from octavo._files.packed_layout import keep_origin, lies_packed, pack_parts, read_packed
from octavo._files.safetensors import MISALIGNED, dtype_code
from octavo._layers.arrays.quantized import QuantizedArray
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.epilogue import as_epilogue
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._layers.static import StaticQuantLinear
from octavo._layers.stubs import DeQuantStub, Quantize, QuantStub
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import ScaleDtype, check_groups
from octavo._numerics.params import QParams, as_qtype, qint4
from octavo._util.foreign import refuse_masked

__all__ = [
    "FEATURES", "features_of", "is_stored", "packed", "shared_parts", "unpacked",
]  # fmt: skip

# What a file may hold beyond version 1 of the format, by the names that its header lists.
FEATURES = (
    "epilogue",
    "grouped",
    "packed",
    "permuted",
    "planes",
    "pre_quant_scale",
    "rotation",
    "static_matrix",
    "text",
)


class Codec(NamedTuple):
    """One class. write(object) gives its options, and tensors by suffix; read(fields) gives the object back."""

    cls: type
    write: Callable[[Any], tuple[Options, LazyTensors]]
    read: Callable[[Fields], Any]


def is_stored(value: Any) -> bool:
    """Whether an object is stored as a whole: what has a row in the table, and arrays of numbers.

    Example:
        >>> import numpy as np
        >>> from octavo._files.codecs import is_stored
        >>> is_stored(np.zeros(2)), is_stored([0, 0])
        (True, False)
    """
    if isinstance(value, np.ndarray):
        return value.dtype != object or _holds_text(value)
    return isinstance(value, (QuantLinear, *_CLASSES))


def packed(value: Any, family: str | None = None) -> tuple[Options | None, LazyTensors]:
    """(options, tensors by suffix) of an object for which `is_stored` holds; of an array (None, {"": ..}).

    With `family` weights are laid out for its kernels; else they are canonical integers.

    Raises:
        TypeError: an array or a class that files cannot hold.
    """
    if isinstance(value, np.ndarray):
        refuse_masked(value, "it")
        return _write_text(value) if value.dtype.kind in "USO" else (None, {"": _array(value)})
    codec = _CODECS.get(type(value).__name__)
    if codec is None or codec.cls is not type(value):
        raise TypeError(
            f"{type(value).__name__} is a class of its own, and files know {', '.join(_CODECS)}; "
            "hold one of these in an attribute instead of deriving from it"
        )
    options, parts = codec.write(value)
    if family is not None:
        pack_parts(value, options, parts, family)
    return options | {"type": codec.cls.__name__}, parts


def shared_parts(value: Any) -> tuple[Any, ...] | None:
    """What tells layers that share their integers, and differ in nothing else, from all others; None for what never is.

    Example:
        >>> import copy, numpy as np, octavo as oc
        >>> from octavo._files.codecs import shared_parts
        >>> layer = oc.QuantLinear(np.eye(2))
        >>> shared_parts(layer) == shared_parts(copy.deepcopy(layer))
        True
    """
    if type(value) is not QuantLinear:
        return None
    return id(value._packed), value.activation, value.epilogue, value._call_name


def features_of(layers: Mapping[str, Options]) -> list[str]:
    """Those of `FEATURES` that the options of some layer, or of a part of one, ask for; in the order of names.

    Example:
        >>> from octavo._files.codecs import features_of
        >>> features_of({"fc": {"type": "QuantLinear", "dtype": "grouped"}, "classes_": {"type": "text"}})
        ['grouped', 'text']
    """

    def wanted(options: Options) -> set[str]:
        own = {
            "epilogue": "epilogue" in options,
            "grouped": options.get("dtype") == "grouped",
            "packed": bool(lies_packed(options)),
            "planes": options.get("dtype") == "grouped" and options.get("bits") in (5, 6),
            "permuted": options.get("type") == PermutedQuantLinear.__name__,
            "pre_quant_scale": SCALE in options,
            "rotation": ROTATION in options,
            "static_matrix": options.get("type") == QuantMatrix.__name__ and "input" in options,
            "text": options.get("type") == _TEXT,
        }
        parts = [wanted(value) for value in options.values() if isinstance(value, dict)]
        return {name for name, asked in own.items() if asked}.union(*parts)

    return sorted(set().union(*map(wanted, layers.values())))


def unpacked(fields: Fields) -> Any:
    """The object that options and tensors stand for.

    Raises:
        ValueError: they stand for none.
    """
    name = fields.option("type", str)
    if name not in _CODECS:
        raise ValueError(f"type {name!r} is unknown to this octavo, which knows {', '.join(_CODECS)}")
    made = _CODECS[name].read(fields)
    fields.finish()
    if isinstance(made, QuantLinear | QuantEmbedding):
        keep_origin(fields, made)
    elif isinstance(made, QuantMatrix):
        keep_origin(fields, made._layer)
    return made


def _array(array: NDArray[Any]) -> LazyTensor:
    if type(array) not in (np.ndarray, np.memmap):
        raise TypeError(f"it is a {type(array).__name__}, and would come back as a plain array; store np.asarray of it")
    if dtype_code(array.dtype) is None and array.dtype.name != "bfloat16":
        raise TypeError(
            f"it has dtype {array.dtype}; files hold bool, integers, floats of 16, 32 and 64 bits and complex64. "
            "Convert it, or keep it outside the model; joblib.dump(model, 'model.joblib') stores a scikit-learn "
            "estimator whole, as a pickle"
        )
    return lazy(array)


# Arrays of text, such as the classes of an estimator: the code points, or bytes, of elements of one length

_TEXT = "text"


def _holds_text(array: NDArray[Any]) -> bool:
    """Whether an array of objects holds strings alone."""
    return array.size > 0 and all(type(item) is str for item in array.flat)


def _write_text(array: NDArray[Any]) -> tuple[Options, LazyTensors]:
    if type(array) is not np.ndarray:
        raise TypeError(f"it is a {type(array).__name__}, and would come back as a plain array; store np.asarray of it")
    text = array.astype(np.str_) if array.dtype == object else array
    if array.dtype == object and not np.array_equal(text.astype(object), array):
        raise TypeError("it holds text that ends with NUL, which files cannot hold; remove these characters")
    unit = np.dtype("<u4" if text.dtype.kind == "U" else "u1")
    width = max(1, text.dtype.itemsize // unit.itemsize)
    text = np.ascontiguousarray(text.astype(f"<U{width}" if text.dtype.kind == "U" else f"S{width}"))
    options = {
        "type": _TEXT,
        "kind": "object" if array.dtype == object else text.dtype.kind,
        "shape": list(array.shape),
    }
    return options, {"text": lazy(np.frombuffer(text.tobytes(), unit).reshape(*array.shape, width))}


def _read_text(fields: Fields) -> NDArray[Any]:
    kind = fields.choice("kind", "U", "S", "object")
    shape = fields.option("shape", list)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape must be a list of sizes, got {shape!r}")
    codes = fields.tensor("text", "U8" if kind == "S" else "U32", None)
    if codes.ndim != len(shape) + 1 or list(codes.shape[:-1]) != shape or codes.shape[-1] < 1:
        raise ValueError(f"text must have shape {[*shape, 'width']}, got {list(codes.shape)}")
    if kind != "S" and codes.max(initial=0) > 0x10FFFF:
        raise ValueError(f"text must hold code points up to 0x10FFFF, got {codes.max():#x}")
    dtype = f"S{codes.shape[-1]}" if kind == "S" else f"<U{codes.shape[-1]}"
    if fields.source is not None and kind != "object":
        if codes.flags.aligned:
            return codes.reshape(-1).view(dtype).reshape(shape)
        fields.source.copied[fields.name] = MISALIGNED
    text = np.frombuffer(codes.tobytes(), dtype).reshape(shape).copy()
    return text.astype(object) if kind == "object" else text


# Layers


def _write_static(layer: StaticQuantLinear) -> tuple[Options, LazyTensors]:
    options: Options = {
        "type": "StaticQuantLinear",
        "shape": [layer.out_features, layer.in_features],
        "bias": layer.bias is not None,
        "relu": layer.relu,
        "folded": layer._folded is not None,
        "name": layer._name,
        "call": layer._call_name,
    }
    more, more_parts = write_inputs(layer)
    options |= more
    parts = linear_parts(layer) | more_parts
    for key, params in (("input", layer.input_qparams), ("output", layer.output_qparams)):
        if params is not None:
            options[key], more = _write_qparams(params)
            parts |= {f"{key}.{suffix}": part for suffix, part in more.items()}
    return options, parts


def _read_static(fields: Fields) -> StaticQuantLinear:
    if "packed" in fields.options:
        epilogue = as_epilogue(None, fields.option("relu", bool))
        weights, inputs = read_packed(fields, dtype="int8", activation="asymmetric", epilogue=epilogue)
        return StaticQuantLinear._of_int8(
            weights,
            input=_read_part(fields, "input"),
            output=_read_part(fields, "output") if "output" in fields.options else None,
            relu=epilogue is not None,
            inputs=_without_rotation(inputs),
            folded=fields.option("folded", bool),
            name=fields.option("name", str),
            call=fields.option("call", str),
        )
    weight, scale = read_int8(fields)
    return StaticQuantLinear(
        weight,
        scale,
        read_bias(fields, len(weight)),
        input=_read_part(fields, "input"),
        output=_read_part(fields, "output") if "output" in fields.options else None,
        relu=fields.option("relu", bool),
        pre_quant_scale=_without_rotation(read_inputs(fields, weight.shape[1])).scale,
        folded=fields.option("folded", bool),
        name=fields.option("name", str),
        call=fields.option("call", str),
    )


def _without_rotation(inputs: InputTransform) -> InputTransform:
    if inputs.rotation is not None:
        raise ValueError("a static layer's inputs are not rotated: it has no option rotation")
    return inputs


def _write_matrix(matrix: QuantMatrix) -> tuple[Options, LazyTensors]:
    layer = matrix._layer
    options, parts = _write_static(layer) if isinstance(layer, StaticQuantLinear) else write_linear(layer)
    return options | {"axis": matrix.axis}, parts


def _read_matrix(fields: Fields) -> QuantMatrix:
    axis = fields.choice("axis", 0, 1)
    layer = _read_static(fields) if "input" in fields.options else read_linear(fields)
    if layer.epilogue is not None or layer.bias is not None:
        raise ValueError("a QuantMatrix has neither a bias nor a ReLU or another epilogue: relu and bias must be false")
    return QuantMatrix._made(layer, axis)


def _write_embedding(table: QuantEmbedding) -> tuple[Options, LazyTensors]:
    state = table._state()
    shape, scale = (table.num_embeddings, table.embedding_dim), state["scale"]
    weights = WeightFormat()
    if table.dtype == qint4:
        scale_dtype: ScaleDtype = "float16" if scale.dtype == np.float16 else "float32"
        weights = WeightFormat("int4", table.group_size, state["zero_point"] is None, scale_dtype)
    tensors = weights.tensors(shape, bias=False)
    found = {suffix: state[suffix].reshape(tensor.shape) for suffix, tensor in tensors.items()}
    return weights.options() | {"shape": list(shape)}, {suffix: lazy(array) for suffix, array in found.items()}


def _read_embedding(fields: Fields) -> QuantEmbedding:
    dtype = fields.choice("dtype", "int8", "int4")
    if fields.source is not None:
        return _map_embedding(fields, dtype)
    if dtype == "int4":
        return QuantEmbedding._from_grouped(read_int4(fields))
    return QuantEmbedding._from_quantized(*read_int8(fields))


def _map_embedding(fields: Fields, dtype: str) -> QuantEmbedding:
    """A table whose arrays are the file's pages: its layout is that of files. `verify` alone checks values."""
    if dtype == "int8":
        weights, (n, k) = WeightFormat(), read_shape(fields)
        found = {"weight": fields.tensor("weight", "I8", (n, k)), "scale": fields.tensor("scale", "F32", (n,))}
        if fields.verify:
            check_scales(found["scale"])
    else:
        weights, (n, k), found = int4_tensors(fields)
        if fields.verify:
            check_padding(found["weight"], k)
            check_groups(found["scale"], found.get("zero_point"))
    table = QuantEmbedding.__new__(QuantEmbedding)
    scale = found["scale"].reshape(n, -1) if n else found["scale"].reshape(0, 1)
    table._hold(found["weight"], scale, found.get("zero_point"), weights.group_size, k)
    return table


def _write_recurrent(layer: QuantLSTM | QuantGRU) -> tuple[Options, LazyTensors]:
    options: Options = {"batch_first": layer.batch_first, "parts": list(layer._layers)}
    parts: LazyTensors = {}
    for key, part in layer._layers.items():
        options[key], more = write_linear(part)
        parts |= {f"{key}.{suffix}": tensor for suffix, tensor in more.items()}
    return options, parts


def _read_recurrent(cls: type[QuantLSTM | QuantGRU]) -> Callable[[Fields], QuantLSTM | QuantGRU]:
    def read(fields: Fields) -> QuantLSTM | QuantGRU:
        keys = fields.option("parts", list)
        if not all(isinstance(key, str) for key in keys):
            raise ValueError(f"parts must be names, got {keys!r}")
        layers = {}
        for key in keys:
            within = fields.within(key)
            within.choice("type", "QuantLinear")
            layers[key] = read_linear(within)
            within.finish()
            keep_origin(within, layers[key])
        return cls._from_layers(layers, fields.option("batch_first", bool))

    return read


# Parameters, and what consists of little else


def _write_qparams(params: QParams) -> tuple[Options, LazyTensors]:
    options = {"qtype": params.qtype.name, **params._options()}
    return options, {"scale": lazy(params.scale), "zero_point": lazy(params.zero_point)}


def _read_qparams(fields: Fields) -> QParams:
    qtype = as_qtype(fields.option("qtype", str))
    scale = read_scales(fields, "scale", None)
    zero_point = fields.tensor("zero_point", "I32", scale.shape)
    numbers = {key: fields.option(key, int) for key in ("qmin", "qmax")}
    grain = {key: fields.option(key, int, type(None)) for key in ("axis", "group_size")}
    return QParams(scale, zero_point, qtype, **numbers, **grain)


def _read_part(fields: Fields, key: str) -> QParams:
    inner = fields.within(key)
    params = _read_qparams(inner)
    inner.finish()
    return params


def _with_prefix(params: QParams) -> tuple[Options, LazyTensors]:
    options, parts = _write_qparams(params)
    return {"qparams": options}, {f"qparams.{suffix}": part for suffix, part in parts.items()}


def _write_quantize(step: Quantize) -> tuple[Options, LazyTensors]:
    options, parts = _with_prefix(step.qparams)
    return {"as_float": step.as_float, "name": step.name, **options}, parts


def _read_quantize(fields: Fields) -> Quantize:
    params = _read_part(fields, "qparams")
    if params.axis is not None:
        raise ValueError("qparams must be per tensor")
    return Quantize(params, as_float=fields.option("as_float", bool), name=fields.option("name", str))


def _write_quantized_array(array: QuantizedArray) -> tuple[Options, LazyTensors]:
    options, parts = _with_prefix(array.qparams)
    return options, {"q": lazy(array.int_repr()), **parts}


def _read_quantized_array(fields: Fields) -> QuantizedArray:
    params = _read_part(fields, "qparams")
    q = fields.tensor("q", "I8" if params.qtype.storage == np.int8 else "U8", None)
    return QuantizedArray(q if fields.source is not None else q.copy(), params)


def _nothing(stub: Any) -> tuple[Options, LazyTensors]:
    return {}, {}


def _codecs() -> Mapping[str, Codec]:
    """The table: every class that files know."""
    rows = [
        Codec(QuantLinear, write_linear, read_linear),
        Codec(QuantMatrix, _write_matrix, _read_matrix),
        Codec(QuantEmbedding, _write_embedding, _read_embedding),
        Codec(QuantLSTM, _write_recurrent, _read_recurrent(QuantLSTM)),
        Codec(QuantGRU, _write_recurrent, _read_recurrent(QuantGRU)),
        Codec(StaticQuantLinear, _write_static, _read_static),
        Codec(PermutedQuantLinear, write_permuted, read_permuted),
        Codec(Quantize, _write_quantize, _read_quantize),
        Codec(QuantStub, _nothing, lambda fields: QuantStub()),
        Codec(DeQuantStub, _nothing, lambda fields: DeQuantStub()),
        Codec(QuantizedArray, _write_quantized_array, _read_quantized_array),
        Codec(QParams, _write_qparams, _read_qparams),
    ]
    return {codec.cls.__name__: codec for codec in rows}


_CODECS = dict(_codecs())
_CLASSES = tuple(codec.cls for codec in _CODECS.values())
_CODECS[_TEXT] = Codec(np.ndarray, _write_text, _read_text)

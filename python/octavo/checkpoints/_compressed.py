"""compressed-tensors checkpoints, as llm-compressor and vLLM use them: integers of 4 and 8 bits.

int-quantized, naive-quantized
    NAME.weight               I8 (n, k)
    NAME.weight_scale         (1,), (n, 1) or (n, groups)
    NAME.weight_zero_point    I8 like the scale, where the scheme is not symmetric
    NAME.input_scale, NAME.input_zero_point    (1,), where activations are static

pack-quantized
    NAME.weight_packed        I32 (n, k * bits / 32)      code + 2**(bits - 1) in a stream of words
    NAME.weight_shape         I64 (2,)                    n, k
    NAME.weight_scale         (n, 1) or (n, groups)
    NAME.weight_zero_point    I32 (n * bits / 32, groups), packed alike; I8 (n, groups) of older versions
    NAME.weight_g_idx         I32 (k,)                    the group of each input, with actorder "group"; of both forms

    w[n, k] = (code[n, k] - zero[n, g]) * scale[n, g]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.weights import ActivationScheme
from octavo._numerics.params import QParams
from octavo.checkpoints._config import Config
from octavo.checkpoints._layer import Contents, Found, codes_of, fields_of_words, with_group
from octavo.checkpoints._packing import Bytes, stream_values, words
from octavo.checkpoints._patterns import Budget, Pattern
from octavo.checkpoints._tensors import Tensors, group_order

__all__ = ["find_layers"]

_FORMATS = {"int-quantized": ".weight", "naive-quantized": ".weight", "pack-quantized": ".weight_packed"}
_FLOATS = ("F16", "BF16", "F32")


class _Scheme:
    """One of the config_groups: how the layers that it targets are quantized."""

    def __init__(self, config: Config, name: str, values: Any, budget: Budget) -> None:
        self.path, self.where = config.path, f"{config.path}: {name}"
        if not isinstance(values, dict) or not isinstance(values.get("weights"), dict):
            raise ValueError(f"{self.where} must be an object with weights, got {str(values)[:80]}")
        weights, self.targets = values["weights"], values.get("targets") or []
        if not isinstance(self.targets, list) or not all(isinstance(t, str) for t in self.targets):
            raise ValueError(f"{self.where}: targets must be a list of names, got {str(self.targets)[:80]}")
        with self._named():
            self._patterns = [Pattern(t[3:], budget) for t in self.targets if t.startswith("re:")]
        self.format = values.get("format") or config.values.get("format")
        if weights.get("type", "int") != "int":
            raise ValueError(
                f"{self.where}: weights of type {weights['type']!r} (FP8, FP4) are floats, which octavo's integer "
                "kernels do not multiply; quantize the float checkpoint with `octavo quantize`"
            )
        if not isinstance(self.format, str) or self.format not in _FORMATS:
            raise ValueError(f"{self.where}: format {self.format!r} is not read; these are: {', '.join(_FORMATS)}")
        self.bits, self.strategy = weights.get("num_bits", 8), weights.get("strategy")
        if type(self.bits) is not int or self.bits not in (4, 8):
            raise ValueError(f"{self.where}: weights must have 4 or 8 bits, got {self.bits!r}")
        self.group = weights.get("group_size")
        if self.strategy is None:
            self.strategy = "tensor" if self.group is None else "channel" if self.group == -1 else "group"
        if self.strategy not in ("tensor", "channel", "group"):
            raise ValueError(f"{self.where}: strategy must be tensor, channel or group, got {self.strategy!r}")
        if self.strategy == "group" and (type(self.group) is not int or self.group < 1):
            raise ValueError(f"{self.where}: group_size must be a positive number with groups, got {self.group!r}")
        self.symmetric = weights.get("symmetric", True)
        self.unlike = None
        if values.get("output_activations"):
            self.unlike = f"{self.where} quantizes the results of layers, which octavo does not"
        self._set_activations(values.get("input_activations"))

    def _set_activations(self, values: Any) -> None:
        self.activation: ActivationScheme | None = None
        self.activation_group: int | None = None
        self.static = False
        if not isinstance(values, dict):
            return  # the weights alone are integers
        bits, kind = values.get("num_bits", 8), values.get("type", "int")
        if (bits, kind) != (8, "int"):
            self.unlike = f"{self.where} quantizes x to {kind} of {bits} bits, octavo to int8; choose by activation="
        if kind != "int":
            return
        symmetric, dynamic = values.get("symmetric", True), values.get("dynamic", False)
        if type(symmetric) is not bool:
            raise ValueError(f"{self.where}: symmetric must be true or false, got {symmetric!r}")
        if type(dynamic) is not bool and dynamic != "local":
            raise ValueError(f"{self.where}: dynamic must be true, false or 'local', got {dynamic!r}")
        self.activation, self.static = "symmetric" if symmetric else "asymmetric", dynamic is False
        if values.get("strategy") == "group":
            self.activation_group = values.get("group_size")
            if type(self.activation_group) is not int or self.activation_group < 1:
                raise ValueError(
                    f"{self.where}: group_size of activations must be a positive number, got {self.activation_group!r}"
                )
        if self.static and (bits != 8 or values.get("strategy", "tensor") != "tensor"):
            raise ValueError(f"{self.where}: static activations must have 8 bits and one scale, got {values}")

    def rank(self, layer: str) -> int:
        """How closely a target means a layer: by name 4, by pattern 3, by the class Linear 2 or another 1; else 0."""
        if layer in self.targets:
            return 4
        with self._named():
            if any(pattern.matches(layer) for pattern in self._patterns):
                return 3
        return 2 if "Linear" in self.targets else int(any(target[:1].isupper() for target in self.targets))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Names the file and the group in errors of a target."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.where}: targets: {error}") from None


def find_layers(config: Config, tensors: Tensors) -> Iterator[Found]:
    """The layers of a compressed-tensors checkpoint.

    Raises:
        ValueError: the config or a tensor is not as the format has them, or of floats; file and tensor are named.
    """
    groups = config.values.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"{config.path}: config_groups must be an object with at least one scheme, got {groups!r}")
    sparsity = config.values.get("sparsity_config") or {}
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise ValueError(f"{config.path}: sparse tensors ({sparsity.get('format')}) are not read")
    if config.values.get("transform_config"):
        raise ValueError(f"{config.path}: the weights are rotated (transform_config), which octavo does not undo")
    budget = Budget()
    schemes = [_Scheme(config, name, values, budget) for name, values in groups.items()]
    for suffix in (".weight_packed", ".weight_scale"):
        for name in tensors.layers(suffix):
            if suffix == ".weight_scale" and f"{name}.weight_packed" in tensors.by_name:
                continue
            scheme = _scheme_of(name, schemes)
            yield (_packed if suffix == ".weight_packed" else _plain)(config, tensors, name, scheme)


def _scheme_of(name: str, schemes: list[_Scheme]) -> _Scheme:
    """That whose target is the closest, the first of several: tensors do not tell the classes of their layers."""
    if len(schemes) == 1:
        return schemes[0]
    ranks = [scheme.rank(name) for scheme in schemes]
    if not any(ranks):
        raise ValueError(
            f"{schemes[0].path}: no target of its config_groups means the layer {name!r}; add its name to one"
        )
    return schemes[ranks.index(max(ranks))]


def _groups(config: Config, tensors: Tensors, name: str, scheme: _Scheme, shape: tuple[int, int]) -> int:
    """The size of groups, once the scales have been found to fit it."""
    n, k = shape
    scale = f"{name}.weight_scale"
    tensors.require(scale, f"{name}.weight_packed", "there are no weights without scales")
    size = min(int(scheme.group), k) if scheme.strategy == "group" and scheme.group is not None else k
    count = -(-k // size)
    shapes: list[tuple[int, ...]] = [(n, count)]
    if count == 1:
        shapes += [(n,)]
    if scheme.strategy == "tensor":
        shapes = [(1,), (), (1, 1)]
    found = tensors.by_name[scale]
    if found.dtype in _FLOATS and found.shape not in shapes:
        said = f"{scheme.strategy}{f', group_size {size}' if scheme.strategy == 'group' else ''}"
        tensors.fail(
            scale,
            f"must have shape {' or '.join(str(list(s)) for s in shapes)} for weights {[n, k]} by {config.path.name} "
            f"({said}), got {list(found.shape)}",
        )
    return size


def _scales(tensors: Tensors, name: str, scheme: _Scheme, n: int, count: int) -> NDArray[Any]:
    if scheme.strategy == "tensor":
        return np.repeat(tensors.scales(f"{name}.weight_scale", (1, 1), (1,), ()), n, axis=0)
    return tensors.scales(f"{name}.weight_scale", (n, count), *([(n,)] if count == 1 else []))


def _kind(scheme: _Scheme, size: int) -> str:
    what = (
        "one scale" if scheme.strategy == "tensor" else "a row" if scheme.strategy == "channel" else f"groups of {size}"
    )
    static = ", static" if scheme.static else ""
    return f"compressed-tensors {scheme.format}, {scheme.bits} bits, {what}{static}"


def _made(
    tensors: Tensors, name: str, scheme: _Scheme, shape: tuple[int, int], size: int, parts: tuple[str, ...], opener: Any
) -> Found:
    bias = tensors.bias(name, shape[0])
    if scheme.symmetric is False:
        tensors.require(f"{name}.weight_zero_point", f"{name}.weight_scale", "it is not symmetric by the config")
    optional = ("weight_zero_point", "weight_g_idx", "weight_shape", "input_scale", "input_zero_point")
    taken = [f"{name}.{part}" for part in (*parts, *optional) if f"{name}.{part}" in tensors.by_name]
    return Found(
        name, shape, _kind(scheme, size), (*taken, *([bias] if bias else [])), bias, opener, scheme.activation,
        scheme.activation_group, scheme.unlike,
    )  # fmt: skip


def _order(tensors: Tensors, name: str, k: int, size: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """(the inputs sorted by group, None where they are; the group of each input)."""
    g_idx, straight = f"{name}.weight_g_idx", np.arange(k) // size
    if g_idx not in tensors.by_name:
        return None, straight
    found = tensors.integers(g_idx, ("I32", "I64"), (k,)).astype(np.int64)
    if (found == -1).all():  # as it is made, before it is set
        return None, straight
    return group_order(tensors, g_idx, found, size, -(-k // size)), found


def _input(tensors: Tensors, name: str, scheme: _Scheme) -> QParams | None:
    """How x is quantized, where that is fixed."""
    if not scheme.static:
        return None
    scale, zero = f"{name}.input_scale", f"{name}.input_zero_point"
    tensors.require(scale, f"{name}.weight_scale", "its activations are static by the config")
    value = tensors.scales(scale, (1,), (), (1, 1))
    point = 0
    if scheme.activation == "asymmetric":
        tensors.require(zero, scale, "its activations are not symmetric by the config")
    if zero in tensors.by_name:
        point = int(tensors.integers(zero, ("I8",), (1,), (), (1, 1)).reshape(-1)[0])
    return QParams(float(value[0]), point, "int8")


def _plain(config: Config, tensors: Tensors, name: str, scheme: _Scheme) -> Found:
    weight = f"{name}.weight"
    tensors.require(weight, f"{name}.weight_scale", "the scales have weights")
    if scheme.format == "pack-quantized":
        tensors.fail(weight, f"is not packed, but {config.path.name} says pack-quantized for it")
    n, k = tensors.matrix(weight, "I8")
    size = _groups(config, tensors, name, scheme, (n, k))
    count = -(-k // size)

    def opened() -> Contents:
        raw = tensors.checkpoint.raw(weight)
        scale = _scales(tensors, name, scheme, n, count)
        zero = _zero_points(tensors, name, scheme, (n, count))
        low, high = (int(f(raw)) for f in (np.min, np.max)) if scheme.bits == 4 else (0, 0)
        if low < -8 or high > 7:
            tensors.fail(weight, f"must hold -8..7 with 4 bits by {config.path.name}, got {low}..{high}")
        form = tensors.form(weight, k, scheme.bits, signed=True, group=size, zero=zero, scale=scale)
        permutation, index = _order(tensors, name, k, size)

        def codes(first: int, end: int) -> NDArray[Any]:
            return raw[first:end] if permutation is None else np.take(raw[first:end], permutation, axis=1)

        def reference(first: int, end: int) -> NDArray[np.float32]:
            part = None if zero is None else zero[first:end]
            return with_group(raw[first:end], part, scale[first:end], index)

        return Contents(form, scale, zero, codes, reference, None, permutation, _input(tensors, name, scheme))

    return _made(tensors, name, scheme, (n, k), size, ("weight", "weight_scale"), opened)


def _packed(config: Config, tensors: Tensors, name: str, scheme: _Scheme) -> Found:
    packed, shape_name = f"{name}.weight_packed", f"{name}.weight_shape"
    n, across = tensors.matrix(packed, "I32")
    if scheme.format != "pack-quantized":
        tensors.fail(packed, f"is packed, but {config.path.name} says {scheme.format} for it")
    tensors.require(shape_name, packed, "it says how many inputs the words hold")
    shape = [int(size) for size in tensors.integers(shape_name, ("I64", "I32"), (2,))]
    k = shape[1]
    if shape[0] != n or k < 1 or words(k, scheme.bits) != across:
        tensors.fail(
            packed,
            f"of shape {[n, across]} does not hold weights {shape} of {scheme.bits} bits: weight_shape or "
            f"{config.path.name} is wrong",
        )
    size = _groups(config, tensors, name, scheme, (n, k))
    return _made(
        tensors, name, scheme, (n, k), size, ("weight_packed", "weight_scale"),
        lambda: _open_packed(tensors, name, scheme, (n, k), size),
    )  # fmt: skip


def _open_packed(tensors: Tensors, name: str, scheme: _Scheme, shape: tuple[int, int], size: int) -> Contents:
    (n, k), bits = shape, scheme.bits
    count, middle = -(-k // size), 1 << (bits - 1)
    raw = tensors.checkpoint.raw(f"{name}.weight_packed")
    scale = _scales(tensors, name, scheme, n, count)
    found = _zero_points(tensors, name, scheme, (n, count))
    zero = np.full((n, count), middle, np.int16) if found is None else found + np.int16(middle)
    permutation, index = _order(tensors, name, k, size)
    form = tensors.form(f"{name}.weight_packed", k, bits, signed=False, group=size, zero=zero, scale=scale)

    def codes(first: int, end: int) -> NDArray[Any]:
        found = stream_values(raw[first:end], bits, k)
        return found if permutation is None else np.take(found, permutation, axis=1)

    def nibbles(first: int, end: int) -> Bytes:
        return np.ascontiguousarray(raw[first:end]).view(np.uint8)

    def reference(first: int, end: int) -> NDArray[np.float32]:
        values = fields_of_words(raw[first:end], bits, bits * np.arange(k))
        return with_group(values, zero[first:end], scale[first:end], index)

    whole = bits == 4 and permutation is None and k % 8 == 0
    return Contents(
        form, scale, zero, codes_of(nibbles) if whole else codes, reference, nibbles if whole else None, permutation,
        _input(tensors, name, scheme),
    )  # fmt: skip


def _zero_points(tensors: Tensors, name: str, scheme: _Scheme, shape: tuple[int, int]) -> NDArray[np.int16] | None:
    """(n, groups), signed; None where there are none."""
    point, (n, count), bits = f"{name}.weight_zero_point", shape, scheme.bits
    if point not in tensors.by_name:
        return None
    if scheme.format != "pack-quantized" or tensors.by_name[point].dtype == "I8":
        shapes = [shape, *([(n,)] if count == 1 else []), *([(1,), ()] if scheme.strategy == "tensor" else [])]
        found = tensors.integers(point, ("I8",), *shapes)
        return np.broadcast_to(found.reshape(-1, count), shape).astype(np.int16)
    packed = tensors.integers(point, ("I32",), (words(n, bits), count))
    return np.ascontiguousarray(stream_values(packed.T, bits, n).T).astype(np.int16) - np.int16(1 << (bits - 1))

"""From a quantized checkpoint to layers that multiply its integers as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from octavo._files.checkpoint import Checkpoint
from octavo._files.fits import Dtypes
from octavo._files.save_load import placed
from octavo._layers.linear import QuantLinear
from octavo._layers.weights import ActivationScheme
from octavo._util.caller import warn_caller
from octavo._util.progress import with_bar
from octavo.checkpoints import _awq, _bitsandbytes, _compressed, _gptq, _onnx
from octavo.checkpoints._config import Config, read_config
from octavo.checkpoints._forms import ActivationGroup, Form, activation_group_for
from octavo.checkpoints._layer import Contents, Found
from octavo.checkpoints._tensors import Tensors

__all__ = ["Source", "load", "opened"]

_FINDERS: Mapping[str, Callable[[Config, Tensors], Iterator[Found]]] = {
    "compressed-tensors": _compressed.find_layers,
    "gptq": _gptq.find_layers,
    "awq": _awq.find_layers,
    "bitsandbytes": _bitsandbytes.find_layers,
}

# of quantized layers alone: none of them is an array of the model
_PARTS = (".qweight", ".qzeros", ".SCB", ".weight_packed", ".weight.absmax")

_Model = TypeVar("_Model")


class Activations(NamedTuple):
    """How a layer quantizes x."""

    activation: ActivationScheme
    group: int | None
    static: bool

    @property
    def in_rows(self) -> bool:
        """Whether a row of x has one scale, and is int8."""
        return self.activation != "int16" and self.group is None


@dataclass(frozen=True)
class Source:
    """An open checkpoint.

    Attributes:
        layers: the quantized layers, by name.
        arrays: the names of all other tensors.
    """

    config: Config
    tensors: Tensors
    layers: dict[str, Found]
    arrays: list[str]

    def layer(self, found: Found, activation: ActivationScheme | None, group: ActivationGroup) -> QuantLinear:
        """A layer, read as a whole."""
        try:
            contents, how = open_layer(found, activation, group)
            bias = self.bias(found)
            weight = contents.weight(0, found.shape[0])
            return found.layer(
                contents, weight, bias, activation=how.activation, activation_group=how.group, static=how.static
            )
        except ValueError as error:
            self.refuse(found, error)
        finally:
            self.release(found)

    def bias(self, found: Found) -> NDArray[np.float32] | None:
        if found.bias is None:
            return None
        bias = np.array(self.tensors.checkpoint.values(found.bias), np.float32)
        if not np.isfinite(bias).all():
            self.tensors.fail(found.bias, "must be finite")
        return bias

    def warn(self, activation: ActivationScheme | None) -> None:
        """Warns about ways of the checkpoint to quantize x that octavo lacks, unless the user chooses one."""
        for text in {found.unlike for found in self.layers.values()} if activation is None else ():
            if text is not None:
                warn_caller(text)

    def expect(self, found: Found) -> None:
        """Lets the system start to read a layer from the disk."""
        for name in found.tensors:
            self.tensors.checkpoint.expect(name)

    def release(self, found: Found) -> None:
        """Lets the system take back the memory through which a layer was read."""
        for name in found.tensors:
            self.tensors.checkpoint.release(name)

    def refuse(self, found: Found, error: ValueError) -> NoReturn:
        """The error, with the file and the layer where it does not name them."""
        file = str(self.tensors.checkpoint.file_of(found.tensors[0]))
        if file in str(error):
            raise error
        raise ValueError(f"{file}: layer {found.name!r}, tensor {found.tensors[0]!r}: {error}") from error


def open_layer(
    found: Found, activation: ActivationScheme | None, group: ActivationGroup
) -> tuple[Contents, Activations]:
    """The parameters of a layer, in the form that suits how it quantizes x, and how it does."""
    contents = found.open()
    how = _activations(found, contents.form, activation, group)
    return contents.beside_rows() if how.in_rows else contents, how


def _activations(found: Found, form: Form, activation: ActivationScheme | None, group: ActivationGroup) -> Activations:
    """What the user asks for, else what the checkpoint says, else what suits the weights."""
    said = activation is None and found.activation is not None
    chosen: ActivationScheme = activation or found.activation or "symmetric"
    if group == "auto" and said:
        return Activations(chosen, found.activation_group, True)
    return Activations(chosen, activation_group_for(form, chosen, group), activation is None and group == "auto")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """A quantized checkpoint, its layers found and its shapes checked.

    Raises:
        OSError: a file cannot be read, or a shard is missing.
        ValueError: it is not one, of a tool that is not read, or not as its config says; file and tensor are named.
    """
    config = read_config(path)
    with Checkpoint(path) as checkpoint:
        if "octavo" in checkpoint.metadata:
            raise ValueError(f"{os.fspath(path)} was written by octavo; octavo.load reads it")
        tensors = Tensors(checkpoint)
        layers = {found.name: found for found in _FINDERS[config.method](config, tensors)}
        if not layers:
            raise ValueError(
                f"{config.path} says {config.method}, but no tensor is one of such a layer: the checkpoint holds "
                "floats, or is of another tool or version. `octavo quantize` on a copy without the quantization_config "
                "quantizes floats"
            )
        taken = {name for found in layers.values() for name in found.tensors}
        for name, foreign in checkpoint.foreign.items():
            tensors.fail(name, f"is {foreign.dtype}, which octavo does not read")
        arrays = [name for name in tensors.by_name if name not in taken]
        for name in arrays:
            if name in layers:
                tensors.fail(name, "has the name of a quantized layer")
            if name.endswith(_PARTS):
                tensors.fail(
                    name, f"is of a quantized layer that {config.path.name} does not say, or whose codes are lost"
                )
        yield Source(config, tensors, layers, arrays)


def items(source: Source, activation: ActivationScheme | None, group: ActivationGroup) -> Iterator[tuple[str, Any]]:
    """(name, layer or array), each read when it is asked for."""
    for name, found in source.layers.items():
        yield name, source.layer(found, activation, group)
    for name in source.arrays:
        yield name, source.tensors.checkpoint.array(name)
        source.tensors.checkpoint.release(name)


@overload
def load(
    path: str | os.PathLike[str],
    *,
    activation: ActivationScheme | None = ...,
    activation_group: ActivationGroup = ...,
    rename: Mapping[str, str] = ...,
    prefix: str = ...,
    progress: bool = ...,
) -> dict[str, Any]: ...
@overload
def load(
    path: str | os.PathLike[str],
    model: _Model,
    *,
    activation: ActivationScheme | None = ...,
    activation_group: ActivationGroup = ...,
    strict: bool = ...,
    prefix: str = ...,
    rename: Mapping[str, str] = ...,
    dtypes: Dtypes = ...,
    check: bool = ...,
    progress: bool = ...,
) -> _Model: ...


def load(
    path: str | os.PathLike[str],
    model: Any = None,
    *,
    activation: ActivationScheme | None = None,
    activation_group: ActivationGroup = "auto",
    strict: bool = True,
    prefix: str = "",
    rename: Mapping[str, str] = MappingProxyType({}),
    dtypes: Dtypes = "model",
    check: bool = True,
    progress: bool = False,
) -> Any:
    """The layers of a quantized checkpoint, with the integers, scales and zero points it holds; all else as arrays.

        w[n, k] = (code[n, k] - zero[n, g]) * scale[n, g]            g: the group of input k

    Args:
        path: a folder with config.json and safetensors files (compressed-tensors, GPTQ, AWQ, bitsandbytes int8), a file
            in it or its index; or an ONNX model (needs the extra "onnx").
        model: the model to fill, in place, as `octavo.load` does. None: a dict by name is returned.
        activation: how x is quantized: as for `QuantLinear`. None: what the checkpoint says of it, static scales too,
            and "symmetric" where it says that the weights alone are quantized.
        activation_group: inputs of x that share a scale. "auto": what the checkpoint says; for weights in groups of
            which it says nothing, groups of their size, at least 32; else a scale a row. None: a scale a row.
        strict, prefix, rename, dtypes, check: as for `octavo.load`.
        progress: show a bar (needs the extra "cli").

    Returns:
        A dict from names to layers, and to arrays for all other tensors, where bfloat16 becomes float32. Layers are
        `QuantLinear`; `StaticQuantLinear` where activations have fixed scales; `PermutedQuantLinear` where the inputs
        of a group are not consecutive (act-order). Of an ONNX model the names are those of its nodes. With `model` the
        model.

    Raises:
        ImportError: an ONNX model without the package; the message has the command that installs it.
        OSError: a file cannot be read, or a shard is missing.
        ValueError: it is damaged, of another tool or version, of floats (FP8, nf4), or not as its config says; a scale
            is NaN, infinite, zero or negative. File and tensor are named, and `model` is as it was.

    Notes:
        Weights are what the tools' formulas give in float32; the tools themselves round them to float16 or bfloat16.
        bitsandbytes rounds twice where octavo rounds once. docs/checkpoints.md has the forms, one by one.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> layer = oc.QuantLinear(np.eye(64, dtype=np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.checkpoints.save({"fc": layer}, folder)
        ...     oc.checkpoints.load(folder)
        {'fc': QuantLinear(64 -> 64, int8, activation=symmetric)}
    """
    if os.fspath(path).endswith(".onnx"):
        found = _onnx.load_nodes(path, activation=activation, activation_group=activation_group)
    else:
        with opened(path) as source:
            source.warn(activation)
            work = items(source, activation, activation_group)
            total = len(source.layers) + len(source.arrays)
            found = dict(with_bar(work, "load", "tensor", total=total) if progress else work)
    return placed(path, found, {}, {}, model, strict=strict, prefix=prefix, rename=rename, dtypes=dtypes, check=check)

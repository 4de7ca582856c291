"""Which observers go with which layer: QConfig, and QConfigMapping by name, pattern and type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo._numerics.params import qint4, qint8
from octavo._observers.base import Observer, per_channel_symmetric, per_tensor_affine
from octavo._observers.minmax import MinMaxObserver, PerChannelMinMaxObserver
from octavo._quantize.by_name import ByName
from octavo._util.errors import raise_named

__all__ = ["QConfig", "QConfigMapping", "as_mapping", "default_qconfig"]

_ACTIVATION = MinMaxObserver.with_args(dtype="quint8", qscheme=per_tensor_affine, quant_min=0, quant_max=255)
_WEIGHT = PerChannelMinMaxObserver.with_args(
    dtype="qint8", qscheme=per_channel_symmetric, quant_min=-128, quant_max=127
)


@dataclass(frozen=True, kw_only=True)
class QConfig:
    """How a layer is quantized: activation() observes what flows through it, weight() its weights.

    Args:
        activation: makes an observer: a class, `with_args` of one, or any callable without arguments. Default:
            MinMaxObserver, quint8 0..255, per_tensor_affine.
        weight: the same. Default: PerChannelMinMaxObserver, qint8 -128..127, per_channel_symmetric, ch_axis 0.

    Raises:
        TypeError: one of them is an observer rather than something that makes observers, or makes something else, or an
            observer of integers that the kernels do not multiply: activations have one scale a tensor; weights are
            signed and symmetric, with one scale a tensor or an output channel.
        ValueError: what it raises when it is called; each is called once.

    Notes:
        The defaults are those of the reference model of static quantization in torch.ao, whose symmetric qint8 scale is
        max|w| / 127.5: the largest positive weight saturates by half a step.

    Example:
        >>> import octavo as oc
        >>> oc.QConfig(activation=oc.MinMaxObserver.with_args(dtype="qint8")).activation()
        MinMaxObserver(dtype=qint8, qscheme='per_tensor_affine': no data)
    """

    activation: Callable[[], Any] = _ACTIVATION
    weight: Callable[[], Any] = _WEIGHT

    def __post_init__(self) -> None:
        for name, factory in (("activation", self.activation), ("weight", self.weight)):
            expected = f"{name} must be an observer class, or with_args of one"
            if isinstance(factory, Observer):
                kind = type(factory).__name__
                raise TypeError(
                    f"{expected}, got an observer: every layer needs its own; pass {kind} or {kind}.with_args(...)"
                )
            if not callable(factory):
                raise TypeError(f"{expected}, got {factory!r}")
            try:
                made = factory()
            except (TypeError, ValueError) as error:
                raise_named(error, f"{expected}; calling it failed")
            if not (callable(made) and callable(getattr(made, "calculate_qparams", None))):
                raise TypeError(f"{expected}, got {factory!r}, which makes {type(made).__name__}")
            _check_kernels_take(made, name)


def _check_kernels_take(made: Any, name: str) -> None:
    """Refuses, before any data is seen, an observer whose parameters `convert` would refuse."""
    observer = getattr(made, "observer", made)  # a FakeQuantize has one
    if not isinstance(observer, Observer):
        return  # the user's own class: what its parameters are shows when it has seen data
    kind = type(observer).__name__
    if name == "activation":
        if observer.ch_axis is not None:
            raise TypeError(
                f"activation must have one scale for the whole tensor, got {kind} with one a channel "
                f"(ch_axis={observer.ch_axis}); choose a per-tensor observer such as MinMaxObserver"
            )
        return
    wanted = "weight must be quantized to signed integers without zero point, one scale a tensor or an output channel"
    grain = "per_tensor" if observer.ch_axis is None else "per_channel"
    remedy = f'{kind}.with_args(dtype="qint8", qscheme="{grain}_symmetric")'
    if observer.dtype not in (qint8, qint4) or not observer.symmetric:
        raise TypeError(f"{wanted}, got {kind} with {observer.dtype.name}, {observer.qscheme}; use {remedy}")
    if observer.ch_axis not in (None, 0):
        raise TypeError(f"{wanted} (ch_axis=0), got {kind} with ch_axis={observer.ch_axis}")


default_qconfig = QConfig()


class QConfigMapping(ByName[QConfig]):
    """Which QConfig a layer gets: the first that is found by

        name > pattern > type > default

    None in place of a QConfig leaves the layers in float, as does finding nothing.

    Names are paths as messages show them: "blocks.3.fc1", "heads.out", and "['fc.weight']" for a key that holds dots.
    The spelling of Python ("blocks[3].fc1", "heads['out']") is the same name. A name also stands for all layers inside,
    and the longest of several counts. In patterns, * stands for any characters (dots and brackets too) and ? for one. A
    pattern must match the whole path, and the first of several counts. Types are matched exactly, without subclasses,
    like the `layers` of `prepare`.

    Example:
        >>> import octavo as oc
        >>> mapping = oc.QConfigMapping().set_global(oc.default_qconfig).set_module_name("blocks.0.*", None)
        >>> mapping.resolve("blocks.0.fc1", oc.nn.Linear) is None
        True
        >>> mapping.resolve("blocks.1.fc1", oc.nn.Linear) == oc.default_qconfig
        True
    """

    def set_global(self, qconfig: QConfig | None) -> QConfigMapping:
        """Sets the default, and returns the mapping.

        Raises:
            TypeError: `qconfig` is neither a QConfig nor None.
        """
        self.put("", _valid_qconfig("", qconfig))
        return self

    def set_object_type(self, object_type: type, qconfig: QConfig | None) -> QConfigMapping:
        """Sets what layers of exactly this class get, and returns the mapping.

        Raises:
            TypeError: `object_type` is not a class, or `qconfig` is neither a QConfig nor None.
        """
        if not isinstance(object_type, type):
            raise TypeError(f"object_type must be a layer class, got {object_type!r}")
        self.put(object_type, _valid_qconfig(object_type, qconfig))
        return self

    def set_module_name(self, name: str, qconfig: QConfig | None) -> QConfigMapping:
        """Sets what a layer and the layers inside it get, or, if the name has * or ?, those that match.

        Returns:
            The mapping.

        Raises:
            TypeError: `name` is not a string, or `qconfig` is neither a QConfig nor None.
            ValueError: the name is empty.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string such as 'blocks.3.fc1', got {name!r}")
        if not name:
            raise ValueError("name must not be empty; set_global sets the default")
        self.put(name, _valid_qconfig(name, qconfig))
        return self


QConfigLike = QConfig | QConfigMapping | Mapping[str | type, QConfig | None]


def as_mapping(qconfig: QConfigLike) -> QConfigMapping:
    """The QConfigMapping that `qconfig` stands for.

    Args:
        qconfig: a QConfigMapping, returned as it is; a QConfig, for all layers; or a dict whose keys are names,
            patterns, layer classes, or "" for the default.

    Raises:
        TypeError: `qconfig`, a key or a value is of another kind.

    Example:
        >>> import octavo as oc
        >>> mapping = oc.as_mapping({"": oc.default_qconfig, "head": None})
        >>> mapping.resolve("head", oc.nn.Linear) is None
        True
    """
    if isinstance(qconfig, QConfigMapping):
        return qconfig
    mapping = QConfigMapping()
    if isinstance(qconfig, QConfig):
        return mapping.set_global(qconfig)
    if not isinstance(qconfig, Mapping):
        raise TypeError(
            "qconfig must be a QConfig, a QConfigMapping or a dict such as {'': default_qconfig, 'head': None},"
            f" got {qconfig!r}"
        )
    mapping.put_all("qconfig", qconfig, _valid_qconfig)
    return mapping


def _valid_qconfig(key: str | type, qconfig: Any) -> QConfig | None:
    if qconfig is None or isinstance(qconfig, QConfig):
        return qconfig
    place = key.__name__ if isinstance(key, type) else repr(key) if key else "the default"
    raise TypeError(f"qconfig of {place} must be a QConfig, or None to leave it in float, got {qconfig!r}")

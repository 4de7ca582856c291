"""Which observers go with which layer: QConfig, and QConfigMapping by name, pattern and type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo._models.paths import canonical, is_within, matches
from octavo._observers.base import Observer, per_channel_symmetric, per_tensor_affine
from octavo._observers.minmax import MinMaxObserver, PerChannelMinMaxObserver

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
        TypeError: one of them is an observer rather than something that makes observers, or makes something else.
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
                raise type(error)(f"{expected}; calling it failed: {error}") from error
            if not (callable(made) and callable(getattr(made, "calculate_qparams", None))):
                raise TypeError(f"{expected}, got {factory!r}, which makes {type(made).__name__}")


default_qconfig = QConfig()


class QConfigMapping:
    """Which QConfig a layer gets: the first that is found by

        name > pattern > type > default

    None in place of a QConfig leaves the layers in float, as does finding nothing.

    Names are paths as messages show them: "blocks.3.fc1", "heads.out", and "['fc.weight']" for a key that holds dots.
    The spelling of Python ("blocks[3].fc1", "heads['out']") is the same name. A name also stands for all layers inside,
    and of several the longest counts. In patterns, * stands for any characters (dots and brackets too) and ? for one;
    all else for itself. A pattern must match the whole path, and of several the one given first counts. Types are
    matched exactly, without subclasses, like the `layers` of `prepare`.

    Example:
        >>> import octavo as oc
        >>> mapping = oc.QConfigMapping().set_global(oc.default_qconfig).set_module_name("blocks.0.*", None)
        >>> mapping.resolve("blocks.0.fc1", oc.nn.Linear) is None
        True
        >>> mapping.resolve("blocks.1.fc1", oc.nn.Linear) == oc.default_qconfig
        True
    """

    def __init__(self) -> None:
        self._default: QConfig | None = None
        self._types: dict[type, QConfig | None] = {}
        self._patterns: dict[str, QConfig | None] = {}
        self._names: dict[str, QConfig | None] = {}

    def set_global(self, qconfig: QConfig | None) -> QConfigMapping:
        """Sets the default, and returns the mapping.

        Raises:
            TypeError: `qconfig` is neither a QConfig nor None.
        """
        self._default = _valid_qconfig(qconfig, "the default")
        return self

    def set_object_type(self, object_type: type, qconfig: QConfig | None) -> QConfigMapping:
        """Sets what layers of exactly this class get, and returns the mapping.

        Raises:
            TypeError: `object_type` is no class, or `qconfig` neither a QConfig nor None.
        """
        if not isinstance(object_type, type):
            raise TypeError(f"object_type must be a layer class, got {object_type!r}")
        self._types[object_type] = _valid_qconfig(qconfig, object_type.__name__)
        return self

    def set_module_name(self, name: str, qconfig: QConfig | None) -> QConfigMapping:
        """Sets what a layer and the layers inside it get, or, if the name has * or ?, those that match.

        Returns:
            The mapping.

        Raises:
            TypeError: `name` is no string, or `qconfig` neither a QConfig nor None.
            ValueError: the name is empty.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string such as 'blocks.3.fc1', got {name!r}")
        if not name:
            raise ValueError("name must not be empty; set_global sets the default")
        entries = self._patterns if "*" in name or "?" in name else self._names
        # One entry for each spelling, and the place of the first one kept.
        spelt = next((known for known in entries if canonical(known) == canonical(name)), name)
        entries[spelt] = _valid_qconfig(qconfig, repr(name))
        return self

    def resolve(self, path: str, layer_type: type) -> QConfig | None:
        """The QConfig of the layer at `path`; None leaves it in float."""
        path = canonical(path)
        names = [name for name in self._names if is_within(path, name)]
        if names:
            return self._names[max(names, key=lambda name: len(canonical(name)))]
        for pattern, qconfig in self._patterns.items():
            if matches(path, pattern):
                return qconfig
        return self._types.get(layer_type, self._default)

    def unused(self, layers: Iterable[tuple[str, type]]) -> list[str]:
        """The names, patterns and types that match none of the layers: as a rule, misspelt ones.

        Args:
            layers: (path, type) of each layer of the model.

        Returns:
            The entries as they were given; types by their names. The default is never among them.

        Example:
            >>> import octavo as oc
            >>> mapping = oc.as_mapping({"fc1": None, "fc3": None, "*.out": None})
            >>> mapping.unused([("fc1", oc.nn.Linear), ("fc2", oc.nn.Linear)])
            ['fc3', '*.out']
        """
        found = [(canonical(path), kind) for path, kind in layers]
        types = {kind for _, kind in found}
        names = [name for name in self._names if not any(is_within(path, name) for path, _ in found)]
        patterns = [glob for glob in self._patterns if not any(matches(path, glob) for path, _ in found)]
        return names + patterns + [kind.__name__ for kind in self._types if kind not in types]

    def _entries(self) -> dict[str | type, QConfig | None]:
        entries: dict[str | type, QConfig | None] = {"": self._default}
        for kind in (self._names, self._patterns, self._types):
            entries |= dict(kind.items())
        return entries

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QConfigMapping):
            return NotImplemented
        patterns = list(self._patterns.items()) == list(other._patterns.items())  # their order counts
        return self._entries() == other._entries() and patterns

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        entries = (f"{k.__name__ if isinstance(k, type) else repr(k)}: {v}" for k, v in self._entries().items())
        return f"QConfigMapping({{{', '.join(entries)}}})"


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
    for key, value in qconfig.items():
        if isinstance(key, type):
            mapping.set_object_type(key, value)
        elif not isinstance(key, str):
            raise TypeError(f"keys of qconfig must be names, patterns, layer classes or '' (the default), got {key!r}")
        elif key:
            mapping.set_module_name(key, value)
        else:
            mapping.set_global(value)
    return mapping


def _valid_qconfig(qconfig: QConfig | None, place: str) -> QConfig | None:
    if qconfig is not None and not isinstance(qconfig, QConfig):
        raise TypeError(f"qconfig of {place} must be a QConfig, or None to leave it in float, got {qconfig!r}")
    return qconfig

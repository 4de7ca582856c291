"""FakeQuantize: an observer, and the fake quantization that it chooses parameters for; named as in torch.ao."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from octavo._numerics import fake_quant
from octavo._numerics.params import QParams
from octavo._observers.base import per_channel_symmetric, per_tensor_affine
from octavo._observers.minmax import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from octavo._quantize.qconfig import QConfig
from octavo._quantize.static.ranges import merge_observer, observed_qparams
from octavo._util.arrays import is_traced
from octavo._util.errors import raise_named
from octavo._util.pickling import pickled

__all__ = ["FakeQuantize", "FakeQuantizeFactory", "default_qat_qconfig"]


@pickled
@dataclass(frozen=True)
class FakeQuantizeFactory:
    """Makes FakeQuantizes with given options; what `FakeQuantize.with_args` returns.

    Example:
        >>> import octavo as oc
        >>> oc.FakeQuantize.with_args(dtype="qint8").with_args(quant_min=-8, quant_max=7)().observer.quant_max
        7
    """

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self, **options: Any) -> FakeQuantize:
        """A new FakeQuantize; options given here override the factory's own."""
        return FakeQuantize(**{**self.options, **options})

    def with_args(self, **options: Any) -> FakeQuantizeFactory:
        """A factory with more options, or other values for some."""
        return FakeQuantizeFactory({**self.options, **options})


class FakeQuantize:
    """y = fake_quantize(x) with the parameters that an observer of x has found so far.

    Args:
        observer: makes the observer: an observer class, or `with_args` of one.
        learnable: the scale (and the zero point, where the qscheme is affine) is a parameter of training, see
            `octavo.qat.parameters`; the observer only gives the value to start from.
        **options: of the observer: dtype, qscheme, quant_min, quant_max, ...

    Raises:
        TypeError, ValueError: the observer refuses its options.

    Notes:
        Called by itself, it observes x if its observer is enabled, and then quantizes if that is enabled, as in
        torch.ao. In a model from `octavo.prepare_qat` the observer runs in training only.

    Example:
        >>> import octavo as oc
        >>> quantizer = oc.FakeQuantize(oc.MinMaxObserver, dtype="quint8", quant_min=0, quant_max=3)
        >>> quantizer([0.0, 0.9, 3.0])
        array([0., 1., 3.])
        >>> quantizer.disable_observer()
        >>> quantizer([0.6, 60.0])
        array([1., 3.])
    """

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        *,
        learnable: bool = False,
        **options: Any,
    ) -> None:
        self.observer = observer(**options)
        self.learnable = learnable
        self.observer_enabled = True
        self.fake_quant_enabled = True
        self.scale: NDArray[np.float32] | None = None  # learned, from when learning begins
        self.zero_point: NDArray[np.float32] | None = None  # learned, where the qscheme is affine

    @classmethod
    def with_args(cls, **options: Any) -> FakeQuantizeFactory:
        """A factory of FakeQuantizes with these options, as a QConfig takes."""
        return FakeQuantizeFactory(options)

    @property
    def seen(self) -> bool:
        """Whether there are parameters to quantize with."""
        return self.scale is not None or bool(getattr(self.observer, "seen", True))

    def enable_observer(self, enabled: bool = True) -> None:
        """Lets the observer see data. It does not change a learned scale."""
        self.observer_enabled = bool(enabled)

    def disable_observer(self) -> None:
        """Freezes the range."""
        self.observer_enabled = False

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Rounds; without it values pass as they are."""
        self.fake_quant_enabled = bool(enabled)

    def disable_fake_quant(self) -> None:
        """Lets values pass as they are."""
        self.fake_quant_enabled = False

    def calculate_qparams(self) -> QParams:
        """The parameters in use. Unpacks as scale, zero_point.

        Raises:
            ValueError: there was no data.
        """
        if self.scale is not None:
            return self.learned_qparams(self.scale, self.zero_point)
        params: QParams = self.observer.calculate_qparams()
        return params

    def learned_qparams(self, scale: NDArray[Any], zero_point: NDArray[Any] | None) -> QParams:
        """A learned scale and zero point as parameters: the scale at least eps, the zero point rounded into range."""
        o = self.observer
        return fake_quant.learned_qparams(
            scale, self.fixed_zero_point if zero_point is None else zero_point,
            o.quant_min, o.quant_max, o.ch_axis, o.eps, o.dtype.name,
        )  # fmt: skip

    @property
    def fixed_zero_point(self) -> float:
        """The zero point of a symmetric qscheme."""
        o = self.observer
        return 0.0 if o.dtype.signed else float((o.quant_min + o.quant_max + 1) // 2)

    def begin_learning(self, start: QParams | None = None) -> None:
        """Takes the observer's scale and zero point as the first learned values, once, and then no longer asks it.

        Args:
            start: what `qparams` gave; None asks it.

        Raises:
            ValueError: the observer has seen no data.
        """
        if self.scale is not None:
            return
        params = self.qparams("FakeQuantize") if start is None else start
        self.scale = np.array(params.scale)
        self.zero_point = None if self.observer.symmetric else params.zero_point.astype(np.float32)

    def qparams(self, name: str) -> QParams:
        """`calculate_qparams`, with messages that name what is quantized."""
        if not self.seen:
            why = "has seen no data" if self.observer_enabled else "is frozen and has seen no data"
            raise ValueError(
                f"{name}: its observer {why}. Enable it and train a step (octavo.qat.apply inside a gradient), or run "
                "octavo.calibrate(model, batches)"
            )
        return self.calculate_qparams() if self.scale is not None else observed_qparams(self, name)

    def observe(self, x: Any, name: str = "FakeQuantize") -> None:
        """Shows the observer raw values, if it is enabled and nothing is learned yet.

        Raises:
            ValueError: NaN or infinity.
        """
        if self.observer_enabled and self.scale is None:
            while is_traced(x):
                x = x._value
            try:
                self.observer(x)
            except Exception as error:
                raise_named(error, name)

    def merge(self, other: FakeQuantize, name: str = "FakeQuantize") -> Self:
        """Takes into account what the observer of another has seen, unless its own is frozen; see `merge_calibration`.

        Args:
            other: with an observer of the same class and options; not changed.
            name: how messages call it.

        Raises:
            TypeError: the observer has no merge, or is of another class.
            ValueError: its options differ, or the learned scales and zero points do: those cannot be merged.
        """
        if not isinstance(other, FakeQuantize):
            raise TypeError(f"{name}: only a FakeQuantize can be merged into one, got {type(other).__name__}")
        mine, theirs = (self.scale, self.zero_point), (other.scale, other.zero_point)
        if not all(_same(a, b) for a, b in zip(mine, theirs, strict=True)):
            raise ValueError(
                f"{name}: learned scales and zero points must be the same to be merged, got {mine} and {theirs}; "
                "calibrate and merge before training"
            )
        if self.scale is None and self.observer_enabled:
            merge_observer(self.observer, other.observer, name)
        return self

    def __call__(self, x: Any) -> Any:
        """y of the shape of x; x real numbers, or a value that autograd is differentiating."""
        self.observe(x)
        return self.fake_quantize(x) if self.fake_quant_enabled else x

    def fake_quantize(self, x: Any, name: str = "FakeQuantize", *, scale: Any = None, zero_point: Any = None) -> Any:
        """y with the parameters in use, or with a scale and zero point that are being learned."""
        scale = self.scale if scale is None else scale
        zero_point = self.zero_point if zero_point is None else zero_point
        if is_traced(x) or is_traced(scale) or is_traced(zero_point):
            from octavo._numerics import differentiable as qat_ops

            if scale is None:
                return qat_ops.fake_quantize(x, self.qparams(name))
            o = self.observer
            return qat_ops.fake_quantize_learnable(
                x, scale, self.fixed_zero_point if zero_point is None else zero_point, o.quant_min, o.quant_max,
                axis=o.ch_axis, eps=o.eps,
            )  # fmt: skip
        params = self.qparams(name) if scale is None else self.learned_qparams(scale, zero_point)
        return fake_quant.forward(x, params)

    def __repr__(self) -> str:
        state = [
            *(["learnable"] if self.learnable else []),
            *([] if self.observer_enabled else ["observer off"]),
            *([] if self.fake_quant_enabled else ["fake quantization off"]),
        ]
        return f"FakeQuantize({', '.join([repr(self.observer), *state])})"


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


default_qat_qconfig = QConfig(
    activation=FakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, dtype="quint8", qscheme=per_tensor_affine, quant_min=0, quant_max=255
    ),
    # An averaging constant of 1 is the range of the weights as they are now, which static quantization would take too.
    weight=FakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, dtype="qint8",
        qscheme=per_channel_symmetric, quant_min=-128, quant_max=127,
    ),
)  # fmt: skip

"""Running a model on batches: what counts as batches, and how a model is run on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["Forward", "check_batches", "check_callable", "is_pair", "refuse_iterator", "refuse_several", "run_model"]

Forward = Callable[[Any, Any], Any]

_FORWARD = "for batches (inputs, targets) pass forward=lambda model, batch: model(batch[0])"


def run_model(model: Any, batch: Any) -> Any:
    """model(batch), or model.predict(batch) where the model cannot be called: the default of `forward`.

    Raises:
        TypeError: the model can be neither called nor asked to predict.

        An error on a batch that is a tuple, such as (inputs, targets), gets a note on how such batches are passed.
    """
    run = model if callable(model) else getattr(model, "predict", None)
    if run is None:
        raise TypeError(
            f"the model, a {type(model).__name__}, cannot be called; say how to run it on a batch: "
            "forward=lambda model, batch: ..."
        )
    try:
        return run(batch)
    except Exception as error:
        if is_pair(batch):
            error.add_note(
                f"octavo: the model was called with a batch that is a {type(batch).__name__} of {len(batch)}; "
                f"{_FORWARD}, for several arguments forward=lambda model, batch: model(*batch)"
            )
        raise


def check_callable(value: object, name: str = "forward", example: str = "lambda model, x: model.predict(x)") -> None:
    """Raises TypeError where an argument cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {type(value).__name__} {value!r}; pass {name}={example}")


def is_pair(batch: Any) -> bool:
    """Whether a batch holds several arrays, as (inputs, targets) does."""
    return isinstance(batch, (tuple, list)) and any(hasattr(part, "__array__") and np.ndim(part) for part in batch)


def refuse_several(x: Any, name: str) -> None:
    """Raises TypeError where a layer is given several arrays at once, which NumPy would stack if their shapes agree."""
    if is_pair(x) and (isinstance(x, tuple) or any(np.ndim(part) > 1 for part in x)):
        raise TypeError(f"{name} must be one array, got a {type(x).__name__} of {len(x)}; {_FORWARD}")


def refuse_iterator(batches: Iterable[Any], why: str) -> None:
    """Raises ValueError where batches of calibration can be read only once; `why`: how often they are, and why."""
    if iter(batches) is batches:
        raise ValueError(
            f"calibration must be a list or another iterable that can be read {why}; got the iterator "
            f"{type(batches).__name__}"
        )


def _is_labelled(x: Any, y: Any) -> bool:
    """Whether y is as long as x and has fewer axes, as targets have."""
    if not (hasattr(x, "__array__") and hasattr(y, "__array__")):
        return False
    return 0 < np.ndim(y) < np.ndim(x) and np.shape(x)[0] == np.shape(y)[0]


def check_batches(batches: Any, name: str) -> Iterable[Any]:
    """The batches; a TypeError where iterating over them would give rows, columns or keys, or is not possible."""
    kind = type(batches).__name__
    objects = isinstance(batches, np.ndarray) and batches.dtype == object
    # Arrays of any library, data frames, sparse matrices
    if not objects and (hasattr(batches, "__array__") or hasattr(batches, "tocsr")):
        shape = getattr(batches, "shape", "")
        raise TypeError(
            f"{name} must be an iterable of batches, got one {kind}{f' of shape {tuple(shape)}' if shape else ''}, "
            "whose rows would be taken for batches: put it into a list, [x]"
        )
    if isinstance(batches, tuple) and len(batches) == 2 and _is_labelled(*batches):
        raise TypeError(
            f"{name} must be an iterable of batches, got (inputs, targets), whose targets would be taken for a batch: "
            f"pass [inputs]; {_FORWARD}"
        )
    if isinstance(batches, (str, bytes, Mapping)):
        raise TypeError(
            f"{name} must be an iterable of batches, got a {kind}, which gives its "
            f"{'keys' if isinstance(batches, Mapping) else 'characters'}: put it into a list, [x]"
        )
    if not isinstance(batches, Iterable):
        raise TypeError(f"{name} must be an iterable of batches, such as [x], got a {kind}")
    return batches

"""scikit-learn's estimators: what they multiply by, what only their training needs, and refusing to train further.

Nothing here imports scikit-learn: estimators are known by the package of their classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from octavo._models.containers import instance_dict
from octavo._models.walk import walk
from octavo._util.pickling import pickled

__all__ = [
    "TrainingRefused", "allow_training", "drop_training_state", "holds_trees", "is_estimator", "is_fitted",
    "needed_for_training", "refuse_training", "training_state",
]  # fmt: skip

# Attributes that `fit` and `partial_fit` go on from and no prediction reads: optimizers with their moments, the weights
# of the best epoch so far, running averages.
_TRAINING = (
    "_optimizer", "_best_coefs", "_best_intercepts", "_coef_grads", "_intercept_grads", "_standard_coef",
    "_standard_intercept", "_average_coef", "_average_intercept", "_expanded_class_weight",
)  # fmt: skip
_TREES = ("sklearn.tree.", "sklearn.ensemble._hist_gradient_boosting.")
_TRAINING_METHODS = ("fit", "partial_fit", "fit_predict", "fit_transform")


def is_estimator(value: Any) -> bool:
    """Whether it is an estimator of scikit-learn, or of a class derived from one."""
    own = any(cls.__module__.partition(".")[0] == "sklearn" for cls in type(value).__mro__)
    return own and hasattr(value, "get_params")


def is_fitted(estimator: Any) -> bool:
    """Whether training has left anything: attributes that end with an underscore."""
    return any(name.endswith("_") and not name.startswith("__") for name in instance_dict(estimator))


def holds_trees(estimator: Any) -> bool:
    """Whether an estimator decides by trees, which compare one input at a time and multiply by no matrix.

    Example:
        >>> from octavo._models.estimators import holds_trees
        >>> holds_trees([1, 2])
        False
    """
    return any(type(value).__module__.startswith(_TREES) for _, value in walk(estimator))


def training_state(model: Any, replaced: Collection[int]) -> Iterator[tuple[str, str, Any]]:
    """(path of the estimator, attribute, value) of what estimators need for training alone.

    Args:
        model: any object.
        replaced: ids of the matrices that integers take the place of; estimators that use none of them keep all.

    Example:
        >>> from octavo._models.estimators import training_state
        >>> list(training_state([1, 2], ()))
        []
    """
    for path, value in walk(model):
        if not is_estimator(value):
            continue
        own = instance_dict(value)
        rest = {name: held for name, held in own.items() if name not in _TRAINING}
        if not any(id(held) in replaced for _, held in walk(rest)):
            continue
        used = {id(held) for held in rest.values()} | set(replaced)
        for name in _TRAINING:
            held = own.get(name)
            if held is not None and id(held) not in used:
                yield path, name, held


def needed_for_training(model: Any, replaced: Collection[int]) -> set[int]:
    """Ids of what only the `training_state` of a model holds."""
    state = {id(held): held for _, _, held in training_state(model, replaced)}
    if not state:
        return set()
    inside = {id(value) for held in state.values() for _, value in walk(held)}
    return inside - {id(value) for _, value in walk(model, stop=lambda value: id(value) in state)} | state.keys()


def drop_training_state(model: Any, replaced: Collection[int]) -> None:
    """Sets the `training_state` of a model to None, and lets its estimators refuse to be trained."""
    owners = dict(walk(model))
    for path, name, _ in list(training_state(model, replaced)):
        instance_dict(owners[path])[name] = None
    refuse_training(model, replaced)


def refuse_training(model: Any, ids: Collection[int]) -> None:
    """Lets every estimator of the model that reaches one of the objects refuse to be trained.

    Args:
        model: any object, changed in place.
        ids: of the objects that took the place of float matrices.
    """
    for _, value in list(walk(model)):
        if is_estimator(value) and any(id(held) in ids for _, held in walk(value)):
            own = instance_dict(value)
            for name in _TRAINING_METHODS:
                if hasattr(type(value), name):
                    own[name] = TrainingRefused(type(value).__name__, name)


def allow_training(model: Any, floats: Collection[int], quantized: Collection[int]) -> None:
    """Undoes `refuse_training` for estimators that reach some of the floats and nothing that is quantized.

    Their `fit` starts anew, as it always does. What was dropped is gone: `partial_fit` goes on with a new optimizer.

    Args:
        model: any object, changed in place.
        floats: ids of matrices that were put back.
        quantized: ids of what stands in the place of others.
    """
    for _, value in list(walk(model)):
        if not is_estimator(value):
            continue
        reached = {id(held) for _, held in walk(value)}
        if reached.isdisjoint(floats) or not reached.isdisjoint(quantized):
            continue
        own = instance_dict(value)
        for name in _TRAINING_METHODS:
            if isinstance(own.get(name), TrainingRefused):
                del own[name]
        for name in _TRAINING:  # None where it was dropped; absent is what tells scikit-learn to make it
            if own.get(name, value) is None:
                del own[name]


@pickled
class TrainingRefused:
    """Stands for a method that trains, in an estimator whose matrices are integers. Calling it raises TypeError."""

    def __init__(self, estimator: str, method: str) -> None:
        self.estimator = estimator
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self.method} of this {self.estimator} would train further, but its matrices are quantized and what "
            "training needs was dropped; train the float estimator (or sklearn.base.clone of this one) and quantize "
            "it again"
        )

    def __repr__(self) -> str:
        return f"TrainingRefused({self.estimator!r}, {self.method!r})"

"""The path of the accuracy control: in which order layers become smaller (or faster), by what it costs each of them.

Each layer or array has its choices: float and the candidates, each with a cost (bytes or seconds) and a local loss. Of
these the lower convex hull is taken, so that each step to a cheaper choice loses more for what it saves than the one
before. All steps of all layers are then walked in the order of loss per saving. The path is therefore the one that has
the least sum of losses for each total cost that it passes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["FLOAT", "Choice", "Step", "assignment", "steps"]

FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Choice:
    """A way of having one layer."""

    name: str
    cost: float
    loss: float


@dataclass(frozen=True, slots=True)
class Step:
    """One layer goes on to the next cheaper choice."""

    path: str
    name: str
    slope: float


def steps(choices: Mapping[str, Sequence[Choice]]) -> list[Step]:
    """The path from all float to the cheapest.

    Args:
        choices: of each layer by path; the first is float, with loss 0.

    Example:
        >>> a = [Choice("float", 4, 0), Choice("int8", 1, 0.1), Choice("int4", 0.5, 1)]
        >>> b = [Choice("float", 8, 0), Choice("int8", 2, 0.1), Choice("bad", 2, 0.5)]
        >>> [(step.path, step.name) for step in steps({"a": a, "b": b})]
        [('b', 'int8'), ('a', 'int8'), ('a', 'int4')]
    """
    found: list[tuple[float, int, int, Step]] = []
    for number, (path, ways) in enumerate(choices.items()):
        hull = _hull(ways)
        for place in range(1, len(hull)):
            before, after = hull[place - 1], hull[place]
            slope = (after.loss - before.loss) / (before.cost - after.cost)
            found.append((slope, number, place, Step(path, after.name, slope)))
    return [step for *_, step in sorted(found, key=lambda entry: entry[:3])]


def _hull(ways: Sequence[Choice]) -> list[Choice]:
    """From float on, ever cheaper, with slopes that never fall."""
    hull = [ways[0]]
    for way in sorted(ways[1:], key=lambda way: (-way.cost, way.loss)):
        if way.cost >= hull[-1].cost:  # as cheap as one of less loss, or dearer than float
            continue
        while hull[-1] is not ways[0] and hull[-1].loss >= way.loss:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], way):
            hull.pop()
        hull.append(way)
    return hull


def _slope(before: Choice, after: Choice) -> float:
    return (after.loss - before.loss) / (before.cost - after.cost)


def assignment(path: Sequence[Step], count: int, layers: Sequence[str]) -> dict[str, str]:
    """What each layer is after the first steps: a candidate's name, or "float".

    Example:
        >>> assignment([Step("a", "int8", 0.1)], 1, ["a", "b"])
        {'a': 'int8', 'b': 'float'}
    """
    found = dict.fromkeys(layers, FLOAT)
    for step in path[:count]:
        found[step.path] = step.name
    return found

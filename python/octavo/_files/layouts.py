"""Whether a matrix of a checkpoint is (out, in), as torch's Linear has it, or (in, out), as GPT-2's Conv1D has it.

A bias has one value for each output, so it shows the layout of every matrix that is not square; the size of the
vocabulary shows that of an output head. The others follow matrices of the same role ("c_proj"), and then the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from octavo._layers.linear import Layout

__all__ = ["LAYOUTS", "Evidence", "Layouts", "count", "decide", "evidence"]

LAYOUTS: tuple[Layout, ...] = ("out_in", "in_out")


class Evidence(NamedTuple):
    """What is known of the layout of a matrix, or of a stack of matrices.

    Attributes:
        tensor: its name.
        role: what layers that do the same in other blocks are called too.
        layout: what its own bias, or the vocabulary, shows; None where neither does.
        why: what shows it, in words that follow the name of the tensor.
    """

    tensor: str
    role: str
    layout: Layout | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Layouts:
    """The layout of each matrix, and a line that says how it was found."""

    of: Mapping[str, Layout]
    told: str


def evidence(
    tensor: str,
    shape: tuple[int, ...],
    role: str,
    bias: tuple[int, ...] | None,
    vocabulary: Mapping[int, int] | None = None,
) -> Evidence:
    """What a matrix shows by itself.

    Args:
        tensor, role: as in `Evidence`.
        shape: (rows, columns), or (count, rows, columns) of a stack.
        bias: the shape of its bias, (n,) or (count, n); None where it has none.
        vocabulary: number of words and length of a row of the tables of words, for a matrix that may be a head.

    Example:
        >>> from octavo._files.layouts import evidence
        >>> evidence("c_attn.weight", (64, 192), "c_attn", (192,)).layout
        'in_out'
        >>> evidence("lm_head.weight", (50257, 64), "lm_head", None, {50257: 64}).layout
        'out_in'
    """
    *stack, rows, columns = shape
    if bias is not None and rows != columns and bias in ((*stack, rows), (*stack, columns)):
        why = f"has shape {list(shape)} and a bias of {bias[-1]} values"
        return Evidence(tensor, role, "out_in" if bias[-1] == rows else "in_out", why)
    words = vocabulary or {}
    if bias is None and rows != columns and max(rows, columns) in words:
        why = f"has shape {list(shape)}, and the vocabulary has {max(rows, columns)} words"
        if words[max(rows, columns)] == min(rows, columns):
            return Evidence(tensor, role, "out_in" if rows > columns else "in_out", why)
    return Evidence(tensor, role)


def decide(matrices: Sequence[Evidence], given: Layout | None) -> Layouts:
    """The layout of every matrix.

    Args:
        matrices: what is known of each.
        given: what the user says; None: (out, in), unless something shows otherwise.

    Raises:
        ValueError: a bias fits (in, out) alone, and `given` is not that.

    Example:
        >>> from octavo._files.layouts import decide, evidence
        >>> square = evidence("a.weight", (64, 64), "c_proj", (64,))
        >>> found = [square, evidence("b.weight", (64, 256), "c_proj", (256,))]
        >>> decide(found, "in_out").of
        {'a.weight': 'in_out', 'b.weight': 'in_out'}
    """
    if given != "in_out" and any(matrix.layout == "in_out" for matrix in matrices):
        raise ValueError(_in_out_found(matrices))
    roles: dict[str, set[Layout]] = {}
    for matrix in matrices:
        if matrix.layout is not None:
            roles.setdefault(matrix.role, set()).add(matrix.layout)
    fallback: Layout = given or "out_in"

    def of(matrix: Evidence) -> Layout:
        if matrix.layout is not None:
            return matrix.layout
        shared = roles.get(matrix.role, set())
        return next(iter(shared)) if len(shared) == 1 else fallback

    layouts = {matrix.tensor: of(matrix) for matrix in matrices}
    return Layouts(layouts, _told(matrices, layouts, given))


def _in_out_found(matrices: Sequence[Evidence]) -> str:
    """What is said of matrices that can only be (in, out)."""
    first, *others = (matrix for matrix in matrices if matrix.layout == "in_out")
    straight = sum(matrix.layout == "out_in" for matrix in matrices)
    text = f"{first.tensor} {first.why}, so it is (in, out) as in y = x W"
    if others:
        text += f", and so {'is' if len(others) == 1 else 'are'} {count(len(others), 'other', 'others')}"
    text += "; pass --layout in_out"
    if straight:
        text += f" ({count(straight, 'matrix', 'matrices')} that must be (out, in) will stay so)"
    return f"{text}, or leave it as it is with --exclude"


def count(number: int, one: str, many: str) -> str:
    """A number of things in words.

    Example:
        >>> from octavo._files.layouts import count
        >>> count(1, "matrix", "matrices"), count(2, "matrix", "matrices")
        ('1 matrix', '2 matrices')
    """
    return f"{number} {one if number == 1 else many}"


def _told(matrices: Sequence[Evidence], layouts: Mapping[str, Layout], given: Layout | None) -> str:
    lines = []
    for layout, equation in (("out_in", "y = x W^T"), ("in_out", "y = x W")):
        own = [matrix for matrix in matrices if layouts[matrix.tensor] == layout]
        if not own:
            continue
        sure = sum(matrix.layout is not None for matrix in own)
        if sure:
            how = f"shown by {count(sure, 'bias or output head', 'biases or output heads')}"
        elif given == layout:
            how = "as given by --layout"
        else:
            how = "assumed, because no bias shows it; pass --layout in_out if it is y = x W"
        lines.append(f"layout {layout}, {equation}, for {count(len(own), 'matrix', 'matrices')}: {how}")
    return "\n".join(lines)

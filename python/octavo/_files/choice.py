"""What the user of `octavo quantize` asks for: which tensors become what, by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from octavo._layers.linear import Layout

__all__ = ["Choice", "matches"]

# What weights are called, where the user names none.
_INCLUDE = ("*.weight", "weight", "*_proj_weight", "*weight_[ih]h", "*weight_[ih]h_l*", "*expert*")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (`fnmatch`, case matters) describes a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asks for; patterns are those of `fnmatch`, matched against names of tensors.

    Attributes:
        layout: of matrices whose layout nothing else shows.
        include: tensors to quantize. Empty: those that are weights by their names.
        exclude: tensors to copy as they are.
        drop: tensors to leave out of the output.
        embedding, linear: tensors that are tables of rows, and that are not, whatever their names.
        stacked: 3-D tensors that hold a matrix for each index of the first axis.
        arrays: whether to make a `QuantMatrix` of each matrix, under its own name, for models that hold arrays.
        batch_first: of recurrent layers.
    """

    layout: Layout | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    drop: Sequence[str] = ()
    embedding: Sequence[str] = ()
    linear: Sequence[str] = ()
    stacked: Sequence[str] = ()
    arrays: bool = False
    batch_first: bool = False

    def includes(self, name: str) -> bool:
        """Whether the user asks for a tensor by a pattern."""
        return matches(name, [*self.include, *self.embedding, *self.linear, *self.stacked])

    def drops(self, name: str) -> bool:
        return matches(name, self.drop)

    def unwanted(self, name: str) -> str | None:
        """Why patterns, the user's or the usual ones, leave a tensor as it is."""
        usual = () if self.include else ("*",) if self.arrays else _INCLUDE
        if not self.includes(name) and not matches(name, usual):
            return f"does not match {' or '.join(self.include)}" if self.include else "not a weight by its name"
        return next((f"matches the excluded {pattern}" for pattern in self.exclude if fnmatchcase(name, pattern)), None)

    def unmatched(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """(option, pattern) of the patterns that match none of these names."""
        options = ("include", "exclude", "drop", "embedding", "linear", "stacked")
        return [
            (f"--{option}", pattern)
            for option in options
            for pattern in getattr(self, option)
            if not any(fnmatchcase(name, pattern) for name in names)
        ]

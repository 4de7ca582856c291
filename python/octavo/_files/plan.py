"""What becomes of each tensor of a checkpoint: which are quantized, as what, under which name, and why the rest is not.

    fc.weight, fc.bias             QuantLinear     fc
    wte.weight                     QuantEmbedding  wte                   a table of rows: by name, without a bias
    lstm.weight_ih_l0, ...         QuantLSTM       lstm                  or QuantGRU, by the number of gates
    attn.in_proj_weight            QuantMatrix     attn.in_proj_weight   a weight that is not called "X.weight"
    conv.weight (out, in, 1, 1)    QuantMatrix     conv.weight           (out, in)
    experts.w1 (E, out, in)        QuantMatrix     experts.w1.0, ...     one for each expert

All other tensors are copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from octavo._files import naming
from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice, matches
from octavo._files.header import Tensor
from octavo._files.items import Item, Kind, Matrix
from octavo._files.layouts import LAYOUTS, Evidence, decide, evidence
from octavo._files.linear_codecs import WeightFormat
from octavo._layers.linear import Layout
from octavo.nn._recurrent_base import direction_names, read_weights

__all__ = ["FLOATS", "Plan", "make_plan"]

FLOATS = ("F16", "BF16", "F32", "F64")
_ALL_SUFFIXES = WeightFormat("int4", symmetric=False)
_INT8 = WeightFormat()
_RECURRENT_KINDS: dict[int, Kind] = {4: "QuantLSTM", 3: "QuantGRU"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is quantized, and (tensor, reason) of what is copied; a line on how layouts were found."""

    items: tuple[Item, ...]
    copied: tuple[tuple[str, str], ...]
    layout: str


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    tensors: Mapping[str, Tensor]  # without those to drop
    choice: Choice
    weights: WeightFormat | None
    items: list[Item] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, tuple[Kind, Evidence]] = field(default_factory=dict)


def make_plan(checkpoint: Checkpoint, choice: Choice, weights: WeightFormat | None = _INT8) -> Plan:
    """Decides what becomes of every tensor; reads names, shapes and types, and no values.

    Args:
        checkpoint: of floats.
        choice: what the user says of its tensors.
        weights: what weights become, which limits a layer's inputs; None: any of its forms, without a limit.

    Raises:
        ValueError: an option is unknown; the user must say how matrices are laid out, or whether one is a table.
    """
    if choice.layout is not None and choice.layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS} or None, got {choice.layout!r}")
    tensors = {name: t for name, t in checkpoint.tensors.items() if not choice.drops(name)}
    draft = _Draft(tensors, choice, weights)
    try:
        recurrent = set() if choice.arrays else _add_recurrent(draft)
        others = [name for name in tensors if name not in recurrent]
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        tables = _tables(draft, others, naming.vocabulary_sizes(folder))
        vocabulary = dict(_two(tensors[name].shape) for name in tables if naming.is_token_table(name))
        for name in others:
            _add(draft, name, name in tables, vocabulary)
        layouts = decide([found for _, found in draft.undecided.values()], choice.layout)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    for name, (kind, _) in draft.undecided.items():
        _add_matrix(draft, name, kind, layouts.of[name])
    items = _without_clashes(draft)
    used = {name for item in items for name in item.sources()}
    return Plan(tuple(items), tuple((name, draft.reasons[name]) for name in tensors if name not in used), layouts.told)


# Recurrent layers


def _add_recurrent(draft: _Draft) -> set[str]:
    """Adds an item for each LSTM and GRU. Returns the names of all tensors of recurrent layers, quantized or not."""
    groups: dict[str, dict[str, str]] = {}
    for name in draft.tensors:
        if found := naming.recurrent_name(name):
            groups.setdefault(found[0], {})[found[1]] = name
    for prefix, own in groups.items():
        reason = next((why for name in own.values() if (why := _unwanted_part(name, draft))), None)
        if reason is None:
            try:
                draft.items.append(_recurrent_item(draft, prefix, own))
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            draft.reasons |= dict.fromkeys(own.values(), reason)
    return {name for own in groups.values() for name in own.values()}


def _unwanted_part(name: str, draft: _Draft) -> str | None:
    if draft.tensors[name].dtype not in FLOATS:
        return f"{name} is {draft.tensors[name].dtype}, not a float type"
    return draft.choice.unwanted(name) if "weight" in name.rpartition(".")[2] else None


def _recurrent_item(draft: _Draft, prefix: str, own: Mapping[str, str]) -> Item:
    if f"{prefix}weight_hr_l0" in draft.tensors:
        raise ValueError("of an LSTM with projections, which octavo does not have")
    shape = draft.tensors[own["weight_hh_l0"]].shape if "weight_hh_l0" in own else ()
    gates = shape[0] // shape[1] if len(shape) == 2 and shape[1] else 0
    if gates not in _RECURRENT_KINDS:
        raise ValueError("of a recurrent layer that is neither an LSTM (4 gates) nor a GRU (3)")
    shapes = {name: np.broadcast_to(np.float32(0), draft.tensors[full].shape) for name, full in own.items()}
    weights = read_weights(shapes, "", gates)
    layers = len({name for name in weights if name.startswith("weight_hh") and not name.endswith("_reverse")})
    matrices = tuple(
        Matrix(
            own[f"weight_{side}_{direction}"],
            weights[f"weight_{side}_{direction}"].shape,
            bias=own.get(f"bias_{side}_{direction}"),
            part=f"{side}_{direction}",
        )
        for direction in direction_names(layers, "weight_ih_l0_reverse" in weights)
        for side in ("ih", "hh")
    )
    for matrix in matrices:
        if draft.weights is not None and (misfit := draft.weights.misfit(matrix.shape[1])):
            raise ValueError(misfit)
    return Item(prefix.removesuffix("."), _RECURRENT_KINDS[gates], matrices, draft.choice.batch_first)


# Tables of rows


def _tables(draft: _Draft, names: Sequence[str], vocabulary_sizes: set[int]) -> set[str]:
    """The matrices that are looked up by row: as the user says, else by name and without a bias.

    Raises:
        ValueError: a matrix has a row for each word of config.json's vocabulary, and its name does not show what it is.
    """
    choice = draft.choice
    candidates = [name for name in names if len(draft.tensors[name].shape) == 2 and not matches(name, choice.linear)]
    bare = [name for name in candidates if naming.bias_of(name) not in draft.tensors]
    found = {name for name in candidates if matches(name, choice.embedding)}
    found |= {name for name in bare if naming.is_table(name)}
    sizes = vocabulary_sizes - {draft.tensors[name].shape[0] for name in found}
    for name in bare:
        tensor = draft.tensors[name]
        if name in found or tensor.shape[0] not in sizes or naming.is_head(name):
            continue
        if tensor.dtype in FLOATS and choice.unwanted(name) is None:
            raise ValueError(
                f"{name} has a row for each of the {tensor.shape[0]} words that config.json states, and may be an "
                f"embedding or an output layer; pass --embedding {name} or --linear {name}"
            )
    return found


# Matrices


def _add(draft: _Draft, name: str, is_table: bool, vocabulary: Mapping[int, int]) -> None:
    """Adds an item for a tensor, or what it shows of its layout, or the reason why it is copied."""
    tensor, choice = draft.tensors[name], draft.choice
    reason = _unfit(name, tensor, choice) or choice.unwanted(name)
    if reason is not None:
        draft.reasons[name] = reason
        return
    stem = naming.stem_of(name)
    if is_table:
        as_array = choice.arrays or stem is None
        kind: Kind = "QuantMatrix" if as_array else "QuantEmbedding"
        draft.items.append(Item(name if as_array else stem or "", kind, (Matrix(name, _two(tensor.shape)),)))
        return
    if _is_convolution(tensor):
        draft.items.append(Item(name, "QuantMatrix", (Matrix(name, _two(tensor.shape)),)))
        return
    kind = "QuantLinear" if len(tensor.shape) == 2 and stem is not None and not choice.arrays else "QuantMatrix"
    bias = draft.tensors.get(naming.bias_of(name))
    found = evidence(name, tensor.shape, naming.last_part(name), None if bias is None else bias.shape, vocabulary)
    draft.undecided[name] = kind, found


def _two(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], shape[1]


def _is_convolution(tensor: Tensor) -> bool:
    """Whether it is (out, in, 1, ...), which is a product with a matrix (out, in) at every point."""
    return len(tensor.shape) > 2 and math.prod(tensor.shape[2:]) == 1


def _unfit(name: str, tensor: Tensor, choice: Choice) -> str | None:
    """Why the values of a tensor are not those of matrices."""
    if tensor.dtype not in FLOATS:
        return f"{tensor.dtype}, not a float type"
    if len(tensor.shape) < 2:
        return f"{len(tensor.shape)}-D, not a matrix"
    if 0 in tensor.shape:
        return "empty"
    if len(tensor.shape) == 2:
        is_listed = matches(name, choice.include) or naming.stem_of(name) is not None
        if not is_listed and (last := name.rpartition(".")[2]).endswith("bias"):
            return f"{last} is a bias by its name"
        return None
    if _is_convolution(tensor):
        return "a vector in the shape of a convolution" if 1 in tensor.shape[:2] else None
    if len(tensor.shape) == 3 and (naming.is_stack(name) or matches(name, choice.stacked)):
        return None
    hint = f"; --stacked {name} if it holds {tensor.shape[0]} matrices" if len(tensor.shape) == 3 else ""
    return f"{len(tensor.shape)}-D, not a matrix{hint}"


def _add_matrix(draft: _Draft, name: str, kind: Kind, layout: Layout) -> None:
    """Adds the item, or those of a stack, of a matrix whose layout is known."""
    tensor = draft.tensors[name]
    rows, columns = tensor.shape[-2:]
    n, k = (rows, columns) if layout == "out_in" else (columns, rows)
    if draft.weights is not None and kind != "QuantEmbedding" and (misfit := draft.weights.misfit(k)):
        draft.reasons[name] = misfit
        return
    matrix = Matrix(name, (n, k), layout)
    if kind == "QuantLinear":
        stem = naming.stem_of(name) or ""
        bias_name = naming.bias_of(name)
        if (bias := draft.tensors.get(bias_name)) is not None:
            if bias.dtype not in FLOATS or bias.shape != (n,):
                draft.reasons[name] = f"its bias is {bias.dtype} of shape {list(bias.shape)}, expected {n} floats"
                return
            matrix = replace(matrix, bias=bias_name)
        draft.items.append(Item(stem, kind, (matrix,)))
    elif len(tensor.shape) == 2:
        draft.items.append(Item(name, kind, (matrix,)))
    else:
        draft.items += [Item(f"{name}.{i}", kind, (replace(matrix, index=i),)) for i in range(tensor.shape[0])]


# Names


def _without_clashes(draft: _Draft) -> list[Item]:
    """The items whose tensors' names are free in the output, in the order of the checkpoint; the rest is copied."""
    blocked: dict[str, str] = {}
    for item in draft.items:
        if taken := _clashes(draft, item):
            blocked |= dict.fromkeys(item.sources(), f"{min(taken)} has the name that the layer would need")
    draft.reasons |= blocked
    order = {name: i for i, name in enumerate(draft.tensors)}
    kept = [item for item in draft.items if not item.sources() & blocked.keys()]
    return sorted(kept, key=lambda item: order[item.matrices[0].tensor])


def _clashes(draft: _Draft, item: Item) -> set[str]:
    needed = {item.name} | item.tensors(_ALL_SUFFIXES).keys()
    return (needed & draft.tensors.keys()) - item.sources()

"""`octavo inspect FOLDER` of a quantized checkpoint: its layers, how they are quantized, and what they take here."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from octavo._files.layouts import count
from octavo._util.tables import table
from octavo.checkpoints import _onnx
from octavo.checkpoints._config import is_quantized
from octavo.checkpoints._load import open_layer, opened

__all__ = ["is_quantized", "report"]


def report(path: str | os.PathLike[str]) -> str:
    """The text: a line a layer, then all other tensors. Of the weights only scales and zero points are read.

    Raises:
        ImportError, OSError, ValueError: as for `octavo.checkpoints.load`.
    """
    if os.fspath(path).endswith(".onnx"):
        return _report_onnx(path)
    with opened(path) as source:
        source.warn(None)
        tensors = source.tensors.by_name
        rows = []
        for found in source.layers.values():
            try:
                contents, how = open_layer(found, None, "auto")
                layer = found.layer(
                    contents, contents.blank(found.shape[1]), None, activation=how.activation,
                    activation_group=how.group, static=how.static,
                )  # fmt: skip
            except ValueError as error:
                source.refuse(found, error)
            shape = " x ".join(map(str, found.shape))
            size = sum(tensors[name].nbytes for name in found.tensors)
            rows.append(
                (found.name, found.kind, shape, f"{size:,} B", repr(layer).partition(", ")[2].removesuffix(")"))
            )
            source.release(found)
        kinds = Counter(found.kind for found in source.layers.values())
        taken = sum(tensors[name].nbytes for found in source.layers.values() for name in found.tensors)
        rest = [(name, tensors[name].dtype, " x ".join(map(str, tensors[name].shape))) for name in source.arrays]
        lines = [
            f"quantized by {source.config.method}, as {source.config.path} says",
            "",
            table(["layer", "checkpoint", "out x in", "in the file", "in octavo"], rows),
            "",
        ]
        if rest:
            lines += [table(["other tensor", "type", "shape"], rest), ""]
        lines += [f"{count(n, 'layer', 'layers')}: {kind}" for kind, n in kinds.items()]
        lines.append(
            f"{taken:,} B in quantized layers, {source.tensors.checkpoint.nbytes:,} B in all files; `octavo quantize` "
            "converts them without loss"
        )
        return "\n".join(lines)


def _report_onnx(path: str | os.PathLike[str]) -> str:
    found = _onnx.load_nodes(path, activation=None, activation_group="auto")
    rows = [(name, repr(layer), f"{layer.nbytes:,} B") for name, layer in found.items()]
    lines = [f"ONNX model {Path(path)}", "", table(["node", "in octavo", "bytes"], rows), ""]
    return "\n".join([*lines, count(len(rows), "quantized matrix", "quantized matrices")])

"""The files that `octavo quantize` writes: one, or as many as the source has, each layer in the file of its weight."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo._files.checkpoint import Checkpoint
from octavo._files.header import Tensor
from octavo._files.items import Item
from octavo._files.linear_codecs import WeightFormat
from octavo._files.octavo_header import header_metadata
from octavo._files.plan import Plan
from octavo._files.safetensors import Writer
from octavo._files.shards import index_name
from octavo._util.atomic import require_folder

__all__ = ["Output", "made", "planned_outputs"]


@dataclass(slots=True)
class Output:
    """One file to be written."""

    path: Path
    metadata: Mapping[str, str]
    items: list[Item]
    copied: list[str]
    nbytes: int = 0

    def tensors(self, weights: WeightFormat, floats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: floats[name] for name in self.copied}
        for item in self.items:
            found |= item.tensors(weights)
        return found

    def writer(self, weights: WeightFormat, floats: Mapping[str, Tensor]) -> Writer:
        options = {item.name: item.options(weights) for item in self.items}

        def metadata(crc32: dict[str, int]) -> dict[str, str]:
            return {**self.metadata, **header_metadata(options, {}, crc32)}

        return Writer(self.path, self.tensors(weights, floats), metadata)


def planned_outputs(checkpoint: Checkpoint, plan: Plan, destination: Path) -> tuple[list[Output], Path | None]:
    """One file, or as many as the source has, each layer in the file of its weight; and the folder for them."""
    copied = [name for name, _ in plan.copied]
    if destination.name.endswith(".json"):
        raise ValueError(f"{destination}: name a folder for several files and their index, or a .safetensors file")
    folder = None
    if destination.is_dir() or (destination.suffix != ".safetensors" and len(checkpoint.parts) > 1):
        folder = destination
        require_folder(folder.resolve().parent)
    if folder is None:
        outputs = [Output(destination, checkpoint.metadata, list(plan.items), copied)]
    else:
        where = checkpoint.file_of
        outputs = [
            Output(
                (folder / part.path.name).with_suffix(".safetensors"),
                part.metadata,
                [item for item in plan.items if where(item.matrices[0].tensor) == part.path],
                [name for name in copied if where(name) == part.path],
            )
            for part in checkpoint.parts
        ]
        _require_no_others(folder, {output.path.name for output in outputs} | {index_name(checkpoint.path)})
    sources = [part.path for part in checkpoint.parts]
    for output in outputs:
        if output.path.exists() and any(os.path.samefile(output.path, source) for source in sources):
            raise ValueError(f"{output.path} would be overwritten by its own conversion; name another output")
    return outputs, folder


def _require_no_others(folder: Path, own: set[str]) -> None:
    """Raises ValueError where a folder holds files that loading it would take for the checkpoint."""
    others = {file.name for pattern in ("*.safetensors", "*.safetensors.index.json") for file in folder.glob(pattern)}
    if others - own:
        raise ValueError(f"{folder} holds {min(others - own)} already, and loading it would mix the two; name another")


@contextlib.contextmanager
def made(folder: Path | None) -> Iterator[None]:
    """A new folder, which is removed again if nothing comes to lie in it."""
    if folder is None or folder.is_dir():
        yield
        return
    folder.mkdir()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()

"""What an interrupted accuracy control goes on from: a JSON file of scores and errors, written after each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from octavo._util.atomic import replace_file

__all__ = ["State"]

_VERSION = 2
_CLOSE = 1e-6  # a float model's own rounding, where it runs on another number of threads


class State:
    """Errors by layer and scores by assignment, in a file where there is a path.

    Args:
        path: of the file, which need not be there yet; None: nothing is kept.
        fingerprint: digests of all that the numbers depend on.

    Raises:
        ValueError: the file is of another search, or is none.
    """

    def __init__(self, path: str | PathLike[str] | None, fingerprint: Mapping[str, str]) -> None:
        self._path = None if path is None else Path(path)
        self.checked = False  # whether a score of the file has been found to be the metric's
        self._known: dict[str, Any] = {
            "version": _VERSION, "fingerprint": dict(fingerprint), "baseline": None, "ranking": {}, "scores": {},
        }  # fmt: skip
        if self._path is None or not self._path.exists():
            return
        try:
            found = json.loads(self._path.read_text())
            if (version := found["version"]) != _VERSION:
                raise ValueError(f"its version is {version}, not {_VERSION}")
            other = [name for name, part in fingerprint.items() if found["fingerprint"][name] != part]
            read = {name: dict(found[name]) for name in ("ranking", "scores")} | {"baseline": float(found["baseline"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"state must be a file of an accuracy control, got {self._path}; name another") from error
        if other:
            raise self._other(f": other {', '.join(other)}")
        self._known |= read

    def baseline(self, found: float) -> float:
        """The float model's score: of the file, if it has one that agrees, or else what was found.

        Raises:
            ValueError: they differ.
        """
        if (known := self._known["baseline"]) is None:
            known = self._known["baseline"] = found
        self._compare(known, found, "the float model")
        return float(known)

    def ranking(self, path: str) -> list[tuple[str, float, float]] | None:
        """(name, cost, loss) of a layer's choices."""
        known = self._known["ranking"].get(path)
        return None if known is None else [(name, cost, loss) for name, cost, loss in known]

    def put_ranking(self, path: str, choices: list[tuple[str, float, float]]) -> None:
        self._put("ranking", path, choices)

    def score(self, assignment: str) -> float | None:
        """Of an assignment, by its digest."""
        known: float | None = self._known["scores"].get(assignment)
        return known

    def check(self, known: float, found: float) -> None:
        """Compares a score of the file with the same one taken anew.

        Raises:
            ValueError: they differ: the metric or `forward` is another.
        """
        self._compare(known, found, "a quantized model")
        self.checked = True

    def _compare(self, known: float, found: float, what: str) -> None:
        if not math.isclose(known, found, rel_tol=_CLOSE, abs_tol=_CLOSE * abs(self._known["baseline"])):
            raise self._other(f": the metric gives {found} for {what} where it gave {known}")

    def _other(self, reason: str) -> ValueError:
        return ValueError(
            f"state {self._path} is of another model, data, metric, candidates or goal{reason}; name another file"
        )

    def put_score(self, assignment: str, value: float) -> None:
        self._put("scores", assignment, value)

    def _put(self, part: str, key: str, value: Any) -> None:
        self._known[part][key] = value
        if self._path is None:
            return
        replace_file(self._path, json.dumps(self._known).encode())

"""What an interrupted accuracy control goes on from: a JSON file of scores and errors, written after each."""

from __future__ import annotations

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any

from octavo._util.atomic import replace_file

__all__ = ["State"]

_VERSION = 1
_CLOSE = 1e-6  # a float model's own rounding, where it runs on another number of threads


class State:
    """Errors by layer and scores by assignment, in a file where there is a path.

    Args:
        path: of the file, which need not be there yet; None: nothing is kept.
        fingerprint: of all that the numbers depend on.

    Raises:
        ValueError: the file is of another search, or is none.
    """

    def __init__(self, path: str | PathLike[str] | None, fingerprint: str) -> None:
        self._path = None if path is None else Path(path)
        self.checked = False  # whether a score of the file has been found to be the metric's
        self._known: dict[str, Any] = {
            "version": _VERSION, "fingerprint": fingerprint, "ranking": {}, "scores": {},
        }  # fmt: skip
        if self._path is None or not self._path.exists():
            return
        try:
            found = json.loads(self._path.read_text())
            same = found["version"] == _VERSION and found["fingerprint"] == fingerprint
            ranking, scores = dict(found["ranking"]), dict(found["scores"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"state must be a file of an accuracy control, got {self._path}; name another") from error
        if not same:
            raise self._other()
        self._known |= {"ranking": ranking, "scores": scores}

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
        if not math.isclose(known, found, rel_tol=_CLOSE, abs_tol=_CLOSE):
            raise self._other(f": the metric gives {found} where it gave {known}")
        self.checked = True

    def _other(self, reason: str = "") -> ValueError:
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

"""Embedding with Ray Data: map_batches over actors. Ray starts a killed actor again, and runs its tasks again.

pip install 'ray[data]'
python examples/cluster/ray_embed.py [--small] [--kill]
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import ray
from tqdm import tqdm
from work import Job, arguments, check, embed, job


class Embedder:
    """An actor. Actors of one machine map the same file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        y = [embed(self.path, [ids.tolist() for ids in task]) for task in batch["task"]]
        made = np.array([a.tobytes() for a in y], object)
        return {"number": batch["number"], "y": made, "process": np.full(len(y), os.getpid())}


def run(work: Job) -> list:
    rows = [{"number": i, "task": task} for i, task in enumerate(work.tasks)]
    data = ray.data.from_items(rows).map_batches(
        Embedder, fn_constructor_args=(work.path,), batch_size=1, concurrency=work.workers, num_cpus=1
    )
    found: dict[int, bytes] = {}
    for row in tqdm(data.iter_rows(), total=len(rows), desc="Ray"):  # while the actors go on
        found[row["number"]] = row["y"]
        if work.kill and len(found) == 1:
            os.kill(row["process"], signal.SIGKILL)
            print("an actor was killed")
    width = embed(work.path, work.tasks[0]).shape[1]
    return [np.frombuffer(found[i], np.float32).reshape(-1, width) for i in range(len(found))]


if __name__ == "__main__":
    args = arguments(__doc__)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=args.workers, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    with job(args) as work:
        check(work, run(work), "Ray")
    ray.shutdown()

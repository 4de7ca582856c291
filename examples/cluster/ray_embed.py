"""Embedding with Ray Data: map_batches over actors. Ray starts a killed actor again, and runs its tasks again.

pip install 'ray[data]'
python examples/cluster/ray_embed.py [--small] [--kill]
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.state import list_actors
from work import Job, arguments, check, embed, job


class Embedder:
    """An actor. Actors of one machine map the same file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        y = [embed(self.path, [ids.tolist() for ids in task]) for task in batch["task"]]
        return {"number": batch["number"], "y": np.array([a.tobytes() for a in y], object)}


def kill_one() -> None:
    """Waits for an actor to be at work, and kills its process."""
    while True:
        alive = [a for a in list_actors(detail=True) if a.state == "ALIVE" and "MapWorker" in a.class_name and a.pid]
        if alive:
            time.sleep(0.5)
            os.kill(alive[0].pid, signal.SIGKILL)
            print("an actor was killed")
            return
        time.sleep(0.1)


def run(work: Job) -> list:
    rows = [{"number": i, "task": task} for i, task in enumerate(work.tasks)]
    killer = threading.Thread(target=kill_one)
    if work.kill:
        killer.start()
    data = ray.data.from_items(rows).map_batches(
        Embedder, fn_constructor_args=(work.path,), batch_size=1, concurrency=work.workers, num_cpus=1
    )
    found = {row["number"]: row["y"] for row in data.take_all()}
    if work.kill:
        killer.join()
    width = embed(work.path, work.tasks[0]).shape[1]
    return [np.frombuffer(found[i], np.float32).reshape(-1, width) for i in range(len(found))]


if __name__ == "__main__":
    args = arguments(__doc__)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=args.workers, include_dashboard=args.kill, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    with job(args) as work:
        check(work, run(work), "Ray")
    ray.shutdown()

"""Embedding with Dask: futures, delayed, a bag, or partitions of a dataframe. Dask runs again what a killed worker had.

python examples/cluster/dask_embed.py [--small] [--api futures|delayed|bag|dataframe] [--kill]
"""

from __future__ import annotations

import os
import signal
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed, progress
from tqdm import tqdm
from work import Job, arguments, check, embed, job


def futures(client: Client, work: Job) -> list:
    sent = client.map(embed, [work.path] * len(work.tasks), work.tasks, pure=False)
    kill = work.kill
    for _ in tqdm(as_completed(sent), total=len(sent), desc="Dask"):
        if kill:
            kill = False
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            print("a worker was killed")
    return client.gather(sent)


def watched(client: Client, collection: Any) -> Any:
    """The result of a Dask collection, with a progress bar."""
    future = client.compute(collection)
    progress(future, notebook=False)
    return client.gather(future)


def delayed(client: Client, work: Job) -> list:
    return watched(client, [dask.delayed(embed)(work.path, task) for task in work.tasks])


def bag(client: Client, work: Job) -> list:
    import dask.bag as db

    return watched(client, db.from_sequence(work.tasks, npartitions=len(work.tasks)).map(lambda t: embed(work.path, t)))


def dataframe(client: Client, work: Job) -> list:
    import dask.dataframe as dd
    import pandas as pd

    frames = [dask.delayed(pd.DataFrame)({"tokens": task}) for task in work.tasks]
    frame = dd.from_delayed(frames, meta={"tokens": object})
    path = work.path

    def partition(part: Any) -> Any:
        return pd.DataFrame(embed(path, part["tokens"].tolist()) if len(part) else [])

    parts = frame.map_partitions(partition, meta=pd.DataFrame(embed(path, work.tasks[0])).iloc[:0]).to_delayed()
    return [part.to_numpy() for part in watched(client, list(parts))]


if __name__ == "__main__":
    ways = {"futures": futures, "delayed": delayed, "bag": bag, "dataframe": dataframe}
    args = arguments(__doc__, api=list(ways))
    with (
        job(args) as work,
        dask.config.set({"distributed.scheduler.allowed-failures": 10, "dataframe.convert-string": False}),
        LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        check(work, ways[args.api](client, work), f"Dask {args.api}")

"""Embedding with concurrent.futures, processes started by spawn or forkserver; a broken pool is made anew.

python examples/cluster/futures_embed.py [--small] [--start spawn|forkserver] [--kill]
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm
from work import Job, arguments, check, embed, job


def run(work: Job, start: str) -> list:
    found: dict[int, object] = {}
    kill = work.kill
    with tqdm(total=len(work.tasks), desc=start) as bar:
        while len(found) < len(work.tasks):  # a killed worker breaks the pool: what is missing goes to a new one
            try:
                with ProcessPoolExecutor(work.workers, multiprocessing.get_context(start)) as pool:
                    missing = [i for i in range(len(work.tasks)) if i not in found]
                    futures = {pool.submit(embed, work.path, work.tasks[i]): i for i in missing}
                    for future in as_completed(futures):
                        found[futures[future]] = future.result()
                        bar.update()
                        if kill:
                            kill = False
                            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            except BrokenProcessPool:
                print("a worker was killed")
    return [found[i] for i in range(len(work.tasks))]


if __name__ == "__main__":
    args = arguments(__doc__, start=["spawn", "forkserver"])
    with job(args) as work:
        check(work, run(work, args.start), f"concurrent.futures, {args.start}")

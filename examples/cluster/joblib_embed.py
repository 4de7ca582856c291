"""Embedding with joblib. loky sets OMP_NUM_THREADS for its workers, so they start no more threads than CPUs.

python examples/cluster/joblib_embed.py [--small]
"""

from __future__ import annotations

from joblib import Parallel, delayed
from tqdm import tqdm
from work import Job, arguments, check, embed, job


def run(work: Job) -> list:
    calls = [delayed(embed)(work.path, task) for task in work.tasks]
    results = Parallel(work.workers, return_as="generator")(calls)
    return list(tqdm(results, total=len(calls), desc="joblib"))


if __name__ == "__main__":
    with job(arguments(__doc__, kill=False)) as work:
        check(work, run(work), "joblib")

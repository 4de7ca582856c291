"""Calibration with Dask: each partition is seen by a copy of the prepared model; merge_calibration adds them up.

python examples/cluster/dask_calibrate.py
"""

from __future__ import annotations

import pickle

import dask.bag as db
import numpy as np
from distributed import Client, LocalCluster
from work import arguments

import octavo as oc


def prepared() -> oc.nn.Sequential:
    first, second = (oc.nn.Linear.init(k, n, rng=np.random.default_rng(k)) for k, n in ((32, 64), (64, 8)))
    model = oc.nn.Sequential(oc.QuantStub(), first, oc.nn.ReLU(), second, oc.DeQuantStub())
    return oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear})


def batch(seed: int) -> np.ndarray:
    """Stands for what a worker reads from storage."""
    return np.random.default_rng(seed).standard_normal((64, 32), dtype=np.float32)


def calibrated(seeds: list[int], text: bytes) -> oc.nn.Sequential:
    part = pickle.loads(text)
    oc.calibrate(part, map(batch, seeds))
    return part


if __name__ == "__main__":
    args = arguments(__doc__, kill=False)
    seeds = list(range(40))
    model, one = prepared(), prepared()
    with LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        text = pickle.dumps(model)
        parts = db.from_sequence(seeds, npartitions=4).map_partitions(lambda part: [calibrated(list(part), text)])
        oc.merge_calibration(model, parts.compute())
    oc.calibrate(one, map(batch, seeds))
    ranges = [oc.convert(m)[1].input_qparams for m in (model, one)]
    print(f"of 4 partitions {ranges[0]}, of one process {ranges[1]}")
    assert type(ranges[0]) is oc.QParams
    np.testing.assert_allclose(ranges[0].scale, ranges[1].scale, rtol=0.05)

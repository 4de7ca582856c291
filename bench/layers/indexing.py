"""What rows of a quantized table cost, beside rows of a float array, for each kind of index; and what `x @ Q` adds.

    python -m bench.layers.indexing

A table of 30,000 x 768, as a vocabulary has it. Only the rows that an index needs are dequantized, so that a time is
that of the rows and a few microseconds. Results are compared with the dequantized table's before anything is timed.
"""

import argparse

import numpy as np

import octavo as oc
from octavo._util.timing import duration, interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=30_000)
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()

COLUMNS, PICKED = 768, 128
rng = np.random.default_rng(0)
w = rng.standard_normal((args.rows, COLUMNS), dtype=np.float32)
ids, columns = rng.integers(0, args.rows, PICKED), rng.integers(0, COLUMNS, PICKED)
mask = np.isin(np.arange(args.rows), ids)
indices = {
    "Q[5, 3]": (5, 3),
    "Q[5, :64]": (5, slice(64)),
    "Q[10:20]": slice(10, 20),
    "Q[:, 5]": (slice(None), 5),
    f"Q[ids], {PICKED} of them": ids,
    "Q[ids, :10]": (ids, slice(10)),
    "Q[ids, columns]": (ids, columns),
    f"Q[mask] of {PICKED} rows": mask,
}
tables = {
    "int8 by rows": oc.QuantMatrix(w, axis=0),
    "int8 by columns": oc.QuantMatrix(w),
    "int4 by rows": oc.QuantMatrix(w, axis=0, dtype="int4", group_size=64),
    "QuantEmbedding": oc.QuantEmbedding(w),
}

print(f"{'index':<22} {'NumPy':>9} " + " ".join(f"{name:>16}" for name in tables))
for text, index in indices.items():
    for table in tables.values():
        values = table.weight if isinstance(table, oc.QuantEmbedding) else table.dequantize()
        np.testing.assert_array_equal(table[index], values[index])
    runs = {"NumPy": lambda index=index: w[index]}
    runs |= {name: lambda table=table, index=index: table[index] for name, table in tables.items()}
    times = interleaved(runs, rounds=args.rounds, round_seconds=0.02)
    cells = [f"{duration(t.median):>{9 if name == 'NumPy' else 16}}" for name, t in times.items()]
    print(f"{text:<22} " + " ".join(cells))

small = rng.standard_normal((64, 64), dtype=np.float32)
x, layer = small[:1].copy(), oc.QuantLinear(small.T)
by_columns, by_rows = oc.QuantMatrix(small), oc.QuantMatrix(small.T, axis=0)
np.testing.assert_array_equal(x @ by_columns, layer(x))
np.testing.assert_array_equal(x @ by_rows.T, layer(x))
calls = {"layer(x)": lambda: layer(x), "x @ Q": lambda: x @ by_columns, "x @ Q.T": lambda: x @ by_rows.T}
print("\none row of 64 x 64:")
for name, t in interleaved(calls, rounds=args.rounds, round_seconds=0.02).items():
    print(f"{name:<10} {duration(t.median):>9}  (spread {t.spread:.0%})")

"""all-MiniLM-L6-v2 on the same sentences and batches: examples/minilm.py against torch, float32 and dynamic int8.

    python -m bench.models.minilm_torch --threads 2 [--limit 800]

torch computes the same arithmetic (exact GELU, scaled_dot_product_attention) with `--threads` threads of its own; the
example runs `--threads` batches side by side. "numpy float32, one batch" is the example's code on one Python thread;
start with OPENBLAS_NUM_THREADS set to give its products threads. One interleaved run; needs torch.
"""

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import minilm  # first: it decides on the threads of OpenBLAS before NumPy is imported
import numpy as np
import torch
from minilm_data import batches, docstrings, model_folder, tokenized
from torch.nn import functional

import octavo as oc
from octavo._util.timing import interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--limit", type=int, default=800)
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()
torch.set_num_threads(args.threads)
oc.set_num_threads(1)


class Block(torch.nn.Module):
    """One layer of the transformer, from the arrays of one layer of the example."""

    def __init__(self, layer: dict) -> None:
        super().__init__()
        for name in ("qkv", "out", "up", "down"):
            linear = torch.nn.Linear(*layer[name].shape)
            linear.weight.data = torch.from_numpy(layer[name].T.copy())
            linear.bias.data = torch.from_numpy(layer[f"{name}_bias"])
            setattr(self, name, linear)
        self.norms = [[torch.from_numpy(a) for a in layer[f"{name}_norm"]] for name in ("out", "down")]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, minilm.HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)  # the queries are scaled already
        x = functional.layer_norm(x + self.out(mixed.transpose(1, 2).flatten(2)), x.shape[-1:], *self.norms[0], 1e-12)
        return functional.layer_norm(x + self.down(functional.gelu(self.up(x))), x.shape[-1:], *self.norms[1], 1e-12)


class Embedder(torch.nn.Module):
    """The whole, from the example's dict."""

    def __init__(self, params: dict) -> None:
        super().__init__()
        self.words = torch.from_numpy(params["words"])
        self.positions = torch.from_numpy(params["positions"])
        self.norm = [torch.from_numpy(a) for a in params["norm"]]
        self.blocks = torch.nn.ModuleList(Block(layer) for layer in params["layers"])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = functional.embedding(ids, self.words) + self.positions[: ids.shape[1]]
        x = functional.layer_norm(x, x.shape[-1:], *self.norm, 1e-12)
        for block in self.blocks:
            x = block(x)
        return functional.normalize(x.mean(1), dim=-1)


folder = model_folder()
sentences = list(docstrings())
step = max(2, len(sentences) // args.limit)
tokens, others = (tokenized(folder, sentences[start::step]) for start in (0, 1))
places = batches(tokens, minilm.BATCH)
params = minilm.load(folder)
theirs = Embedder(params).eval()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.ao.quantization announces its successor
    dynamic = torch.ao.quantization.quantize_dynamic(theirs, {torch.nn.Linear}, dtype=torch.qint8)
models = {"numpy float32": params}
seen = {
    "calibration": [np.array([others[i] for i in at]) for at in batches(others[:500], minilm.BATCH)],
    "forward": minilm.embed,
}
for name, options in minilm.VARIANTS.items():
    models[f"octavo {name}"] = oc.quantize_dynamic(
        params, arrays=minilm.WEIGHTS, activation="asymmetric", **options, **(seen if options else {})
    )


def run_torch(model: torch.nn.Module) -> np.ndarray:
    y = np.empty((len(tokens), params["positions"].shape[1]), np.float32)
    with torch.inference_mode():
        for at in places:
            y[at] = model(torch.tensor([tokens[i] for i in at])).numpy()
    return y


contenders = {name: lambda model=model: minilm.embed_all(model, tokens, args.threads) for name, model in models.items()}
contenders["numpy float32, one batch"] = lambda: minilm.embed_all(params, tokens, 1)
contenders["torch float32"] = lambda: run_torch(theirs)
contenders["torch dynamic int8"] = lambda: run_torch(dynamic)
exact = contenders["torch float32"]()
cosines = {name: (run() * exact).sum(1) for name, run in contenders.items()}
if cosines["numpy float32"].min() < 0.9999:
    raise SystemExit(f"the example disagrees with torch: cosine {cosines['numpy float32'].min():.6f}")
timings = interleaved(contenders, rounds=args.rounds, round_seconds=0)
print("\n".join(oc.runtime.config_lines()))
print(f"torch {torch.__version__}; {len(tokens)} sentences in {len(places)} batches, {args.threads} threads")
base = timings["octavo int8"].median
for name, t in timings.items():
    print(
        f"{name:26} {len(tokens) / t.median:7.0f} sentences/s  spread {100 * t.spread:3.0f}%"
        f"  {t.median / base:5.2f}x octavo int8's time  cosine to torch float32: mean {cosines[name].mean():.5f}"
    )

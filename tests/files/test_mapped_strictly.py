"""mmap="strict": what is accepted lies in the file's pages, and everything else is refused by name."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import octavo as oc
from octavo._layers.images import OWN_FAMILY
from packed_models import B, W, X, assert_equal, every_layer, products

S = np.exp2(np.arange(257) % 5 - 2).astype(np.float32)


def in_pages(path: Path, *arrays: np.ndarray) -> bool:
    """Whether all of the arrays' memory lies in mappings of the file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [tuple(int(at, 16) for at in line[0].split("-")) for line in lines if line[-1] == str(path)]
    bounds = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    return all(any(low <= start and end <= high for low, high in ranges) for start, end in bounds)


def images(model: dict[str, Any]) -> Iterator[np.ndarray]:
    return (packed.image(OWN_FAMILY) for packed in products(model))


def stored(path: Path, model: Any) -> Path:
    oc.save(model, path, layout="packed")
    return path


def test_all_that_strict_accepts_lies_in_the_file(tmp_path: Path) -> None:
    params = oc.choose_qparams(W, "qint8")
    made = every_layer() | {
        "words": np.array(["no", "yes", "perhaps"]),
        "bytes": np.array([b"a", b"bc"]),
        "none": np.zeros((0, 3), "U5"),
        "integers": oc.QuantizedArray(oc.quantize(W, params), params),
        "half": W.astype(np.float16),
    }
    path = stored(tmp_path / "m", made)
    found = oc.load(path, mmap="strict")
    assert_equal(made, found)
    for name in ("words", "bytes", "none", "half"):
        np.testing.assert_array_equal(found[name], made[name])
        assert found[name].dtype == made[name].dtype
        assert found[name].flags.writeable == (found[name].size == 0)
    np.testing.assert_array_equal(found["integers"].dequantize(), made["integers"].dequantize())
    table = found["table"]
    assert in_pages(path, *images(found), table._q, table._scale)
    assert in_pages(path, found["norm"], found["words"], found["bytes"], found["half"], found["integers"].int_repr())
    assert not in_pages(path, W)


BIASED = {
    "int8": {},
    "asymmetric": {"activation": "asymmetric", "pre_quant_scale": S},
    "int4": {"dtype": "int4", "group_size": 32, "scale_dtype": "float16"},
    "zero points": {"dtype": "int4", "symmetric": False},
    "codes": {"dtype": "int4", "group_size": 32, "activation": "int16"},
}


@pytest.mark.parametrize("in_out", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("kind", BIASED)
def test_weight_and_bias_of_a_dict_model_both_lie_in_the_file(kind: str, in_out: bool, tmp_path: Path) -> None:
    k = 256 if kind == "codes" else 257
    layer, x = oc.QuantLinear(W[:, :k], B, **BIASED[kind]), X[:, :k]  # type: ignore[arg-type]
    path = stored(tmp_path / "m", {"fc": layer})
    model = {"fc.weight": W[:, :k].T if in_out else W[:, :k], "fc.bias": B}
    found = oc.load(path, model, mmap="strict")
    matrix = found["fc.weight"]
    assert in_pages(path, matrix._layer._packed.image(OWN_FAMILY), found["fc.bias"])
    np.testing.assert_array_equal(found["fc.bias"], layer.bias)
    plain = oc.load(path, {"fc.weight": model["fc.weight"], "fc.bias": None})
    y = x @ (matrix if in_out else matrix.T)
    np.testing.assert_array_equal(y, x @ (plain["fc.weight"] if in_out else plain["fc.weight"].T))
    np.testing.assert_array_equal(y + B, layer(x))
    text = pickle.dumps(matrix)
    assert len(text) < 400
    again = pickle.loads(text)
    assert in_pages(path, again._layer._packed.image(OWN_FAMILY))
    for twin in (again, pickle.loads(pickle.dumps(again, 2)), pickle.loads(pickle.dumps(plain["fc.weight"]))):
        np.testing.assert_array_equal(x @ (twin if in_out else twin.T), y)
    assert plain["fc.bias"].flags.writeable


def test_table_whose_place_is_an_array_is_packed_anew_and_so_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "m", {"words": oc.QuantEmbedding(W), "small": oc.QuantEmbedding(W, dtype="int4")})
    model: dict[str, Any] = {"words.weight": W, "small.weight": W}
    with pytest.raises(ValueError, match=r"2 of its .* place, model.words.weight first: the model has an array there"):
        oc.load(path, model, mmap="strict")
    assert model["words.weight"] is W
    with pytest.warns(UserWarning, match=r"the table was packed as a matrix\. Save the model .*copied into memory"):
        oc.load(path, model, mmap=True)
    again = oc.load(stored(tmp_path / "n", model), mmap="strict")
    for name in ("words", "small"):
        found = again[f"{name}.weight"]
        assert in_pages(tmp_path / "n", found._layer._packed.image(OWN_FAMILY))
        np.testing.assert_array_equal(found.dequantize(), oc.load(path)[name].weight)


def test_array_of_another_dtype_is_converted_and_so_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "m", {"norm": B})
    model = {"norm": B.astype(np.float64)}
    with pytest.raises(ValueError, match=r"norm: the model has dtype float64, the file float32.*pass dtypes=\"file\""):
        oc.load(path, model, mmap="strict")
    with pytest.warns(UserWarning, match=r"norm first: it was converted from float32 to float64"):
        assert oc.load(path, dict(model), mmap=True)["norm"].dtype == np.float64
    found = oc.load(path, model, mmap="strict", dtypes="file")
    assert in_pages(path, found["norm"])


def test_bfloat16_becomes_float32_and_so_is_refused(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    path = stored(tmp_path / "m", {"norm": B.astype(ml_dtypes.bfloat16)})
    with pytest.raises(ValueError, match=r"1 of its layers and arrays .* model.norm first: NumPy has no bfloat16"):
        oc.load(path, mmap="strict")
    with pytest.warns(UserWarning, match="became float32"):
        assert oc.load(path, mmap=True)["norm"].dtype == np.float32


def test_array_that_another_tool_moved_off_its_items_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "m", {"a": np.ones(3, np.int8), "norm": B, "words": np.array(["a", "bc"])})
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])
    with pytest.raises(ValueError, match="multiple of its items' size: another tool rewrote the file"):
        oc.load(path, mmap="strict")
    with pytest.warns(UserWarning, match=r"2 of its layers and arrays cannot be used in place, model.words first"):
        found = oc.load(path, mmap=True)
    np.testing.assert_array_equal(found["norm"], B)
    assert found["words"].tolist() == ["a", "bc"]


def test_part_of_a_recurrent_layer_that_is_not_packed_is_refused(tmp_path: Path) -> None:
    oc.save({"rnn": every_layer()["lstm"]}, tmp_path / "m")
    with pytest.raises(ValueError, match=r"2 of its layers .*model.rnn.ih_l0 first: its weights are canonical"):
        oc.load(tmp_path / "m", mmap="strict")


# What a model holds only while it computes


def test_caches_are_neither_stored_nor_touched(tmp_path: Path) -> None:
    cache = oc.functional.KVCache(1, 64, 1, 16)
    cache.extend(1)
    cache[0].write(np.ones((1, 1, 16)), np.ones((1, 1, 16)))
    path = tmp_path / "m"
    oc.save({"fc": oc.QuantLinear(W), "cache": cache, "layer": cache[0]}, path)
    assert sorted(load_file(path)) == ["fc.scale", "fc.weight"]
    loaded = oc.load(path, {"fc": None, "cache": cache, "layer": cache[0]})
    assert loaded["cache"] is cache
    assert cache[0].keys().sum() == 16
    with pytest.raises(ValueError, match="holds no quantized layer and no array"):
        oc.save(cache, path)

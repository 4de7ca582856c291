"""`octavo.checkpoints.load`: weights to the bit, products by the definition on every kernel, models filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
import quantized_checkpoints as made
from defined import defined
from octavo._numerics.grouped_definition import grouped_linear
from octavo.checkpoints._convert import convert
from octavo.checkpoints._report import report
from quantized_checkpoints import FORMS, int8
from reference import assert_same_bits, hard_rows

F = np.float32


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_tools_formula(tmp_path: Path, form: str) -> None:
    write, shown = FORMS[form]
    tensors, config, weight = write()
    found = oc.checkpoints.load(made.folder(tmp_path, tensors | {"norm": np.ones(3, F)}, config))
    assert list(found) == ["fc", "norm"]
    layer = found["fc"]
    assert shown in repr(layer)
    assert isinstance(layer, oc.PermutedQuantLinear) == form.endswith("order")
    assert_same_bits(layer.weight, weight)
    assert (layer.bias is not None) == ("fc.bias" in tensors)
    if layer.bias is not None:
        np.testing.assert_array_equal(layer.bias, tensors["fc.bias"].astype(F))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_definition(tmp_path: Path, form: str, kernel: str) -> None:
    tensors, config, _ = FORMS[form][0]()
    folder = made.folder(tmp_path, tensors, config)
    for options in ({}, {"activation_group": None}, {"activation": "asymmetric"}):
        layer = oc.checkpoints.load(folder, **options)["fc"]
        x = hard_rows(6, layer.in_features)
        assert_same_bits(layer(x), defined(layer, x), f"{kernel} {options}")


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("gptq 4 v2", "int4, group_size=64, symmetric=False, scale_dtype=float16"),
        ("gptq 4 sym 64", "int4, group_size=64, scale_dtype=float16"),
        ("awq", "int4, group_size=32, symmetric=False"),
        ("packed 4", "int4, group_size=32"),
        ("packed 4 row", "int4, scale_dtype=float16"),
        ("packed 4 order", "int4, group_size=32"),
        ("gptq 4", "uint4, group_size=32, zero_point"),  # a zero point of 16, which int4 does not have
        ("gptq 8", "uint8, group_size=32, zero_point"),
    ],
)
@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_four_bits_beside_rows_are_held_as_int4(tmp_path: Path, form: str, shown: str, activation: Any) -> None:
    """They have a kernel of their own, which is faster than that of grouped codes."""
    tensors, config, weight = FORMS[form][0]()
    folder = made.folder(tmp_path, tensors, config)
    layer = oc.checkpoints.load(folder, activation=activation, activation_group=None)["fc"]
    assert f" {shown}" in repr(layer)
    assert_same_bits(layer.weight, weight)


def test_groups_beyond_those_of_grouped_codes_stay_whole_beside_rows(tmp_path: Path) -> None:
    tensors, config, weight = made.awq(40, 2048, 1024)
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config), activation_group=None)["fc"]
    assert layer.group_size == 1024
    assert_same_bits(layer.weight, weight)


@pytest.mark.parametrize(("k", "size"), [(512, 256), (2016, None), (4096, None)])
def test_zero_point_16_does_not_overflow(kernel: str, k: int, size: int | None) -> None:
    """The largest sums there are: 127 or -128 times -16, all of a group."""
    shape = (17, k // (size or k))
    w = oc.GroupedCodes(
        np.zeros((17, k), np.uint8), np.ones(shape, F), 4, size, zero_point=np.full(shape, 16, np.uint8)
    )
    for activation in ("symmetric", "asymmetric", "int16"):
        layer = oc.QuantLinear.from_grouped(w, activation=activation)
        x = np.full((3, k), -1, F)
        x[1] = 1
        x[2, ::2] = 0.3
        assert_same_bits(layer(x), grouped_linear(x, w, activation=activation))
    np.testing.assert_array_equal(oc.QuantLinear.from_grouped(w).zero_point, 16)
    with pytest.raises(ValueError, match=r"zero_point must hold 0\.\.16 with bits=4"):
        oc.GroupedCodes(w.codes, w.scale, 4, size, zero_point=np.full(shape, 17, np.uint8))


def test_bitsandbytes_has_the_same_integers_and_rounds_once(tmp_path: Path) -> None:
    tensors, config, theirs = made.bitsandbytes(40, 96)
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    np.testing.assert_array_equal(layer.int_repr(), tensors["fc.weight"])
    np.testing.assert_allclose(layer.weight, theirs, rtol=2.0**-22)
    differ = (layer.weight != theirs).mean()
    assert 0.1 < differ < 0.5  # in the last bit
    assert not layer.weight[1].any()


@pytest.mark.parametrize(
    ("weights", "shape", "shown"),
    [
        ({"strategy": "channel"}, (24, 1), "QuantLinear(64 -> 24, int8, activation=asymmetric)"),
        ({"strategy": "tensor"}, (1,), "QuantLinear(64 -> 24, int8, activation=asymmetric)"),
        ({"strategy": "group", "group_size": 32}, (24, 2), "QuantLinear(64 -> 24, int8, group_size=32, activ"),
    ],
    ids=["channel", "tensor", "group"],
)
def test_int_quantized_keeps_integers_and_activations(
    tmp_path: Path, weights: dict[str, Any], shape: tuple[int, ...], shown: str
) -> None:
    tensors = int8(24, 64, *shape)
    inputs = {"num_bits": 8, "dynamic": True, "symmetric": False, "strategy": "token"}
    config = made.scheme({"num_bits": 8} | weights, inputs, "int-quantized")
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    assert repr(layer).startswith(shown)
    scale = np.repeat(tensors["fc.weight_scale"].reshape(-1, shape[-1]), 64 // shape[-1], axis=1)
    assert_same_bits(layer.weight, tensors["fc.weight"] * np.broadcast_to(scale, (24, 64)))
    again = oc.checkpoints.load(tmp_path, activation="symmetric", activation_group=None)["fc"]
    assert again.activation == "symmetric"


def test_int_quantized_with_zero_points(tmp_path: Path) -> None:
    tensors = int8(24, 64, 24, 1) | {"fc.weight_zero_point": (np.arange(24)[:, None] - 12).astype(np.int8)}
    config = made.scheme({"num_bits": 8, "strategy": "channel", "symmetric": False}, None, "int-quantized")
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    integers = tensors["fc.weight"].astype(F) - tensors["fc.weight_zero_point"]
    assert_same_bits(layer.weight, integers * tensors["fc.weight_scale"])


def test_static_activations_make_static_layers(tmp_path: Path, kernel: str) -> None:
    tensors = int8(24, 64, 24, 1) | {"fc.input_scale": F([0.25]), "fc.input_zero_point": np.int8([-3])}
    inputs = {"num_bits": 8, "dynamic": False, "symmetric": False, "strategy": "tensor"}
    config = made.scheme({"num_bits": 8, "strategy": "channel"}, inputs, "int-quantized")
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    assert isinstance(layer, oc.StaticQuantLinear)
    x = np.random.default_rng(0).standard_normal((3, 64), dtype=F)
    assert (layer.input_qparams.scale, layer.input_qparams.zero_point) == (0.25, -3)
    np.testing.assert_array_equal(layer.int_repr(), tensors["fc.weight"])
    np.testing.assert_array_equal(layer.scale, tensors["fc.weight_scale"][:, 0])
    assert_same_bits(layer(x), defined(layer, x), kernel)
    dynamic = oc.checkpoints.load(tmp_path, activation="asymmetric")["fc"]
    assert type(dynamic) is oc.QuantLinear


def test_schemes_of_several_groups_are_told_by_names(tmp_path: Path) -> None:
    first, config, weight = made.compressed(16, 64, 4, 32)
    second, other, wide = made.compressed(16, 64, 8, 64, seed=1)
    tensors = first | {name.replace("fc", "model.down"): a for name, a in second.items()}
    group = other["config_groups"]["group_0"] | {"targets": [r"re:.*\.down$"]}
    config["config_groups"]["group_1"] = group
    found = oc.checkpoints.load(made.folder(tmp_path, tensors, config))
    assert_same_bits(found["fc"].weight, weight)
    assert_same_bits(found["model.down"].weight, wide)


def int_quantized(n: int, k: int, group: int | None = None, *, order: bool = False) -> Any:
    """(tensors of "fc", config, weights), of 8 bits; in groups and act-order, if asked for."""
    size = group or k
    q, scale = (made.integers(n, k, 8) - 128).astype(np.int8), made.scales(n, k // size)
    index = np.arange(k) // size
    tensors = {"fc.weight": q, "fc.weight_scale": scale}
    if order:
        np.random.default_rng(0).shuffle(index)
        tensors["fc.weight_g_idx"] = index.astype(np.int32)
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    config = made.scheme({"num_bits": 8, "symmetric": True} | strategy, None, "int-quantized")
    return tensors, config, q.astype(F) * scale.astype(F)[:, index]


@pytest.mark.parametrize("order", [False, True])
def test_int_quantized_in_groups_may_have_act_order(tmp_path: Path, order: bool) -> None:
    tensors, config, weight = int_quantized(16, 64, 32, order=order)
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    assert isinstance(layer, oc.PermutedQuantLinear) == order
    assert_same_bits(layer.weight, weight)
    assert convert(tmp_path, tmp_path / "out.octavo", verify=True).verified
    assert_same_bits(oc.load(tmp_path / "out.octavo")["fc"].weight, weight)


def test_one_zero_point_for_all_may_be_packed_as_it_is(tmp_path: Path) -> None:
    tensors, config, _ = made.compressed(16, 64, 4, None)
    step = tensors["fc.weight_scale"][0]
    config["config_groups"]["group_0"]["weights"] |= {"strategy": "tensor", "symmetric": False}
    tensors |= {"fc.weight_scale": step, "fc.weight_zero_point": np.int8([-3])}
    layer = oc.checkpoints.load(made.folder(tmp_path, tensors, config))["fc"]
    codes = made.integers(16, 64, 4)
    assert_same_bits(layer.weight, (codes - 5).astype(F) * step.astype(F))


@pytest.mark.parametrize(
    ("targets", "down", "up"),
    [
        ((["re:.*down$"], ["Linear"]), 0, 1),
        ((["Linear"], ["re:.*down$"]), 1, 0),
        ((["re:.*"], ["a.up"]), 0, 1),
        ((["Embedding"], ["Linear"]), 1, 1),
        ((["re:.*down$"], ["Custom"]), 0, 1),
        ((["re:.*down$"], ["b.up"]), 0, None),
    ],
)
def test_the_closest_target_wins(tmp_path: Path, targets: Any, down: int, up: int | None) -> None:
    """As in the library: names before patterns, and patterns before classes, whatever their order."""
    tensors, config, _ = int_quantized(16, 64)
    tensors = {name.replace("fc", layer): a for name, a in tensors.items() for layer in ("a.down", "a.up")}
    given, token = config["config_groups"]["group_0"], {"dynamic": True, "strategy": "token"}
    config["config_groups"] = {
        f"group_{i}": given | {"targets": targets[i], "input_activations": token | {"symmetric": bool(i)}}
        for i in range(2)
    }
    made.folder(tmp_path, tensors, config)
    if up is None:
        with pytest.raises(ValueError, match=r"no target of its config_groups means the layer 'a.up'"):
            oc.checkpoints.load(tmp_path)
        return
    found = oc.checkpoints.load(tmp_path)
    kinds = ("asymmetric", "symmetric")
    assert [found[name].activation for name in ("a.down", "a.up")] == [kinds[down], kinds[up]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_activations": {"num_bits": 4, "dynamic": True}},
            "group_0 quantizes x to int of 4 bits, octavo to int8",
        ),
        ({"input_activations": {"type": "float"}}, "group_0 quantizes x to float of 8 bits, octavo to int8"),
        ({"output_activations": {"num_bits": 8}}, "group_0 quantizes the results of layers, which octavo does not"),
    ],
)
def test_activations_that_octavo_lacks_are_warned_about(
    tmp_path: Path, change: Any, message: str, recwarn: pytest.WarningsRecorder
) -> None:
    tensors, config, _ = made.compressed(16, 64, 4, 32)
    tensors |= {name.replace("fc", "up"): a for name, a in tensors.items()}
    config["config_groups"]["group_0"] |= change
    made.folder(tmp_path, tensors, config)
    assert oc.checkpoints.load(tmp_path, activation="symmetric")["fc"].activation == "symmetric"
    assert not recwarn
    for call in (
        lambda: oc.checkpoints.load(tmp_path),
        lambda: convert(tmp_path, tmp_path / "out.octavo"),
        lambda: report(tmp_path),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_configs_may_hold_infinity(tmp_path: Path) -> None:
    """As Python writes the configs of Mamba, and those of models that hold such layers."""
    tensors, config, weight = made.awq(16, 64, 32)
    made.folder(tmp_path, tensors, config)
    (tmp_path / "config.json").write_text(json.dumps({"time_limit": [0, np.inf], "quantization_config": config}))
    assert_same_bits(oc.checkpoints.load(tmp_path)["fc"].weight, weight)


def test_auto_gives_groups_of_activations_beside_groups_of_weights(tmp_path: Path) -> None:
    tensors, config, _ = made.gptq(16, 128, 4, 64)
    made.folder(tmp_path, tensors, config)
    assert oc.checkpoints.load(tmp_path)["fc"].activation_group == 64
    assert oc.checkpoints.load(tmp_path, activation_group=128)["fc"].activation_group == 128
    assert oc.checkpoints.load(tmp_path, activation="int16")["fc"].activation_group is None


@pytest.mark.parametrize("file", ["config.json", "quantize_config.json"])
def test_configs_of_their_own_are_found(tmp_path: Path, file: str) -> None:
    tensors, config, weight = made.gptq(16, 64, 4, 32)
    del config["quant_method"]
    if file == "config.json":
        config["quant_method"] = "gptq"
    made.folder(tmp_path, tensors, config, file)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert_same_bits(oc.checkpoints.load(path)["fc"].weight, weight)


class Net:
    def __init__(self) -> None:
        self.fc = oc.nn.Linear(np.zeros((40, 128), F), np.zeros(40, F))
        self.norm = np.zeros(3, F)


@pytest.mark.parametrize("order", [False, True], ids=["plain", "order"])
def test_load_fills_a_model(tmp_path: Path, order: bool) -> None:
    tensors, config, weight = made.gptq(40, 128, 4, 32, order=order)
    names = {f"model.{name}": a for name, a in tensors.items()} | {"model.norm": np.ones(3, np.float16)}
    made.folder(tmp_path, names, config)
    net = oc.checkpoints.load(tmp_path, Net(), rename={"model.*": "*"}, progress=False)
    assert_same_bits(net.fc.weight, weight)
    assert net.norm.dtype == F
    untouched = Net()
    with pytest.raises(ValueError, match="does not match the model, which was not changed"):
        oc.checkpoints.load(tmp_path, untouched)
    assert type(untouched.fc) is oc.nn.Linear


def test_load_fills_a_dict_of_arrays(tmp_path: Path) -> None:
    tensors, config, weight = made.gptq(40, 128, 4, 32)
    params = {"fc.weight": np.zeros((40, 128), F), "fc.bias": np.zeros(40, F)}
    oc.checkpoints.load(made.folder(tmp_path, tensors, config), params)
    assert_same_bits(params["fc.weight"].dequantize(), weight)


def test_warnings_of_load_point_at_its_caller(tmp_path: Path) -> None:
    tensors, config, _ = made.gptq(40, 128, 4, 32)
    made.folder(tmp_path, tensors, config)
    with pytest.warns(UserWarning, match="missing from the file: other") as caught:
        oc.checkpoints.load(tmp_path, {"fc": None, "other": np.ones(3)}, strict=False)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("name", ["nowhere", "nowhere/model.safetensors", "x.safetensors.index.json"])
def test_load_says_that_a_path_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: .*{name}"):
        oc.checkpoints.load(tmp_path / name)


def test_octavo_load_names_the_function_that_reads_checkpoints_of_other_tools(tmp_path: Path) -> None:
    oc.checkpoints.save({"fc": oc.QuantLinear(np.eye(64, dtype=np.float32))}, tmp_path)
    with pytest.raises(ValueError, match=r"it is another tool's.*octavo\.checkpoints\.load"):
        oc.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="`octavo quantize` converts a float checkpoint"):
        oc.load(tmp_path)

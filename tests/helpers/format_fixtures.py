"""The models behind tests/data/*_v1 and *_v2.safetensors. As a script it writes the files: once a version, not again.

Every number comes from a formula, so that the files can be checked against it for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc

DATA = Path(__file__).parents[1] / "data"
F = np.float32


def integers(n: int, k: int, lo: int = -128, hi: int = 127) -> np.ndarray:
    """(n, k) int8 that take all values of lo..hi in turn."""
    return (np.arange(n * k) * 37 % (hi - lo + 1) + lo).astype(np.int8).reshape(n, k)


def powers(n: int) -> np.ndarray:
    """n scales 2**-4, 2**-5, 2**-6, 2**-4, ... as float32."""
    return (F(2.0) ** -(4 + np.arange(n) % 3)).astype(F)


def rows(k: int) -> np.ndarray:
    """Two rows of activations that int8 holds exactly: the largest is 127."""
    x = (np.arange(2 * k) * 11 % 255 - 127).astype(F).reshape(2, k)
    x[:, 0] = 127
    return x


def int8_model() -> dict[str, Any]:
    bias = np.arange(5, dtype=F) / 4
    hidden = oc.QuantLinear.from_quantized(integers(5, 7), powers(5), bias, relu=True)
    out = oc.QuantLinear.from_quantized(integers(3, 5), powers(3), activation="asymmetric", call="predict")
    arrays = {name: np.array([0, 1, 1, 0], name) for name in ("bool", "uint8", "int64", "float16", "float64")}
    return {"blocks": [hidden, (out, hidden)], "table": np.arange(6, dtype=F).reshape(2, 3), "arrays": arrays}


def static_model() -> list[Any]:
    signed = oc.QParams(1.0, 0, "int8")
    unsigned = oc.QParams(8.0, 3, "uint8", qmin=1, qmax=200)
    first = oc.StaticQuantLinear(integers(4, 6), powers(4), input=signed, output=unsigned, relu=True, name="model[1]")
    second = oc.StaticQuantLinear(integers(2, 4), powers(2), F([1, -1]), input=unsigned, name="model[2]")
    per_row = oc.QParams([0.5, 0.25], [1, -1], "int8", axis=0)
    held = oc.QuantizedArray(np.array([[1, 2], [3, 4]], np.int8), per_row)
    return [oc.Quantize(signed, name="model[0]"), first, second, oc.DeQuantStub(), held, per_row]


def int4_model() -> dict[str, oc.QuantLinear]:
    """Groups of 32 with scales of both signs, the last group short; zero points, float16 scales and an odd row."""
    signs = np.where(np.arange(12) % 2, F(1), F(-1)).reshape(4, 3)
    grouped = oc.GroupedWeight(integers(4, 70, -8, 7), signs * powers(12).reshape(4, 3), None, 32)
    zero_point = (np.arange(6) - 3).astype(np.int8).reshape(3, 2)
    odd = oc.GroupedWeight(integers(3, 45, -8, 7), powers(6).reshape(3, 2), zero_point, 32, "float16")
    whole = oc.GroupedWeight(integers(2, 5, -8, 7), powers(2).reshape(2, 1))
    return {
        "grouped": oc.QuantLinear.from_grouped(grouped, np.arange(4, dtype=F), relu=True),
        "odd": oc.QuantLinear.from_grouped(odd, activation="asymmetric", call="predict"),
        "whole": oc.QuantLinear.from_grouped(whole),
    }


def grouped_model() -> dict[str, oc.QuantLinear | oc.QuantMatrix]:
    """Every kind of parameter of grouped codes, and every kind of activation."""
    unsigned, eights = integers(3, 256, 0, 15).view(np.uint8), integers(3, 256)
    half = powers(6).reshape(3, 2).astype(np.float16)
    levels, minima = integers(3, 16, -100, 100), integers(3, 8, 0, 63).view(np.uint8)
    plain = oc.GroupedCodes(eights, half, 8, 128)
    minimum = oc.GroupedCodes(unsigned, half, 4, 128, minimum=-half)
    zero_point = oc.GroupedCodes(unsigned, powers(6).reshape(3, 2), 4, 128, zero_point=np.uint8([[3, 4]] * 3))
    row = oc.GroupedCodes(integers(2, 7, -8, 7), powers(2).reshape(2, 1), 4)
    two = oc.GroupedCodes(eights, half[:, :1], 8, 16, group_scale=levels)
    both = oc.GroupedCodes(
        unsigned, half[:, :1], 4, 32, minimum=half[:, 1:], group_scale=minima, group_minimum=minima[::-1].copy()
    )
    return {
        "plain": oc.QuantLinear.from_grouped(plain, np.arange(3), activation_group=128, relu=True),
        "minimum": oc.QuantMatrix.from_grouped(minimum, axis=0, activation="int16"),
        "zero_point": oc.QuantLinear.from_grouped(zero_point, activation="asymmetric", call="predict"),
        "row": oc.QuantLinear.from_grouped(row, activation="int16"),
        "two": oc.QuantMatrix.from_grouped(two, axis=1),
        "both": oc.QuantLinear.from_grouped(both, activation_group=256),
    }


def planes_model() -> dict[str, oc.QuantLinear | oc.QuantMatrix]:
    """Codes of five and six bits, as GGUF files have them, and rows that end within a byte."""
    half = powers(6).reshape(3, 2).astype(np.float16)
    levels, minima = integers(3, 16, -100, 100), integers(3, 8, 0, 63).view(np.uint8)
    five = integers(3, 256, 0, 31).view(np.uint8)
    both = oc.GroupedCodes(
        five, half[:, :1], 5, 32, minimum=half[:, 1:], group_scale=minima, group_minimum=minima[::-1].copy()
    )
    six = oc.GroupedCodes(integers(3, 256, -32, 31), half[:, :1], 6, 16, group_scale=levels)
    return {
        "both": oc.QuantLinear.from_grouped(both, np.arange(3), activation_group=256),
        "six": oc.QuantMatrix.from_grouped(six, axis=1),
        "minimum": oc.QuantLinear.from_grouped(oc.GroupedCodes(five, half, 5, 128, minimum=-half), relu=True),
        "row": oc.QuantLinear.from_grouped(oc.GroupedCodes(integers(2, 7, -16, 15), powers(2).reshape(2, 1), 5)),
        "odd": oc.QuantLinear.from_grouped(oc.GroupedCodes(integers(2, 5, -32, 31), powers(2).reshape(2, 1), 6)),
    }


def text_model() -> dict[str, np.ndarray]:
    """Text of every kind: code points, bytes and objects; empty, and without an axis."""
    return {
        "classes_": np.array(["cat", "", "b\u00e4r \U0001f43b"]),
        "bytes": np.array([[b"a", b"bc"], [b"", b"def"]]),
        "objects": np.array(["yes", "no"], object),
        "one": np.array("x"),
        "none": np.zeros((0, 2), "U3"),
    }


def static_matrix_model() -> dict[str, Any]:
    """Matrices with an input that was calibrated, of both layouts, and one that is quantized at each call."""
    layers = [
        oc.StaticQuantLinear(integers(4, 6), powers(4), input=oc.QParams(1.0, 0, "int8"), name="w"),
        oc.StaticQuantLinear(integers(3, 5), powers(3), input=oc.QParams(0.5, 3, "uint8"), name="t"),
    ]
    dynamic = oc.QuantMatrix._made(oc.QuantLinear.from_quantized(integers(2, 3), powers(2)), 1)
    return {"w": oc.QuantMatrix._made(layers[0], 1), "t": oc.QuantMatrix._made(layers[1], 0), "dynamic": dynamic}


def pre_quant_scale_model() -> dict[str, Any]:
    """Layers and a matrix that scale their inputs."""
    four = oc.GroupedWeight(integers(3, 64, -8, 7), powers(6).reshape(3, 2), None, 32)
    eight = oc.QuantLinear.from_quantized(integers(4, 6), powers(4), np.arange(4, dtype=F), pre_quant_scale=powers(6))
    static = oc.StaticQuantLinear(
        integers(3, 5), powers(3), input=oc.QParams(0.5, 3, "uint8"), pre_quant_scale=powers(5), name="static"
    )
    return {
        "eight": eight,
        "four": oc.QuantLinear.from_grouped(four, activation="asymmetric", pre_quant_scale=powers(64)),
        "static": static,
        "matrix": oc.QuantMatrix(np.eye(5, dtype=F), pre_quant_scale=powers(5)),
    }


def rotation_model() -> dict[str, Any]:
    """Layers and a matrix that rotate their inputs, one of them behind a scale."""
    four = oc.GroupedWeight(integers(3, 64, -8, 7), powers(6).reshape(3, 2), None, 32)
    eight = oc.QuantLinear.from_quantized(integers(4, 32), powers(4), pre_quant_scale=powers(32), rotation=16)
    return {
        "eight": eight,
        "four": oc.QuantLinear.from_grouped(four, np.arange(3, dtype=F), rotation=64),
        "matrix": oc.QuantMatrix(np.eye(16, dtype=F), rotation=16),
    }


def permuted_model() -> dict[str, oc.PermutedQuantLinear]:
    """A layer whose inputs stand in another order."""
    inner = oc.QuantLinear.from_quantized(integers(3, 5), powers(3), np.arange(3, dtype=F))
    return {"fc": oc.PermutedQuantLinear(inner, [3, 0, 4, 2, 1])}


def epilogue_model() -> dict[str, Any]:
    made = oc.QuantLinear.from_quantized(integers(5, 7), powers(5), np.arange(5, dtype=F) / 4, epilogue="gelu")
    weight = oc.GroupedWeight(integers(2, 5, -8, 7), powers(2).reshape(2, 1))
    return {"int8": made, "int4": oc.QuantLinear.from_grouped(weight, epilogue="tanh")}


MODELS_V2 = {
    "epilogue": epilogue_model,
    "grouped": grouped_model,
    "permuted": permuted_model,
    "planes": planes_model,
    "text": text_model,
    "static_matrix": static_matrix_model,
    "pre_quant_scale": pre_quant_scale_model,
    "rotation": rotation_model,
}
PACKED = ("x86", "arm")  # families: each a file of the same model


def packed_model() -> dict[str, Any]:
    """Weights of every format in the packed layout, and what lies beside them."""
    table = oc.QuantEmbedding._from_quantized(integers(6, 5), powers(6))
    return {**int4_model(), "int8": int8_model()["blocks"], "codes": grouped_model(), "table": table, "a": np.arange(3)}


MODELS = {"int8": int8_model, "static": static_model, "int4": int4_model}


def file(name: str, version: int = 1) -> Path:
    return DATA / f"{name}_v{version}.safetensors"


if __name__ == "__main__":
    for family in PACKED:
        if not file(f"packed_{family}", 2).exists():
            oc.save(packed_model(), file(f"packed_{family}", 2), layout=family)
    if not file("packed_planes", 2).exists():  # panels of grouped codes are the same for every family
        oc.save(planes_model(), file("packed_planes", 2), layout="x86")
    for version, models in ((1, MODELS), (2, MODELS_V2)):
        for name, make in models.items():
            if not file(name, version).exists():
                oc.save(make(), file(name, version))

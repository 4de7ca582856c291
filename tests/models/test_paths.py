"""paths: one spelling of the way to what a model holds, and what else is understood."""

from __future__ import annotations

import numpy as np
import pytest

import octavo as oc
from octavo._models.paths import canonical, dotted, find, is_within, joined, label, matches, steps
from octavo._models.walk import walk

SPELLINGS = [
    (["layers", "0", "weight"], "layers.0.weight", "layers[0].weight"),
    (["fc.weight"], "['fc.weight']", '["fc.weight"]'),
    (["heads", "fc.weight", "b"], "heads['fc.weight'].b", "['heads']['fc.weight']['b']"),
    (["", "x"], "[''].x", "['']['x']"),
    (["it's"], "it's", '["it\'s"]'),
    (["it's.a"], '["it\'s.a"]', "['it\\'s.a']"),
    (["a\"'."], "['a\"\\'.']", "['a\"\\'.']"),
    (["b[0]", "w"], "['b[0]'].w", "['b[0]']['w']"),
    (["back\\slash.", "\n."], "['back\\\\slash.']['\\n.']", "['back\\\\slash.']['\\n.']"),
    (["rows", "0, 1"], "rows[0, 1]", "rows[0, 1]"),
    (["a b", "3"], "a b.3", "['a b'][3]"),
    (["{}"], "['{}']", "['{}']"),
    ([], "", ""),
]


@pytest.mark.parametrize(("texts", "path", "other"), SPELLINGS, ids=[repr(path) for _, path, _ in SPELLINGS])
def test_canonical_is_the_one_spelling_of_every_other(texts: list[str], path: str, other: str) -> None:
    built = ""
    for text in texts:
        built = joined(built, text)
    assert built == canonical(other) == canonical(path) == path
    assert steps(path) == steps(other) == texts
    assert dotted(path) == ".".join(text or "['']" for text in texts)


def test_walk_spells_every_kind_of_key() -> None:
    table = np.array([[None, []]], object)
    model = {"a.b": [{}], 3: {"x y": []}, "": [], None: [], 1.5: [], (1, 2): [], "{}": {frozenset()}, "t": table}
    assert [path for path, _ in walk(model)] == [
        "", "['a.b']", "['a.b'].0", "3", "3.x y", "['']", "None", "['1.5']", "(1, 2)", "['{}']", "t", "t[0, 1]",
        "['{}'].{}",
    ]  # fmt: skip


def test_label_spells_what_messages_show() -> None:
    assert [label(path) for path in ("", "a.0", "['a.b'].c")] == ["model", "model.a.0", "model['a.b'].c"]


def test_find_takes_brackets_and_dots_but_prefers_the_exact_path() -> None:
    known = ["a.b", "['a.b']", "['c.d'].e"]
    assert find("a[b]", known) == find("['a']['b']", known) == "a.b"
    assert find("['a.b']", known) == "['a.b']"
    assert find("c.d.e", known) == "['c.d'].e"
    assert find("c.d", known) is None


@pytest.mark.parametrize("name", ["a", "a.b", "a['b.c']", "a.b.c", "['a']['b.c']"])
def test_is_within_takes_every_spelling(name: str) -> None:
    path = "a.b" if name == "a.b" else "a['b.c']"
    assert is_within(path, name)
    assert is_within(joined(path, 0), name)
    assert not is_within("ab", name)


@pytest.mark.parametrize("pattern", ["l*.w", "['layer.0'].w", "layer.0.w", "layer.?.w", "*.w", "['layer.*'].w"])
def test_matches_takes_every_spelling(pattern: str) -> None:
    assert matches("['layer.0'].w", pattern)
    assert not matches("['layer.0'].v", pattern)


def test_flat_dict_is_selected_by_its_keys() -> None:
    weights = {f"h.{i}.fc.weight": np.ones((64, 64), np.float32) for i in range(2)}
    quantized = oc.quantize_dynamic(weights, arrays=["h.0.*"])
    assert [type(value).__name__ for value in quantized.values()] == ["QuantMatrix", "ndarray"]
    with pytest.raises(ValueError, match=r"model\['h\.0\.fc\.weight'\] cannot be quantized: fewer than 9999 elements"):
        oc.quantize_dynamic(weights, arrays="h.0.fc.weight", min_size=9999)


def test_functions_that_take_paths_take_brackets() -> None:
    model = oc.nn.Sequential(oc.nn.Linear.init(4, 4), oc.nn.Linear.init(4, 2))
    x = np.ones((2, 4), np.float32)
    prepared = oc.prepare(model, {"": oc.default_qconfig, "layers[1]": None}, layers={oc.nn.Linear})
    oc.calibrate(prepared, [x])
    given = oc.QParams(0.5, 0, "uint8")
    for name in ("layers.0", "layers[0]", "['layers'][0]"):
        assert oc.convert(prepared, qparams={name: {"input": given}})[0].input_qparams == given
    trained = oc.prepare_qat(model, oc.default_qat_qconfig, layers={oc.nn.Linear})
    oc.qat.set_parameters(trained, {"layers[1].bias": np.float32([1, 2])})
    np.testing.assert_array_equal(oc.qat.parameters(trained)["layers.1.bias"], [1, 2])

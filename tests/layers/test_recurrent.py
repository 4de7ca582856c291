"""LSTM and GRU, float and quantized: against a literal loop in float64, against torch, and against themselves."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo import nn
from octavo._numerics import gates

F = np.float32
FLOAT = {"LSTM": nn.LSTM, "GRU": nn.GRU}
QUANT = {"LSTM": oc.QuantLSTM, "GRU": oc.QuantGRU}
KIND = pytest.mark.parametrize("kind", ["LSTM", "GRU"])

CONFIGS = {
    "one-layer": {},
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "three-layers": {"num_layers": 3},
    "everything": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}
CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0, dtype: Any = F) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(dtype)


def init(kind: str, inputs: int = 6, hidden: int = 5, **config: Any) -> Any:
    return FLOAT[kind].init(inputs, hidden, rng=rng(7), **config)


def state_of(layer: Any, batch: int | None, seed: int = 3) -> Any:
    directions = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (directions, layer.hidden_size) if batch is None else (directions, batch, layer.hidden_size)
    h, c = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    return (h, c) if isinstance(layer, nn.LSTM | oc.QuantLSTM) else h


def as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


# The literal loop


def literal(layer: Any, x: np.ndarray, state: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Unit by unit in float64; x (steps, batch, in), states (directions, batch, hidden)."""
    w = {name: value.astype(np.float64) for name, value in layer.weights.items()}
    hidden = layer.hidden_size
    zero = np.zeros(layer.gates * hidden)
    states = [s.astype(np.float64).copy() for s in as_tuple(state)]
    x = x.astype(np.float64)
    per_layer = 2 if layer.bidirectional else 1
    for k in range(layer.num_layers):
        y = np.zeros((*x.shape[:2], per_layer * hidden))
        for i in range(per_layer):
            d = f"l{k}" + ("_reverse" if i else "")
            for row in range(x.shape[1]):
                h = states[0][k * per_layer + i, row]
                c = states[-1][k * per_layer + i, row]
                for t in range(len(x))[:: -1 if i else 1]:
                    a = w[f"weight_ih_{d}"] @ x[t, row] + w.get(f"bias_ih_{d}", zero)
                    b = w[f"weight_hh_{d}"] @ h + w.get(f"bias_hh_{d}", zero)
                    h, c = literal_step(layer.gates, a.reshape(-1, hidden), b.reshape(-1, hidden), h, c)
                    y[t, row, i * hidden : (i + 1) * hidden] = h
                states[-1][k * per_layer + i, row] = c
                states[0][k * per_layer + i, row] = h
        x = y
    return x, states


def literal_step(gate_count: int, a: np.ndarray, b: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[Any, Any]:
    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    if gate_count == 4:
        i, f, o = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1]), sigmoid(a[3] + b[3])
        c = f * c + i * np.tanh(a[2] + b[2])
        return o * np.tanh(c), c
    r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
    h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
    return h, h


@KIND
@CONFIG
def test_float_layer_is_the_literal_loop(kind: str, config: dict[str, Any]) -> None:
    layer = init(kind, **config)
    x, state = normal(4, 3, 6), state_of(layer, 3)
    given = x.swapaxes(0, 1) if layer.batch_first else x
    y, after = layer(given, state)
    expected, expected_states = literal(layer, x, state)
    np.testing.assert_allclose(y.swapaxes(0, 1) if layer.batch_first else y, expected, atol=2e-6)
    for got, want in zip(as_tuple(after), expected_states, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)
        assert got.dtype == y.dtype == F


@pytest.mark.slow
@KIND
@CONFIG
@pytest.mark.parametrize("options", [{}, {"activation": "asymmetric"}, {"dtype": "int4", "group_size": 32}], ids=str)
def test_quantized_layer_is_near_the_literal_loop_over_its_weights(
    kind: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    layer = QUANT[kind].from_float(init(kind, 40, 70, **config), **options)
    x, state = normal(9, 3, 40), state_of(layer, 3)
    y, after = layer(x.swapaxes(0, 1) if layer.batch_first else x, state)
    expected, expected_states = literal(layer, x, state)
    np.testing.assert_allclose(y.swapaxes(0, 1) if layer.batch_first else y, expected, atol=0.02)
    for got, want in zip(as_tuple(after), expected_states, strict=True):
        np.testing.assert_allclose(got, want, atol=0.03)


@pytest.mark.slow
@KIND
@CONFIG
def test_quantized_layer_is_the_definition_to_the_bit(kind: str, config: dict[str, Any]) -> None:
    layer = QUANT[kind].from_float(init(kind, 40, 33, **config))
    x, state = normal(150, 2, 40), state_of(layer, 2)
    y, after = layer(x.swapaxes(0, 1) if layer.batch_first else x, state)
    h, c = [list(s) for s in (as_tuple(state) * 2)[:2]]
    part = x
    for k in range(layer.num_layers):
        outputs = []
        for i in range(2 if layer.bidirectional else 1):
            at = k * (2 if layer.bidirectional else 1) + i
            d = f"l{k}" + ("_reverse" if i else "")
            inputs, recurrent = layer._layers[f"ih_{d}"], layer._layers[f"hh_{d}"]
            steps = np.empty((150, 2, 33), F)
            for t in range(150)[:: -1 if i else 1]:
                a, b = inputs(np.ascontiguousarray(part[t])), recurrent(np.ascontiguousarray(h[at]))
                if kind == "LSTM":
                    h[at], c[at] = gates.lstm_cell(a, b, c[at])
                else:
                    h[at] = gates.gru_cell(a, b, h[at])
                steps[t] = h[at]
            outputs.append(steps)
        part = np.concatenate(outputs, axis=-1)
    np.testing.assert_array_equal(y.swapaxes(0, 1) if layer.batch_first else y, part)
    for got, want in zip(as_tuple(after), (h, c), strict=False):
        np.testing.assert_array_equal(got, np.stack(want))


# torch


@KIND
@CONFIG
@pytest.mark.parametrize("batch", [3, None], ids=["batched", "unbatched"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zero-state", "given-state"])
def test_layers_against_torch(kind: str, config: dict[str, Any], batch: int | None, given_state: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(48, 64, **config).eval()
    arrays = {f"rnn.{name}": value.numpy() for name, value in theirs.state_dict().items()}
    shape = (10, 48) if batch is None else (batch, 10, 48) if config.get("batch_first") else (10, batch, 48)
    x = normal(*shape)
    options = {"prefix": "rnn.", "batch_first": config.get("batch_first", False)}
    ours, quantized = FLOAT[kind](arrays, **options), QUANT[kind](arrays, **options)
    state = state_of(ours, batch) if given_state else None
    as_torch = None if state is None else tuple(torch.from_numpy(s) for s in as_tuple(state))
    with torch.no_grad():
        y, after = theirs(torch.from_numpy(x), as_torch[0] if as_torch and kind == "GRU" else as_torch)
    for layer, tolerance in ((ours, 2e-6), (quantized, 0.02)):
        got, got_after = layer(x, state)
        np.testing.assert_allclose(got, y.numpy(), atol=tolerance)
        for g, want in zip(as_tuple(got_after), as_tuple(after), strict=True):
            assert g.shape == tuple(want.shape)
            np.testing.assert_allclose(g, want.numpy(), atol=2 * tolerance)


# Against themselves, to the bit


@KIND
@CONFIG
def test_row_of_a_batch_is_the_row_alone(kind: str, config: dict[str, Any]) -> None:
    layer = QUANT[kind].from_float(init(kind, 20, 33, **config))
    x, state = normal(7, 18, 20), state_of(layer, 18)
    y, after = layer(x.swapaxes(0, 1) if layer.batch_first else x, state)
    for row in (0, 1, 17):
        alone = tuple(s[:, row] for s in as_tuple(state))
        y_alone, after_alone = layer(x[:, row], alone if kind == "LSTM" else alone[0])
        np.testing.assert_array_equal(y_alone, y[row] if layer.batch_first else y[:, row])
        for whole, one in zip(as_tuple(after), as_tuple(after_alone), strict=True):
            np.testing.assert_array_equal(whole[:, row], one)


@KIND
@pytest.mark.parametrize("config", [CONFIGS["one-layer"], CONFIGS["three-layers"]], ids=["one-layer", "three-layers"])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_two_parts_with_the_state_handed_on_are_the_whole(kind: str, config: dict[str, Any], quantized: bool) -> None:
    layer = init(kind, 20, 33, **config)
    layer = QUANT[kind].from_float(layer) if quantized else layer
    x = normal(11, 3, 20)
    whole, after = layer(x)
    first, state = layer(x[:4])
    second, state = layer(x[4:], state)
    check = np.testing.assert_array_equal if quantized else np.testing.assert_allclose
    options = {} if quantized else {"rtol": 1e-5, "atol": 1e-6}
    check(np.concatenate([first, second]), whole, **options)
    for got, want in zip(as_tuple(state), as_tuple(after), strict=True):
        check(got, want, **options)


@KIND
def test_long_sequences_are_run_in_pieces_to_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo._layers import recurrent

    layer = QUANT[kind].from_float(init(kind, 8, 16, bidirectional=True))
    x = normal(50, 3, 8)
    results = []
    for size in (1, 4 * 3 * 16 * 4 * 7, 1 << 30):  # a step, a few steps, all at once
        monkeypatch.setattr(recurrent, "_CHUNK_BYTES", size)
        y, after = layer(x)
        results.append((y, *as_tuple(after)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@KIND
def test_bits_do_not_depend_on_kernel_or_threads(kind: str, kernel: str, threads: int) -> None:
    layer = QUANT[kind].from_float(init(kind, 64, 96))
    x = normal(5, 40, 64)
    y = layer(x)[0]
    with oc.use_kernel("scalar"):
        np.testing.assert_array_equal(layer(x)[0], y)


@KIND
def test_nan_stays_in_its_row(kind: str) -> None:
    layer = QUANT[kind].from_float(init(kind))
    x = normal(6, 3, 6)
    clean = layer(x)[0]
    x[2, 1, 3] = np.nan
    y, after = layer(x)
    assert np.isnan(y[2:, 1]).all()
    np.testing.assert_array_equal(y[:, [0, 2]], clean[:, [0, 2]])
    np.testing.assert_array_equal(y[:2], clean[:2])
    assert np.isnan(as_tuple(after)[0][:, 1]).all()


# Shapes and dtypes


@KIND
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (1, 1)])
def test_empty_and_single(kind: str, quantized: bool, steps: int, batch: int) -> None:
    layer = init(kind, bidirectional=True, num_layers=2)
    layer = QUANT[kind].from_float(layer) if quantized else layer
    state = state_of(layer, batch)
    y, after = layer(np.zeros((steps, batch, 6), F), state)
    assert y.shape == (steps, batch, 10)
    for got, want in zip(as_tuple(after), as_tuple(state), strict=True):
        assert got.shape == want.shape
        if steps == 0:
            np.testing.assert_array_equal(got, want)


@KIND
def test_state_that_was_given_is_not_changed(kind: str) -> None:
    for layer in (init(kind), QUANT[kind].from_float(init(kind))):
        state = state_of(layer, 3)
        before = copy.deepcopy(state)
        layer(normal(4, 3, 6), state)
        for got, want in zip(as_tuple(state), as_tuple(before), strict=True):
            np.testing.assert_array_equal(got, want)


@KIND
@pytest.mark.parametrize(
    ("dtype", "result"), [(np.float16, np.float16), (np.float64, np.float64), (np.int64, F), (">f4", F)]
)
def test_dtype_of_the_result(kind: str, dtype: Any, result: Any) -> None:
    layer = QUANT[kind].from_float(init(kind))
    x = (4 * normal(4, 3, 6)).astype(dtype)
    y, after = layer(x)
    assert y.dtype == result
    assert all(s.dtype == result for s in as_tuple(after))
    single = layer(x.astype(F))[0]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, single.astype(result))


@KIND
def test_state_is_called_hx_as_in_torch(kind: str) -> None:
    layer, x = QUANT[kind].from_float(init(kind)), normal(4, 3, 6)
    _, after = layer(x)
    for a, b in zip(as_tuple(layer(x, hx=after)[1]), as_tuple(layer(x, after)[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@KIND
def test_memory_order_does_not_matter(kind: str) -> None:
    layer = QUANT[kind].from_float(init(kind, bidirectional=True, batch_first=True))
    x = normal(3, 4, 6)
    y = layer(x)[0]
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2], x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(layer(other)[0], y)


# Models


class Tagger:
    """An embedding, a recurrent layer and a linear one."""

    def __init__(self, kind: str) -> None:
        self.embedding = nn.Embedding.init(50, 24, rng=rng(1))
        self.rnn = FLOAT[kind].init(24, 32, bidirectional=True, batch_first=True, rng=rng(2))
        self.head = nn.Linear.init(64, 5, rng=rng(3))

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self.head(self.rnn(self.embedding(ids))[0])


@KIND
@pytest.mark.parametrize("options", [{}, {"dtype": "int4", "group_size": 32}], ids=["int8", "int4"])
def test_quantize_dynamic_replaces_recurrent_layers_and_embeddings(kind: str, options: dict[str, Any]) -> None:
    model = Tagger(kind)
    quantized = oc.quantize_dynamic(model, {nn.Embedding, FLOAT[kind], nn.Linear}, **options)
    assert type(model.rnn) is FLOAT[kind]
    assert type(quantized.rnn) is QUANT[kind]
    assert type(quantized.embedding) is oc.QuantEmbedding
    assert type(quantized.head) is oc.QuantLinear
    assert quantized.rnn.batch_first
    assert quantized.rnn.dtype == quantized.embedding.dtype == oc.as_qtype(options.get("dtype", "int8"))
    ids = rng().integers(0, 50, (3, 7))
    np.testing.assert_allclose(quantized(ids), model(ids), atol=0.02 if not options else 0.4)
    float_bytes = sum(w.nbytes for w in model.rnn.weights.values())
    assert quantized.rnn.nbytes < float_bytes * 0.6  # padding counts at this size
    reports: list[Any] = []
    same = oc.quantize_dynamic(model, {FLOAT[kind]}, inplace=True, report=reports.append)
    rest = [("embedding.weight", "float"), ("head.weight", "float"), ("head.bias", "float")]
    assert [(e.path, e.became) for e in reports[0].entries] == [("rnn", "int8"), *rest]
    assert reports[0].entries[0].bytes_before == float_bytes
    assert same is model
    assert type(model.rnn) is QUANT[kind]
    assert type(model.embedding) is nn.Embedding


def test_quantize_dynamic_names_the_layer_that_it_refuses() -> None:
    model = Tagger("LSTM")
    model.rnn.weights["weight_hh_l0_reverse"][3, 4] = np.nan
    with pytest.raises(ValueError, match=r"model\.rnn \(LSTM\): weight_hh_l0_reverse, .* finite, got 1 of .*\[3, 4\]"):
        oc.quantize_dynamic(model, {nn.LSTM})
    assert type(model.rnn) is nn.LSTM


def test_prepare_refuses_recurrent_layers() -> None:
    with pytest.raises(
        ValueError, match=r"linear layers and arrays alone, got Embedding, LSTM in layers; quantize_dynamic"
    ):
        oc.prepare(Tagger("LSTM"), oc.default_qconfig, layers={nn.LSTM, nn.Embedding, nn.Linear})


def test_compare_leaves_out_the_inside_of_recurrent_layers() -> None:
    model = Tagger("GRU")
    quantized = oc.quantize_dynamic(model, {nn.Embedding, nn.GRU, nn.Linear})
    rows = oc.compare(model, quantized, rng().integers(0, 50, (3, 7))).rows
    assert [row.path for row in rows] == ["head", "(result)"]


@KIND
def test_pickles_and_copies_keep_every_bit(kind: str) -> None:
    for options in ({}, {"dtype": "int4", "symmetric": False, "scale_dtype": "float16"}):
        layer = QUANT[kind].from_float(init(kind, 20, 33, bidirectional=True, batch_first=True), **options)
        x = normal(3, 4, 20)
        y = layer(x)[0]
        for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer)):
            np.testing.assert_array_equal(other(x)[0], y)
            assert repr(other) == repr(layer)
            assert other.nbytes == layer.nbytes


def test_pickle_of_another_format_is_refused() -> None:
    restore, (kind, state) = oc.QuantGRU.from_float(init("GRU")).__reduce__()
    with pytest.raises(ValueError, match="this QuantGRU was pickled with format 9, this octavo reads 1"):
        restore(kind, state | {"version": 9})


def test_weights_are_those_of_the_products() -> None:
    layer = init("LSTM", 20, 33)
    quantized = oc.QuantLSTM.from_float(layer)
    assert quantized.weights.keys() == layer.weights.keys()
    for name, value in quantized.weights.items():
        exact = name.startswith("bias")
        step = 0 if exact else np.abs(layer.weights[name]).max(axis=1, keepdims=True) / 127
        assert (np.abs(value - layer.weights[name]) <= 0.5001 * step).all()


# Bad input


def test_layer_needs_consistent_arrays() -> None:
    arrays = init("LSTM", num_layers=2, bidirectional=True).weights
    for cls in (nn.LSTM, oc.QuantLSTM):

        def refuses(
            message: str, error: type[Exception] = ValueError, *, prefix: str = "", cls: Any = cls, **changed: Any
        ) -> None:
            given = {name: v for name, v in (arrays | changed).items() if v is not None}
            with pytest.raises(error, match=message):
                cls(given, prefix=prefix)

        refuses(r"must hold weight_hh_l1, as other names call for it", weight_hh_l1=None)
        refuses(r"must hold bias_ih_l0_reverse", bias_ih_l0_reverse=None)
        refuses(r"must hold weight_ih_l2", weight_ih_l3=np.ones((20, 10)))
        refuses(r"no weight_ih_l0", weight_ih_l0=None)
        refuses(r"unknown names \['fc\.weight'\]", **{"fc.weight": np.ones((2, 2))})
        refuses(r"projection of an LSTM with proj_size, which is not supported", weight_hr_l0=np.ones((3, 5)))
        refuses(r"prefix='rnn\.'; got no weight_ih_l0; weight_ih_l0 is there with prefix=''", prefix="rnn.")
        refuses(
            r"weight_hh_l0 must have shape \(4 \* hidden_size, hidden_size\), got \(20, 4\)",
            weight_hh_l0=np.ones((20, 4)),
        )
        refuses(r"weight_hh_l0 must have shape .*, got \(20,\)", weight_hh_l0=np.ones(20))
        refuses(r"weight_ih_l0 must have shape \(20, input_size\), got \(20, 6, 1\)", weight_ih_l0=np.ones((20, 6, 1)))
        refuses(
            r"weight_ih_l1 must have shape \(20, 10\) to fit the other weights, got \(20, 5\)",
            weight_ih_l1=np.ones((20, 5)),
        )
        refuses(r"bias_hh_l0 must have shape \(20,\)", bias_hh_l0=np.ones(21))
        refuses(
            r"bias_hh_l0 must hold real numbers .* of dtype <U1",
            TypeError,
            bias_hh_l0=np.array(["a"] * 20),
        )
        refuses(r"bias_hh_l0 must not be a masked array", TypeError, bias_hh_l0=np.ma.zeros(20))
        with pytest.raises(TypeError, match=r"arrays must be a mapping from names to arrays, got list"):
            cls([1])
    with pytest.raises(ValueError, match=r"weight_hh_l0 must have shape \(3 \* hidden_size"):
        nn.GRU(arrays)
    with pytest.raises(ValueError, match=r"weight_ih_l0, bias_ih_l0: group_size"):
        oc.QuantLSTM(arrays, dtype="int4", group_size=7)
    with pytest.raises(TypeError, match=r"layer must be an octavo\.nn\.LSTM, got GRU"):
        oc.QuantLSTM.from_float(init("GRU"))


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_call_refuses(quantized: bool) -> None:
    lstm, gru = init("LSTM", bidirectional=True), init("GRU", batch_first=True)
    if quantized:
        lstm, gru = oc.QuantLSTM.from_float(lstm), oc.QuantGRU.from_float(gru)
    x, state = normal(4, 3, 6), np.zeros((2, 3, 5), F)
    for layer, args, error, message in (
        (
            lstm,
            (x[..., :5],),
            ValueError,
            r"x must have shape \(steps, batch, 6\), or \(steps, 6\) unbatched, got \(4, 3, 5\)",
        ),
        (gru, (x[0, 0],), ValueError, r"x must have shape \(batch, steps, 6\), .* got \(6,\)"),
        (lstm, (x[None],), ValueError, r"got \(1, 4, 3, 6\)"),
        (lstm, (x.astype(complex),), TypeError, r"x must hold real numbers .* of dtype (complex64|complex128)"),
        (lstm, (x, state), TypeError, r"hx must be a pair \(h0, c0\), got ndarray"),
        (lstm, (x, (state,)), TypeError, r"hx must be a pair"),
        (
            lstm,
            (x, (state, state[:1])),
            ValueError,
            r"c0 must have shape \(2, 3, 5\) to fit the layer and x, got \(1, 3, 5\)",
        ),
        (lstm, (x[:, 0], (state, state)), ValueError, r"h0 must have shape \(2, 5\) to fit"),
        (gru, (x, state), ValueError, r"h0 must have shape \(1, 4, 5\) to fit"),
        (gru, (x, "abc"), TypeError, r"h0 must hold real numbers"),
    ):
        with pytest.raises(error, match=message):
            layer(*args)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"input_size": -1, "hidden_size": 2}, "input_size must be at least 0, got -1"),
        ({"input_size": 1, "hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"input_size": 1, "hidden_size": 2, "num_layers": 0}, "num_layers must be at least 1, got 0"),
    ],
)
def test_init_refuses(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.GRU.init(**sizes)

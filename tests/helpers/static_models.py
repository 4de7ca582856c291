"""Models for the tests of static quantization: what the result of a layer is used for, and torch's reference model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

import octavo as oc

F = np.float32
N = 8


class Net:
    """Three square layers and a body that uses some of them; `log` keeps what the body chooses to keep."""

    def __init__(self, body: Callable[[Net, Any], Any], seed: int = 0, dtype: type = F) -> None:
        rng = np.random.default_rng(seed)
        self.a, self.b, self.c = (oc.nn.Linear.init(N, N, rng=rng) for _ in range(3))
        for layer in (self.a, self.b, self.c):
            layer.weight, layer.bias = layer.weight.astype(dtype), layer.bias.astype(dtype)
        self.stub, self.destub = oc.QuantStub(), oc.DeQuantStub()
        self.body, self.log = body, []

    def __call__(self, x: Any) -> Any:
        return self.body(self, x)


def data(m: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, N)).astype(F)


def prepared_net(body: Callable[[Net, Any], Any], **options: Any) -> tuple[Net, Net]:
    net = Net(body, **options)
    return net, oc.prepare(net, oc.default_qconfig, layers={oc.nn.Linear})


def convert(prepared: Any) -> Any:
    """Layers that a body leaves out stay float."""
    return oc.convert(prepared, unobserved="float")


def relu(h: Any) -> Any:
    return np.maximum(h, 0)


def close(actual: Any, expected: Any) -> None:
    actual, expected = (v if isinstance(v, (tuple, list)) else [v] for v in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), e, atol=0.06)


def both(*values: Any) -> Any:
    return values


# what the result of layer a is used for

INTEGERS: dict[str, Callable[[Net, Any], Any]] = {
    "layer": lambda m, x: m.b(m.a(x)),
    "stub": lambda m, x: m.destub(m.a(x)) + 1,
    "reshape": lambda m, x: m.b(m.a(x).reshape(2, -1, N)),
    "np.reshape": lambda m, x: m.b(np.reshape(m.a(x), (2, -1, N))),
    "transpose": lambda m, x: m.b(m.a(x).T),
    "slice": lambda m, x: m.b(m.a(x)[1:4]),
    "rows": lambda m, x: [m.b(row) + 0 for row in m.a(x)],
    "split": lambda m, x: m.b(np.split(m.a(x), 2)[1]),
    "shape": lambda m, x: both(h := m.a(x), m.b(h.reshape(len(h), h.shape[1]) if h.ndim == 2 else h))[1],
    "two-layers": lambda m, x: both(h := m.a(x), m.b(h) + m.c(h))[1],
    "relu-and-plain": lambda m, x: both(h := m.a(x), m.b(relu(h)) + m.c(h))[1],
    "layer-and-stub": lambda m, x: both(h := m.a(x), m.b(h) + m.destub(h))[1],
}
FOLDED: dict[str, Callable[[Net, Any], Any]] = {
    "relu": lambda m, x: m.b(relu(m.a(x))),
    "relu-0.0-first": lambda m, x: m.b(np.maximum(0.0, m.a(x))),
    "nn.ReLU": lambda m, x: m.b(oc.nn.ReLU()(m.a(x))),
    "relu-twice": lambda m, x: m.b(relu(relu(m.a(x)))),
    "relu-reshape": lambda m, x: m.b(relu(m.a(x)).reshape(2, -1, N)),
    "slice-relu": lambda m, x: m.b(relu(m.a(x)[:4])),
    "relu-stub": lambda m, x: m.destub(relu(m.a(x))) + 1,
    "relu-two-layers": lambda m, x: both(h := m.a(x), m.b(relu(h)) + m.c(relu(h)))[1],
    "chain": lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
}


def residual_in_place(m: Net, x: Any) -> Any:
    h = m.a(x)
    y = m.b(h)
    h += y
    return h


def relu_in_place(m: Net, x: Any) -> Any:
    h = m.a(x)
    np.maximum(h, 0, out=h)
    return m.b(h)


def masked_in_place(m: Net, x: Any) -> Any:
    h = m.a(x)
    h[h < 0] = 0
    return m.b(h)


def copied_into(m: Net, x: Any) -> Any:
    h = m.a(x)
    np.copyto(h, 1.0)
    return m.b(h)


def view_in_place(m: Net, x: Any) -> Any:
    h = m.a(x)
    rows = h[:2]
    rows -= 1
    return m.b(h)


def kept(m: Net, x: Any) -> Any:
    m.log = [m.a(x)]
    return m.b(m.log[0])


def kept_view(m: Net, x: Any) -> Any:
    h = m.a(x)
    m.log = [relu(h)[:1]]
    return m.b(relu(h))


def recurrent(m: Net, x: Any) -> Any:
    state = m.log[-1] if m.log else np.zeros_like(x)
    m.log = [m.a(x)]
    return m.b(m.log[0]) + state


def branch(m: Net, x: Any) -> Any:
    h = m.a(x)
    return m.b(h) if h.mean() > -1e9 else h


def by_buffer(m: Net, x: Any) -> Any:
    h = m.a(x)
    return m.b(h) + np.frombuffer(memoryview(h), F).reshape(h.shape)


def by_pointer(m: Net, x: Any) -> Any:
    h = m.a(x)
    assert h.ctypes.data
    return m.b(h) + relu(h)


FLOATS: dict[str, Callable[[Net, Any], Any]] = {
    "residual": lambda m, x: both(h := m.a(x), m.b(relu(h)) + h)[1],
    "residual-before": lambda m, x: both(h := m.a(x), h + m.b(relu(h)))[1],
    "product-relu": lambda m, x: both(h := m.a(x), m.b(h * (h > 0)))[1],
    "maximum-array": lambda m, x: m.b(np.maximum(m.a(x), np.zeros(N, F))),
    "other-function": lambda m, x: m.b(np.tanh(m.a(x))),
    "sigmoid": lambda m, x: m.b(oc.nn.Sigmoid()(m.a(x))),
    "matmul": lambda m, x: m.b(m.a(x) @ np.eye(N, dtype=F)),
    "asarray": lambda m, x: both(h := m.a(x), m.b(relu(h)) + np.asarray(h))[1],
    "array-dot": lambda m, x: both(h := m.a(x), m.b(relu(h)) + np.eye(len(h), dtype=F).dot(h))[1],
    "view": lambda m, x: both(h := m.a(x), m.b(h) + h.view(np.ndarray))[1],
    "isinstance": lambda m, x: both(h := m.a(x), m.b(h) if isinstance(h, np.ndarray) else h)[1],
    "ndarray-method": lambda m, x: both(h := m.a(x), m.b(h) + np.ndarray.mean(h))[1],
    "iterated": lambda m, x: m.b(np.array([[v * 1 for v in row] for row in m.a(x)])),
    "concatenate": lambda m, x: m.b(np.concatenate([m.a(x), x])),
    "astype": lambda m, x: m.b(m.a(x).astype(np.float64)),
    "element": lambda m, x: both(h := m.a(x), m.b(h) + h[0, 0])[1],
    "tolist": lambda m, x: m.b(m.a(x).tolist()),
    "pickle": lambda m, x: m.b(pickle.loads(pickle.dumps(m.a(x)))),
    "deepcopy": lambda m, x: m.b(copy.deepcopy(m.a(x))),
    "format": lambda m, x: both(h := m.a(x), m.log.append(f"{h}"), m.b(h))[2],
    "apply_along_axis": lambda m, x: m.b(np.apply_along_axis(m.a, 1, x)),
    "quant-stub": lambda m, x: m.b(m.stub(m.a(x))),
    "returned": lambda m, x: both(h := m.a(x), m.b(h) + 1),
    "returned-relu": lambda m, x: both(h := relu(m.a(x)), m.b(h) + 1),
    "returned-alone": lambda m, x: m.a(x),
    "destub-of-layer-unused": lambda m, x: both(m.a(x), m.b(x) + 1)[1],
} | {
    f.__name__.replace("_", "-"): f
    for f in (
        *(residual_in_place, relu_in_place, masked_in_place, copied_into, view_in_place),
        *(kept, kept_view, recurrent, branch, by_buffer, by_pointer),
    )
}


class Reference:
    """The model that users of eager-mode quantization know: stubs, two layers in a row, then one at a time."""

    def __init__(self, rng: np.random.Generator) -> None:
        sizes = [(768, 512), (512, 314), (314, 128), (128, 64)]
        self.linear1, self.linear2, self.linear3, self.linear4 = (oc.nn.Linear.init(*s, rng=rng) for s in sizes)
        self.quant1, self.quant2, self.quant3 = oc.QuantStub(), oc.QuantStub(), oc.QuantStub()
        self.dequant1, self.dequant2, self.dequant3 = oc.DeQuantStub(), oc.DeQuantStub(), oc.DeQuantStub()
        self.relu, self.sigmoid = oc.nn.ReLU(), oc.nn.Sigmoid()
        self.between: list[Any] = []

    def __call__(self, x: Any) -> Any:
        h = self.linear1(self.quant1(x))
        self.between.append(type(h).__name__)
        x = self.relu(self.dequant1(self.linear2(h)))
        x = self.relu(self.dequant2(self.linear3(self.quant2(x))))
        return self.sigmoid(self.dequant3(self.linear4(self.quant3(x))))


REFERENCE_QCONFIG = oc.QConfig(
    activation=oc.MinMaxObserver.with_args(dtype="quint8", qscheme="per_tensor_affine", quant_min=0, quant_max=255),
    weight=oc.PerChannelMinMaxObserver.with_args(
        dtype="qint8", qscheme="per_channel_symmetric", quant_min=-128, quant_max=127
    ),
)

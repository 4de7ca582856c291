"""Gradients, losses and FakeQuantize against PyTorch's."""

from __future__ import annotations

from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import octavo as oc

torch = pytest.importorskip("torch", reason="torch is the judge here; pip install torch to run this file")
ao = pytest.importorskip("torch.ao.quantization", reason="this torch has no torch.ao.quantization")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

F = np.float32
RANGES = [(-128, 127), (0, 255), (-8, 7), (-2, 1), (0, 3)]
every_range = pytest.mark.parametrize(("qmin", "qmax"), RANGES, ids=str)


def case(shape: tuple[int, ...], qmin: int, qmax: int, channels: int | None) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    count = () if channels is None else (channels,)
    scale, zero_point = rng.uniform(0.01, 0.1, count).astype(F), rng.integers(qmin, qmax + 1, count)
    x = (rng.standard_normal(shape) * 0.05 * (qmax - qmin)).astype(F)
    return x, rng.standard_normal(shape).astype(F), scale, zero_point


def leaf(a: Any) -> Any:
    return torch.tensor(np.asarray(a, F), requires_grad=True)


def vjp(f: Any, g: np.ndarray, *values: Any) -> tuple[Any, Any]:
    """(y, gradients for each of the values)."""
    gradients = autograd.grad(lambda *v: anp.sum(f(*v) * g), tuple(range(len(values))))(*values)
    return f(*values), gradients


@every_range
def test_per_tensor(qmin: int, qmax: int) -> None:
    x, g, scale, zero_point = case((300, 70), qmin, qmax, None)
    params = oc.QParams(scale, zero_point, "uint8" if qmin == 0 else "int8", qmin=qmin, qmax=qmax)
    y, (dx,) = vjp(lambda x: oc.qat.fake_quantize(x, params), g, x)
    t = leaf(x)
    expected = torch.fake_quantize_per_tensor_affine(t, float(scale), int(zero_point), qmin, qmax)
    expected.backward(torch.tensor(g))
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(dx, t.grad.numpy())
    assert 0 < np.mean(dx == 0) < 1


@every_range
@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel(qmin: int, qmax: int, axis: int) -> None:
    x, g, scale, zero_point = case((30, 70), qmin, qmax, (30, 70)[axis])
    params = oc.QParams(scale, zero_point, "uint8" if qmin == 0 else "int8", qmin=qmin, qmax=qmax, axis=axis)
    y, (dx,) = vjp(lambda x: oc.qat.fake_quantize(x, params), g, x)
    t = leaf(x)
    zero_points = torch.tensor(zero_point, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(t, torch.tensor(scale), zero_points, axis, qmin, qmax)
    expected.backward(torch.tensor(g))
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(dx, t.grad.numpy())


@every_range
@pytest.mark.parametrize("factor", [1.0, None], ids=["one", "lsq"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_learnable(qmin: int, qmax: int, axis: int | None, factor: float | None) -> None:
    x, g, scale, zero_point = case((30, 70), qmin, qmax, None if axis is None else (30, 70)[axis])
    z = (zero_point + 0.3).astype(F)
    y, found = vjp(
        lambda x, s, z: oc.qat.fake_quantize_learnable(x, s, z, qmin, qmax, axis=axis, grad_factor=factor),
        g,
        x,
        scale,
        z,
    )
    tx, ts, tz = leaf(x), leaf(np.atleast_1d(scale)), leaf(np.atleast_1d(z))
    torch_factor = factor or 1 / (x.size * qmax) ** 0.5
    if axis is None:
        expected = torch._fake_quantize_learnable_per_tensor_affine(tx, ts, tz, qmin, qmax, torch_factor)
    else:
        expected = torch._fake_quantize_learnable_per_channel_affine(tx, ts, tz, axis, qmin, qmax, torch_factor)
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found[0], tx.grad.numpy())
    for ours, theirs in zip(found[1:], (ts.grad, tz.grad), strict=True):
        np.testing.assert_allclose(np.atleast_1d(ours), theirs.numpy(), rtol=1e-4, atol=1e-3 * torch_factor)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_training_follows_prepare_qat(bits: int) -> None:
    """Two layers behind a QuantStub; Adam; the losses and weights of PyTorch's eager mode."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((200, 20), dtype=F), rng.standard_normal((200, 4), dtype=F)
    first, second = oc.nn.Linear.init(20, 16, rng=rng), oc.nn.Linear.init(16, 4, rng=rng)
    # Mostly negative, so that at two bits ReLU leaves 0 and s. Of 0, s and 2s the next QuantStub, its scale 2s / 3,
    # would put s at 1.5, and the last bit of a BLAS product would decide between 1 and 2.
    first.bias -= 1
    half = 2 ** (bits - 1)

    class Torch(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.quant1, self.first, self.dequant1 = ao.QuantStub(), torch.nn.Linear(20, 16), ao.DeQuantStub()
            self.quant2, self.second, self.dequant2 = ao.QuantStub(), torch.nn.Linear(16, 4), ao.DeQuantStub()

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.dequant1(self.first(self.quant1(x))))
            return self.dequant2(self.second(self.quant2(x)))

    theirs = Torch()
    theirs.qconfig = ao.QConfig(
        activation=ao.FakeQuantize.with_args(
            observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8
        ),
        weight=ao.FakeQuantize.with_args(
            observer=ao.MovingAveragePerChannelMinMaxObserver, quant_min=-half, quant_max=half - 1, dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for layer, values in ((theirs.first, first), (theirs.second, second)):
            layer.weight.copy_(torch.tensor(values.weight))
            layer.bias.copy_(torch.tensor(values.bias))
    ao.prepare_qat(theirs.train(), inplace=True)
    optimizer, expected = torch.optim.Adam(theirs.parameters(), lr=0.01), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(target))
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    qconfig = oc.QConfig(
        activation=oc.FakeQuantize.with_args(
            observer=oc.MovingAverageMinMaxObserver, dtype="quint8", quant_min=0, quant_max=2**bits - 1
        ),
        weight=oc.FakeQuantize.with_args(
            observer=oc.MovingAveragePerChannelMinMaxObserver, dtype="qint8", qscheme="per_channel_symmetric",
            quant_min=-half, quant_max=half - 1,
        ),
    )  # fmt: skip
    layers = [oc.QuantStub(), first, oc.DeQuantStub(), oc.nn.ReLU(), oc.QuantStub(), second, oc.DeQuantStub()]
    ours = oc.prepare_qat(oc.nn.Sequential(*layers), qconfig, layers={oc.nn.Linear})
    loss_and_gradient = autograd.value_and_grad(lambda p: anp.mean((oc.qat.apply(ours, p, x) - target) ** 2))
    losses = []

    def gradient(params: Any, _: int) -> Any:
        loss, g = loss_and_gradient(params)
        losses.append(float(loss))
        return g

    from autograd.misc.optimizers import adam

    params = adam(gradient, oc.qat.parameters(ours), num_iters=6, step_size=0.01)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    np.testing.assert_allclose(params["layers.1.weight"], theirs.first.weight.detach().numpy(), atol=2e-3)

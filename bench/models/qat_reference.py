"""The reference job of quantization-aware training: ten full-batch steps on 30,000 rows, then the int8 model.

    python -m bench.models.qat_reference

The model is QuantStub, linear 768-512, linear 512-314, DeQuantStub, ReLU, QuantStub, linear 314-128, DeQuantStub, ReLU,
QuantStub, linear 128-64, DeQuantStub, sigmoid; mean squared error, Adam at 0.01; activations MinMaxObserver quint8,
weights PerChannelMinMaxObserver qint8. Prints losses, times and peak memory, and what the converted model gives. Where
torch is installed, PyTorch's prepare_qat does the same job with the same inputs, targets and initial weights, one step
of each in turn, each in a process of its own. On a machine that has other work, --threads 1 keeps matrix products from
waiting for a thread that does not run. Needs octavo[qat].
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = {"linear1": (768, 512), "linear2": (512, 314), "linear3": (314, 128), "linear4": (128, 64)}
STEP_SIZE = 0.01
THREADS = ("OCTAVO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Turns:
    """This process's side of the conversation: waits for a line before each step, answers with loss and seconds."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.started = 0.0
        self.loss = float("nan")

    def next(self) -> None:
        if self.started:
            self.finish()
        else:
            print("ready", flush=True)
        sys.stdin.readline()
        self.started = time.perf_counter()

    def finish(self) -> None:
        print("step", self.loss, time.perf_counter() - self.started, flush=True)


def octavo_job(folder: Path, turns: Turns) -> None:
    import autograd
    import autograd.numpy as anp
    from autograd.misc.optimizers import adam

    import octavo as oc

    class Model:
        def __init__(self) -> None:
            for name in SIZES:
                setattr(self, name, oc.nn.Linear(load(folder, f"{name}.weight"), load(folder, f"{name}.bias")))
            self.quant1, self.quant2, self.quant3 = oc.QuantStub(), oc.QuantStub(), oc.QuantStub()
            self.dequant1, self.dequant2, self.dequant3 = oc.DeQuantStub(), oc.DeQuantStub(), oc.DeQuantStub()
            self.relu, self.sigmoid = oc.nn.ReLU(), oc.nn.Sigmoid()

        def __call__(self, x: Any) -> Any:
            x = self.relu(self.dequant1(self.linear2(self.linear1(self.quant1(x)))))
            x = self.relu(self.dequant2(self.linear3(self.quant2(x))))
            return self.sigmoid(self.dequant3(self.linear4(self.quant3(x))))

    x, target = load(folder, "x"), load(folder, "target")
    qconfig = oc.QConfig(
        activation=oc.FakeQuantize.with_args(observer=oc.MinMaxObserver, dtype="quint8"),
        weight=oc.FakeQuantize.with_args(
            observer=oc.PerChannelMinMaxObserver, dtype="qint8", qscheme=oc.per_channel_symmetric
        ),
    )
    model = oc.prepare_qat(Model(), qconfig, layers={oc.nn.Linear})
    loss_and_gradient = autograd.value_and_grad(lambda p: anp.mean((oc.qat.apply(model, p, x) - target) ** 2))

    def gradient(params: Any, _: int) -> Any:
        turns.next()
        turns.loss, g = loss_and_gradient(params)
        return g

    trained = adam(gradient, oc.qat.parameters(model), num_iters=turns.steps, step_size=STEP_SIZE)
    turns.finish()
    peak = peak_megabytes()
    oc.qat.set_parameters(model, trained)
    oc.calibrate(model, [x[:100]])
    quantized = oc.convert(model)
    expected, start = model(x), time.perf_counter()
    y = quantized(x)
    seconds = time.perf_counter() - start
    print("note", f"peak memory {peak:.0f} MB")
    for name in SIZES:
        print("note", f"{name}: {getattr(quantized, name)}")
    print("note", f"int8 model: {seconds:.3f} s, loss {np.mean((y - target) ** 2):.6f}")
    print("note", f"largest difference from the fake-quantized model: {np.abs(y - expected).max():.2g}")


def torch_job(folder: Path, turns: Turns) -> None:
    import torch
    from torch.ao import quantization as ao

    warnings.simplefilter("ignore")
    model = torch_model()
    model.qconfig = ao.QConfig(
        activation=ao.FakeQuantize.with_args(
            observer=ao.MinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8, qscheme=torch.per_tensor_affine
        ),
        weight=ao.FakeQuantize.with_args(
            observer=ao.PerChannelMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for name in SIZES:
            for kind in ("weight", "bias"):
                getattr(getattr(model, name), kind).copy_(torch.from_numpy(load(folder, f"{name}.{kind}")))
    ao.prepare_qat(model.train(), inplace=True)
    x, target = torch.from_numpy(load(folder, "x")), torch.from_numpy(load(folder, "target"))
    optimizer = torch.optim.Adam(model.parameters(), lr=STEP_SIZE)
    for _ in range(turns.steps):
        turns.next()
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        turns.loss = loss.item()
    turns.finish()
    print("note", f"peak memory {peak_megabytes():.0f} MB")


def torch_model() -> Any:
    from torch import nn
    from torch.ao.quantization import DeQuantStub, QuantStub

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, (fan_in, fan_out) in SIZES.items():
                setattr(self, name, nn.Linear(fan_in, fan_out))
            self.quant1, self.quant2, self.quant3 = QuantStub(), QuantStub(), QuantStub()
            self.dequant1, self.dequant2, self.dequant3 = DeQuantStub(), DeQuantStub(), DeQuantStub()
            self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()

        def forward(self, x: Any) -> Any:
            x = self.relu(self.dequant1(self.linear2(self.linear1(self.quant1(x)))))
            x = self.relu(self.dequant2(self.linear3(self.quant2(x))))
            return self.sigmoid(self.dequant3(self.linear4(self.quant3(x))))

    return Model()


def write_job(folder: Path, rows: int) -> None:
    """Inputs, targets and initial weights: torch's from its seed 123, or like ones from NumPy."""
    widths = {"x": SIZES["linear1"][0], "target": SIZES["linear4"][1]}
    if importlib.util.find_spec("torch") is not None:
        import torch

        for name, width in widths.items():
            torch.manual_seed(123)
            np.save(folder / f"{name}.npy", torch.randn(rows, width).numpy())
        for name, value in torch_model().state_dict().items():
            np.save(folder / f"{name}.npy", value.numpy())
        return
    for name, width in widths.items():
        np.save(folder / f"{name}.npy", np.random.default_rng(123).standard_normal((rows, width), dtype=np.float32))
    rng = np.random.default_rng(123)
    for name, (fan_in, fan_out) in SIZES.items():
        bound = 1 / np.sqrt(fan_in)
        np.save(folder / f"{name}.weight.npy", rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32))
        np.save(folder / f"{name}.bias.npy", rng.uniform(-bound, bound, fan_out).astype(np.float32))


def load(folder: Path, name: str) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.load(folder / f"{name}.npy")
    return array


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


JOBS: dict[str, Callable[[Path, Turns], None]] = {"octavo": octavo_job, "torch": torch_job}


class Contender:
    """A process that does a job step by step."""

    def __init__(self, name: str, folder: Path, steps: int, threads: int | None) -> None:
        command = [sys.executable, __file__, "--job", name, "--folder", str(folder), "--steps", str(steps)]
        limits = {} if threads is None else dict.fromkeys(THREADS, str(threads))
        self.name = name
        self.process = subprocess.Popen(
            command, env={**os.environ, **limits}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.expect("ready")  # so that no one's imports disturb the other's first step

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.expect("step")
        self.losses.append(float(line[1]))
        self.seconds.append(float(line[2]))

    def expect(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if line[:1] != [word]:
            raise SystemExit(f"{self.name} ended early, see above")
        return line

    def notes(self) -> list[str]:
        # Not communicate(), which would miss lines that came along with the last step's.
        with self.process:
            assert self.process.stdout is not None
            return [line.removeprefix("note ").rstrip() for line in self.process.stdout]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, help="for each contender; default: what it takes by itself")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        JOBS[args.job](args.folder, Turns(args.steps))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder, args.rows)
        jobs = ["octavo"] + ["torch"] * (importlib.util.find_spec("torch") is not None)
        contenders = [Contender(job, folder, args.steps, args.threads) for job in jobs]
        print(f"{'step':>4}" + "".join(f"{c.name + ' loss':>14}{'seconds':>9}" for c in contenders))
        for i in range(args.steps):
            for contender in contenders:
                contender.step()
            print(f"{i + 1:4}" + "".join(f"{c.losses[-1]:14.6f}{c.seconds[-1]:9.2f}" for c in contenders), flush=True)
        for contender in contenders:
            print(f"{contender.name}: {sum(contender.seconds):.1f} s", *contender.notes(), sep="\n  ")
    if len(contenders) == 2:
        ours, theirs = contenders
        apart = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
        print(f"time {sum(ours.seconds) / sum(theirs.seconds):.2f} of torch's, losses at most {apart:.2g} apart")
    else:
        print("torch is not installed: no comparison, and inputs from NumPy's generator")


if __name__ == "__main__":
    main()

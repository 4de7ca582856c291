"""A hand-written NumPy model, two layer classes with conventions of their own, quantized and pickled.

    python examples/hand_written_model.py
"""

import pickle
from dataclasses import dataclass

import numpy as np

import octavo as oc


@dataclass(frozen=True)
class Dense:
    """y = x W + b, the weight stored as (in, out)."""

    W: np.ndarray
    b: np.ndarray

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x @ self.W + self.b


class ReluDense:
    """y = max(x W^T, 0), no bias, the weight stored as (out, in)."""

    __slots__ = ("kernel",)

    def __init__(self, kernel: np.ndarray) -> None:
        self.kernel = kernel

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ self.kernel.T, 0)


class Classifier:
    """A residual block between two projections; its layers sit in a dict, a tuple and an attribute."""

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        def random(*shape: int) -> np.ndarray:
            return (rng.standard_normal(shape) / np.sqrt(width)).astype(np.float32)

        self.ends = {"in": Dense(random(width, width), random(width)), "out": Dense(random(width, 10), random(10))}
        self.block = (ReluDense(random(2 * width, width)), ReluDense(random(width, 2 * width)))

    def predict(self, x: np.ndarray) -> np.ndarray:
        h = self.ends["in"].forward(x)
        up, down = self.block
        h = h + down(up(h))
        return self.ends["out"].forward(h)


def main() -> None:
    rng = np.random.default_rng(0)
    model = Classifier(rng, 256)
    layers = {
        Dense: oc.LayerSpec(weight="W", bias="b", layout="in_out", call="forward"),
        ReluDense: oc.LayerSpec(weight="kernel", bias=None, activation="relu"),
    }
    quantized = oc.quantize_dynamic(model, layers)

    x = rng.standard_normal((64, 256), dtype=np.float32)
    expected, y = model.predict(x), quantized.predict(x)
    again = pickle.loads(pickle.dumps(quantized)).predict(x)
    print(*quantized.ends.values(), *quantized.block, sep="\n")
    print(f"relative error {np.linalg.norm(y - expected) / np.linalg.norm(expected):.4f}")
    print(f"same class for {np.mean(y.argmax(1) == expected.argmax(1)):.0%} of the rows")
    print(f"pickle: {len(pickle.dumps(model)):,} bytes float32, {len(pickle.dumps(quantized)):,} bytes int8")
    print(f"the same bits after loading: {again.tobytes() == y.tobytes()}")


if __name__ == "__main__":
    main()

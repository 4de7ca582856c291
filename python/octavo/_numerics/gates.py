"""The gates of recurrent cells: the NumPy definition of what the compiled cells compute, to the bit.

sigmoid and tanh are those of octavo.functional (`octavo._numerics.functions`); all else is float32 additions and
multiplications, one rounding each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo._numerics.functions import sigmoid, tanh

__all__ = ["gru_cell", "lstm_cell"]

Float32Array = NDArray[np.float32]

_F = np.float32


def lstm_cell(a: Float32Array, b: Float32Array, c: Float32Array) -> tuple[Float32Array, Float32Array]:
    """One step of an LSTM: c' = f c + i g and h' = o tanh(c') with i, f, g, o from a + b.

    Args:
        a: (m, 4 hidden) float32, the input's product with its bias, columns i f g o.
        b: (m, 4 hidden), the state's product with its bias.
        c: (m, hidden), the cell state.

    Returns:
        (h', c'), each (m, hidden).

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.gates import lstm_cell
        >>> zero = np.zeros((1, 4), np.float32)
        >>> lstm_cell(zero, zero, np.ones((1, 1), np.float32))
        (array([[0.23105858]], dtype=float32), array([[0.5]], dtype=float32))
    """
    ai, af, ag, ao = np.split(a + b, 4, axis=-1)
    i, f, g, o = sigmoid(ai), sigmoid(af), tanh(ag), sigmoid(ao)
    with np.errstate(all="ignore"):
        c = f * c + i * g
        return o * tanh(c), c


def gru_cell(a: Float32Array, b: Float32Array, h: Float32Array) -> Float32Array:
    """One step of a GRU: h' = (1 - z) n + z h with r, z = sigmoid(a + b) and n = tanh(a + r b).

    Args:
        a: (m, 3 hidden) float32, the input's product with its bias, columns r z n.
        b: (m, 3 hidden), the state's product with its bias.
        h: (m, hidden), the state.

    Returns:
        h' (m, hidden).

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.gates import gru_cell
        >>> zero = np.zeros((1, 3), np.float32)
        >>> gru_cell(zero, zero, np.ones((1, 1), np.float32))
        array([[0.5]], dtype=float32)
    """
    ar, az, an = np.split(a, 3, axis=-1)
    br, bz, bn = np.split(b, 3, axis=-1)
    with np.errstate(all="ignore"):
        r, z = sigmoid(ar + br), sigmoid(az + bz)
        n = tanh(an + r * bn)
        return (_F(1) - z) * n + z * h

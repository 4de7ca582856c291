"""The compiled part: kernels, packing, threads. Private: use the functions of `octavo` and `octavo.ops`."""

from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

@final
class PackedLinear:
    """int8 weights (N, K) packed once for the kernels, with their scale (N,) and bias (N,)."""

    def __init__(
        self,
        weight: NDArray[np.int8],
        scale: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        asymmetric: bool,
        relu: bool,
    ) -> None: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def int_repr(self) -> NDArray[np.int8]: ...
    def int_rows(self, outputs: NDArray[np.int64]) -> NDArray[np.int8]: ...
    def int_columns(self, inputs: NDArray[np.int64]) -> NDArray[np.int8]: ...
    def scale(self) -> NDArray[np.float32]: ...
    def bias(self) -> NDArray[np.float32] | None: ...
    def try_call(self, x: object, /) -> NDArray[np.float32] | None: ...
    def forward(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
    def forward_static(
        self,
        x: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8],
        x_scale: float,
        x_zero_point: int,
        x_qmin: int,
        x_qmax: int,
        out: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8],
        out_scale: float,
        out_zero_point: int,
        out_qmin: int,
        out_qmax: int,
    ) -> bool: ...

@final
class PackedLinearInt4:
    """int4 weights (N, K), two a byte, with scales (N, G) for groups of group_k (0: one group) and bias (N,)."""

    def __init__(
        self,
        weight: NDArray[np.int8],
        scale: NDArray[np.float32] | NDArray[np.float16],
        zero_point: NDArray[np.int8] | None,
        bias: NDArray[np.float32] | None,
        *,
        group_k: int,
        asymmetric: bool,
        relu: bool,
    ) -> None: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def symmetric(self) -> bool: ...
    def int_repr(self) -> NDArray[np.int8]: ...
    def int_rows(self, outputs: NDArray[np.int64]) -> NDArray[np.int8]: ...
    def int_columns(self, inputs: NDArray[np.int64]) -> NDArray[np.int8]: ...
    def scale(self) -> NDArray[np.float32] | NDArray[np.float16]: ...
    def zero_point(self) -> NDArray[np.int8]: ...
    def bias(self) -> NDArray[np.float32] | None: ...
    def try_call(self, x: object, /) -> NDArray[np.float32] | None: ...
    def forward(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...

def lstm(
    layer: PackedLinear | PackedLinearInt4,
    inputs: NDArray[np.float32],
    h0: NDArray[np.float32],
    c: NDArray[np.float32],
    outputs: NDArray[np.float32],
    reverse: bool,
) -> None: ...
def gru(
    layer: PackedLinear | PackedLinearInt4,
    inputs: NDArray[np.float32],
    h0: NDArray[np.float32],
    outputs: NDArray[np.float32],
    reverse: bool,
) -> None: ...
def matmul_integer(
    a: NDArray[np.int8] | NDArray[np.uint8],
    b: NDArray[np.int8] | NDArray[np.uint8],
    a_zero_point: NDArray[np.int32],
    b_zero_point: NDArray[np.int32],
) -> NDArray[np.int32]: ...
def fake_quantize(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    qmin: int,
    qmax: int,
    axis: int,
) -> NDArray[np.float32] | None: ...
def fake_quantize_backward(
    x: NDArray[np.float32],
    g: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    qmin: int,
    qmax: int,
    axis: int,
) -> NDArray[np.float32]: ...
def fake_quantize_learnable_backward(
    x: NDArray[np.float32],
    g: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    qmin: int,
    qmax: int,
    axis: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...
def kernel_names() -> list[str]: ...
def missing_features(kernel: str) -> list[str]: ...
def active_kernel() -> str: ...
def forced_kernel() -> str | None: ...
def force_kernel(name: str | None) -> None: ...
def min_rows(kernel: str) -> int: ...
def set_min_rows(kernel: str, rows: int) -> None: ...
def kernel_for(rows: int) -> str: ...
def feature_refusal() -> str: ...
def cpu_features() -> dict[str, bool]: ...
def cpu_brand() -> str: ...
def cache_bytes() -> dict[Literal["l1d", "l2", "l3"], int]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def max_exact_k(lhs_wide: bool, rhs_wide: bool) -> int: ...
def max_exact_group_k(lhs_wide: bool, rhs_wide: bool) -> int: ...
def build_info() -> dict[str, str]: ...
def fake_quantize(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    inverse: NDArray[np.float32],
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    *,
    outer: int,
    inner: int,
) -> NDArray[np.float32]: ...
def fake_quantize_backward(
    grad: NDArray[np.float32],
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    inverse: NDArray[np.float32],
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    *,
    outer: int,
    inner: int,
) -> NDArray[np.float32]: ...
def learnable_backward(
    grad: NDArray[np.float32],
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    inverse: NDArray[np.float32],
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    *,
    outer: int,
    inner: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]: ...

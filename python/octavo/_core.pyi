"""The compiled part: kernels, packing, threads. Private: use the functions of `octavo` and `octavo.ops`."""

from typing import Any, Generic, Literal, TypeVar, final, type_check_only

import numpy as np
from numpy.typing import NDArray

_Code = TypeVar("_Code", bound=np.generic)

@type_check_only
class PackedLayer(Generic[_Code]):
    """What the packed layers share, each in a class of its own."""

    @property
    def is_borrowed(self) -> bool: ...
    def image(self, family: str) -> NDArray[np.uint8]: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def int_repr(self) -> NDArray[_Code]: ...
    def int_rows(self, outputs: NDArray[np.int64]) -> NDArray[_Code]: ...
    def int_columns(self, inputs: NDArray[np.int64]) -> NDArray[_Code]: ...
    def scale(self) -> NDArray[Any]: ...
    def bias(self) -> NDArray[np.float32] | None: ...
    def input_factor(self) -> NDArray[np.float32] | None: ...
    def try_call(self, x: object, /) -> NDArray[np.float32] | None: ...
    def forward(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...

@final
class PackedLinear(PackedLayer[np.int8]):
    """int8 weights (N, K) packed once for the kernels, with their scale (N,) and bias (N,)."""

    def __init__(
        self,
        weight: NDArray[np.int8],
        scale: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        asymmetric: bool,
        relu: bool,
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> None: ...
    @staticmethod
    def from_image(
        image: NDArray[np.uint8],
        *,
        family: str,
        out_features: int,
        in_features: int,
        bias: bool,
        asymmetric: bool,
        relu: bool,
        borrow: bool,
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> PackedLinear: ...
    def scale(self) -> NDArray[np.float32]: ...
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
class PackedLinearInt4(PackedLayer[np.int8]):
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
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> None: ...
    @staticmethod
    def from_image(
        image: NDArray[np.uint8],
        *,
        family: str,
        out_features: int,
        in_features: int,
        group_k: int,
        half_scale: bool,
        zero_point: bool,
        bias: bool,
        asymmetric: bool,
        relu: bool,
        borrow: bool,
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> PackedLinearInt4: ...
    @property
    def symmetric(self) -> bool: ...
    def scale(
        self, outputs: NDArray[np.int64] | None = None, groups: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32] | NDArray[np.float16]: ...
    def zero_point(
        self, outputs: NDArray[np.int64] | None = None, groups: NDArray[np.int64] | None = None
    ) -> NDArray[np.int8]: ...

@final
class PackedIntegers:
    """An integer matrix (K, N) that is packed at the first product of each form."""

    def __init__(self, b: NDArray[Any]) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def multiply(self, a: NDArray[Any], out: NDArray[Any]) -> None: ...

@final
class PackedLinearGrouped(PackedLayer[Any]):
    """Codes (N, K) of 4 to 8 bits in groups of group_k (0: one group), as `GroupedCodes` has them, and bias (N,)."""

    def __init__(
        self,
        codes: NDArray[Any],
        scale: NDArray[Any],
        *,
        zero_point: NDArray[Any] | None,
        minimum: NDArray[Any] | None,
        group_scale: NDArray[Any] | None,
        group_minimum: NDArray[Any] | None,
        bias: NDArray[np.float32] | None,
        group_k: int,
        bits: int,
        activation: str,
        activation_group: int,
        relu: bool,
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> None: ...
    @staticmethod
    def from_image(
        image: NDArray[np.uint8],
        *,
        out_features: int,
        in_features: int,
        codes: str,
        scale: str,
        zero_point: str,
        minimum: str,
        group_scale: str,
        group_minimum: str,
        bias: bool,
        group_k: int,
        bits: int,
        activation: str,
        activation_group: int,
        relu: bool,
        borrow: bool,
        input_factor: NDArray[np.float32] | None = None,
        rotation: int = 0,
        epilogue: str | None = None,
    ) -> PackedLinearGrouped: ...
    def scale(self, outputs: NDArray[np.int64] | None = None) -> NDArray[Any]: ...
    def minimum(self, outputs: NDArray[np.int64] | None = None) -> NDArray[Any] | None: ...
    def group_scale(self, outputs: NDArray[np.int64] | None = None) -> NDArray[Any] | None: ...
    def group_minimum(self, outputs: NDArray[np.int64] | None = None) -> NDArray[np.uint8] | None: ...
    def zero_point(self, outputs: NDArray[np.int64] | None = None) -> NDArray[Any] | None: ...

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
def integer_matmul(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None: ...
def try_integer_matmul(a: object, b: object, /) -> NDArray[Any] | None: ...
def empty_result(rows: int, cols: int, dtype: np.dtype[Any]) -> NDArray[Any]: ...
def result_pool() -> tuple[int, int, int]: ...
def set_result_pool_bytes(max_bytes: int) -> None: ...
def clear_result_pool() -> None: ...
def turned_words(words: NDArray[Any]) -> NDArray[np.uint8]: ...
def turned_awq_words(words: NDArray[Any]) -> NDArray[np.uint8]: ...
def own_family() -> str: ...
def families() -> list[str]: ...
def kernel_names() -> list[str]: ...
def missing_features(kernel: str) -> list[str]: ...
def active_kernel() -> str: ...
def forced_kernel() -> str | None: ...
def force_kernel(name: str | None) -> None: ...
def verbosity() -> int: ...
def set_verbosity(level: int) -> None: ...
def min_rows(kernel: str) -> tuple[int, int, int | None, int | None]: ...
def chosen_min_rows(kernel: str) -> int | None: ...
def set_min_rows(kernel: str, rows: int | None) -> None: ...
def kernel_for(rows: int) -> str: ...
def feature_refusal() -> str: ...
def cpu_features() -> dict[str, bool]: ...
def cpu_brand() -> str: ...
def cache_bytes() -> dict[Literal["l1d", "l2", "l3"], int]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def available_cpus() -> int: ...
def max_exact_k(lhs_wide: bool, rhs_wide: bool) -> int: ...
def max_exact_group_k(lhs_wide: bool, rhs_wide: bool) -> int: ...
def max_exact_grouped_k(bits: int, is_signed: bool, has_zero_point: bool, asymmetric: bool) -> int: ...
def build_info() -> dict[str, str]: ...
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
def elementwise(function: int, x: object, out: object, /) -> NDArray[np.float32] | None: ...
def swiglu(gate: object, up: object, out: object, /) -> NDArray[np.float32] | None: ...
def rowwise(function: int, x: object, out: object, /) -> NDArray[np.float32] | None: ...
def log_sum(x: object, /) -> NDArray[np.float32]: ...
def rms_norm(x: object, weight: object, eps: float, out: object, /) -> NDArray[np.float32] | None: ...
def layer_norm(x: object, weight: object, bias: object, eps: float, out: object, /) -> NDArray[np.float32] | None: ...
def rope(x: object, cos: object, sin: object, interleaved: bool, out: object, /) -> NDArray[np.float32] | None: ...
def attend(
    q: object,
    k: object,
    v: object,
    scale: float,
    causal: bool,
    mask: NDArray[np.float32] | NDArray[np.bool_] | None,
    out: object,
    /,
) -> NDArray[np.float32] | None: ...
def attend_to_cache(
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    layer: int,
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    q: object,
    scale: float,
    causal: bool,
    out: object,
    /,
) -> NDArray[np.float32] | None: ...
def write_cache(
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    layer: int,
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    k: object,
    v: object,
    /,
) -> bool: ...

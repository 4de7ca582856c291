"""QuantEmbedding: a table of rows with integer weights, dequantized as they are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import nn
from octavo._layers.arrays.rows_first import rows_first
from octavo._layers.described import Described
from octavo._layers.images import Origin
from octavo._layers.linear import Rounding
from octavo._layers.registry import stands_for
from octavo._layers.weights import ActivationScheme
from octavo._numerics.checks import is_int4
from octavo._numerics.definition import quantize_weight
from octavo._numerics.int4 import GroupedWeight, ScaleDtype, dequantize_groups, pack_int4, unpack_int4
from octavo._numerics.params import QType, QTypeLike, qint4, qint8
from octavo._util.arrays import read_only
from octavo._util.floating import quiet
from octavo._util.foreign import as_real
from octavo._util.pickling import pickled
from octavo.nn._layers import as_ids

__all__ = ["QuantEmbedding"]

_STATE_VERSION = 1


@stands_for(nn.Embedding)
class QuantEmbedding(Described):
    """y[..., k] = (q[id, k] - zero_point[id]) * scale[id]: rows are held as integers and dequantized on lookup.

    int8 rows are symmetric with one scale each, max|row| / 127, so that every value is within half a step of the float
    one. int4 rows have a scale, and with symmetric=False a zero point, for each group of consecutive values. The layer
    is immutable; any number of threads may call it.

    Args:
        weight: (num_embeddings, embedding_dim), finite floats.
        dtype: "int8" or "int4".
        group_size: int4 only: values that share a scale; None: all of a row.
        symmetric, scale_dtype, rounding: int4 only, as for `QuantLinear`.

    Raises:
        TypeError: weight is not real numbers.
        ValueError: weight is not 2-D or not finite, or an option is unknown or not for this dtype.

    torch's quantized embedding has uint8 rows with a zero point each; here int8 rows have none.

    Example:
        >>> import numpy as np, octavo as oc
        >>> table = oc.QuantEmbedding(np.float32([[1, 127], [0, -254]]))
        >>> table([1, 0])
        array([[   0., -254.],
               [   1.,  127.]], dtype=float32)
        >>> table
        QuantEmbedding(2, 2, int8)
    """

    __slots__ = ("__weakref__", "_dim", "_group_size", "_origin", "_q", "_scale", "_zero_point")

    _origin: Origin | None  # where it lies in a file that is mapped

    _q: NDArray[Any]  # int8 (rows, dim), or two int4 a byte (rows, ceil(dim / 2))
    _scale: NDArray[Any]  # (rows, groups), float32 or float16
    _zero_point: NDArray[np.int8] | None
    _group_size: int | None
    _dim: int

    def __init__(
        self,
        weight: ArrayLike,
        *,
        dtype: QTypeLike = "int8",
        group_size: int | None = None,
        symmetric: bool = True,
        scale_dtype: ScaleDtype = "float32",
        rounding: Rounding | None = None,
    ) -> None:
        w = as_real(weight, "weight")
        int4 = is_int4(dtype, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype, rounding=rounding)
        if w.ndim != 2:
            raise ValueError(f"weight must be 2-D (num_embeddings, embedding_dim), got shape {w.shape}")
        if int4:
            from octavo._numerics import rounding as rounders

            self._set_grouped(
                getattr(rounders, f"round_{rounding or 'search'}")(
                    w, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype
                )
            )
            return
        q, scale = quantize_weight(w)
        self._hold(q, scale[:, None], None, None, w.shape[1])

    @classmethod
    def from_float(cls, layer: Any, *, activation: ActivationScheme = "symmetric", **options: Any) -> QuantEmbedding:
        """Quantizes an octavo.nn.Embedding, or anything with a ``weight``. Options are those of ``QuantEmbedding``.

        `activation` changes nothing: nothing is quantized on the way in. It is there because `quantize_dynamic` gives
        its options to every layer.

        Raises:
            TypeError: the layer has no ``weight``.
            ValueError: as for ``QuantEmbedding``.

        Example:
            >>> import octavo as oc
            >>> oc.QuantEmbedding.from_float(oc.nn.Embedding.init(10, 64), dtype="int4", group_size=32)
            QuantEmbedding(10, 64, int4, group_size=32)
        """
        if not hasattr(layer, "weight"):
            raise TypeError(f"layer must have a weight (rows, values), got {type(layer).__name__} without one")
        return cls(layer.weight, **options)

    @classmethod
    def _from_quantized(cls, q: NDArray[np.int8], scale: NDArray[np.float32]) -> QuantEmbedding:
        """int8 rows (rows, values) with a scale each (rows,)."""
        table = cls.__new__(cls)
        table._hold(q.copy(), scale[:, None].copy(), None, None, q.shape[1])
        return table

    @classmethod
    def _from_grouped(cls, weight: GroupedWeight) -> QuantEmbedding:
        table = cls.__new__(cls)
        table._set_grouped(weight)
        return table

    def _set_grouped(self, weight: GroupedWeight) -> None:
        scale = weight.scale.astype(weight.scale_dtype)
        # A copy: what is given may lie in a file that is mapped.
        zero_point = None if weight.zero_point is None else weight.zero_point.copy()
        self._hold(pack_int4(weight.q), scale, zero_point, weight.group_size, weight.q.shape[1])

    def _hold(
        self,
        q: NDArray[Any],
        scale: NDArray[Any],
        zero_point: NDArray[np.int8] | None,
        group_size: int | None,
        dim: int,
    ) -> None:
        self._q, self._scale, self._zero_point = q, scale, zero_point
        self._group_size, self._dim = group_size, dim
        self._origin = None

    def __call__(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Rows of the table.

        Args:
            ids: (...), integers from 0 to num_embeddings - 1.

        Returns:
            (..., embedding_dim) float32.

        Raises:
            TypeError: ids are not integers.
            IndexError: one is negative or too large.
        """
        return self._rows(as_ids(ids, self.num_embeddings))

    forward = __call__

    def __getitem__(self, index: Any) -> Any:
        """weight[index], of which only the rows that the index needs are dequantized: any index of a 2-D array.

        What would be a view of a float array is read-only, because writing to it would not change the table.

        Example:
            >>> import numpy as np, octavo as oc
            >>> oc.QuantEmbedding(np.float32([[1, 127], [0, -254]]))[[1, -1], :1]
            array([[0.],
                   [0.]], dtype=float32)
        """
        columns = self._columns if self.dtype == qint8 else None  # of int4, two values of a row share a byte
        shape = (self.num_embeddings, self._dim)
        return rows_first(index, shape, lambda ids: self._rows(slice(None) if ids is None else ids), columns)

    @quiet
    def _columns(self, ids: NDArray[np.int64] | None) -> NDArray[np.float32]:
        q = self._q if ids is None else self._q[:, ids]
        values: NDArray[np.float32] = np.multiply(q, self._scale, dtype=np.float32)
        return values

    @quiet
    def _rows(self, at: Any) -> NDArray[np.float32]:
        scale = self._scale[at].astype(np.float32, copy=False)
        q = self._q[at]
        if self.dtype == qint8:
            rows: NDArray[np.float32] = np.multiply(q, scale, dtype=np.float32)
            return rows
        zero_point = None if self._zero_point is None else self._zero_point[at]
        return dequantize_groups(unpack_int4(q, self._dim), scale, zero_point, self._group_size)

    @property
    def num_embeddings(self) -> int:
        return int(self._q.shape[0])

    @property
    def embedding_dim(self) -> int:
        return self._dim

    @property
    def dtype(self) -> QType:
        """Type of the weights: `qint8` or `qint4`."""
        return qint8 if self._q.dtype == np.int8 else qint4

    @property
    def group_size(self) -> int | None:
        """Values of int4 rows that share a scale; None: all of a row."""
        return self._group_size

    @property
    def weight(self) -> NDArray[np.float32]:
        """The whole table, dequantized on demand, read-only."""
        return read_only(self._rows(slice(None)))

    def int_repr(self) -> NDArray[np.int8]:
        """The integers (num_embeddings, embedding_dim): a new array."""
        return self._q.copy() if self.dtype == qint8 else unpack_int4(self._q, self._dim)

    @property
    def nbytes(self) -> int:
        """Bytes the layer holds: integers, scales and zero points."""
        return self._q.nbytes + self._scale.nbytes + (0 if self._zero_point is None else self._zero_point.nbytes)

    def _described(self) -> tuple[str, str, dict[str, Any]]:
        symmetric = None if self._zero_point is None else "False"
        options = {"group_size": self._group_size, "symmetric": symmetric}
        return f"{self.num_embeddings}, {self._dim}", self.dtype.name[1:], options

    def __copy__(self) -> QuantEmbedding:
        table = _embedding_from_state(self._state())  # immutable, so the arrays are shared
        table._origin = self._origin
        return table

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantEmbedding:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        referred = None if self._origin is None else self._origin.reduced()
        return referred if referred is not None else (_embedding_from_state, (self._state(),))

    def _state(self) -> dict[str, Any]:
        """All that the layer is, in arrays and plain values; int4 ones two a byte."""
        return {
            "version": _STATE_VERSION,
            "weight": self._q,
            "scale": self._scale,
            "zero_point": self._zero_point,
            "group_size": self._group_size,
            "embedding_dim": self._dim,
        }


@pickled
def _embedding_from_state(state: dict[str, Any]) -> QuantEmbedding:
    """What a pickle calls."""
    if state["version"] != _STATE_VERSION:
        raise ValueError(
            f"this QuantEmbedding was pickled with format {state['version']}, this octavo reads {_STATE_VERSION}"
        )
    layer = QuantEmbedding.__new__(QuantEmbedding)
    names = ("weight", "scale", "zero_point", "group_size", "embedding_dim")
    layer._hold(*(state[name] for name in names))
    return layer

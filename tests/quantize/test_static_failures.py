"""calibrate: what a batch that fails, or is run again with true arrays, leaves behind in observers and layers."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._quantize.static.snapshot import Snapshot
from reference import F

BATCH = np.random.default_rng(0).standard_normal((8, 6), dtype=F)


class Counting:
    """An observer that is none of octavo's, with state in attributes, in a list and in an array."""

    dtype, symmetric = oc.quint8, False

    def __init__(self) -> None:
        self.batches, self.largest, self.sum = 0, [0.0], np.zeros(1)

    def __call__(self, x: Any) -> Any:
        self.batches += 1
        self.largest.append(float(np.abs(x).max()))
        self.sum += float(np.abs(x).sum())
        return x

    def calculate_qparams(self) -> oc.QParams:
        return oc.choose_qparams([-max(self.largest), max(self.largest)], "quint8")


class Slotted:
    """The same in slots, one of which is empty at first."""

    __slots__ = ("__batches", "lower", "upper")

    def __init__(self) -> None:
        self.__batches, self.upper = 0, 0.0

    def __call__(self, x: Any) -> Any:
        self.__batches += 1
        self.upper, self.lower = max(self.upper, float(x.max())), float(x.min())
        return x

    @property
    def batches(self) -> int:
        return self.__batches

    def calculate_qparams(self) -> oc.QParams:
        return oc.choose_qparams([0, self.upper], "quint8")


def model(between: Any) -> Any:
    rng = np.random.default_rng(0)
    linear = oc.nn.Linear.init
    return oc.nn.Sequential(linear(6, 6, rng=rng), oc.nn.ReLU(), linear(6, 6, rng=rng), between, linear(6, 2, rng=rng))


def true_arrays_only(h: Any) -> Any:
    if type(h) is not np.ndarray:
        raise TypeError("a true array, please")
    return h


@pytest.mark.parametrize("observer", [Counting, Slotted, oc.MinMaxObserver])
def test_batch_that_is_run_again_counts_once(observer: Any) -> None:
    prepared = oc.prepare(model(true_arrays_only), oc.QConfig(activation=observer), layers={oc.nn.Linear})
    held = [prepared[i].input.observer for i in (0, 2, 4)]
    oc.calibrate(prepared, [BATCH, BATCH + F(1)])
    if observer is not oc.MinMaxObserver:
        assert [o.batches for o in held] == [2, 2, 2]
    if observer is Counting:
        assert held[0].sum == pytest.approx(np.abs(BATCH).sum() + np.abs(BATCH + F(1)).sum(), rel=1e-5)
    assert [prepared[i].input.observer for i in (0, 2, 4)] == held
    source = prepared[0].source  # its ReLU, and a use behind that, were seen only as the first run failed
    assert (source.relu_uses, source.plain_uses) == (0, 0)
    assert source.float_use == "code that takes no stand-in"
    assert not prepared[0].relu_output.seen


def state_of(prepared: Any) -> list[Any]:
    found: list[Any] = []
    for i in (0, 2, 4):
        layer = prepared[i]
        for part in (layer.input, layer.output, layer.relu_output):
            observer = part.observer
            values = (vars(observer)["largest"].copy(), observer.sum.copy(), observer.batches)
            found.append((part.seen, values))
        found.append({name: value for name, value in vars(layer.source).items() if name != "observe_relu"})
    return found


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("batches", [0, 1])
def test_batch_that_fails_leaves_no_trace(error: type[BaseException], batches: int) -> None:
    fails: list[bool] = []

    def between(h: Any) -> Any:
        if fails:
            raise error
        return h

    prepared = oc.prepare(model(between), oc.QConfig(activation=Counting), layers={oc.nn.Linear})
    for _ in range(batches):
        oc.calibrate(prepared, [BATCH])
    before = state_of(prepared)
    fails.append(True)
    with pytest.raises(error):
        oc.calibrate(prepared, [BATCH + F(5)])
    assert state_of(prepared) == before


class Locked(Counting):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Listed(list[float]):
    """Keeps what it sees as a list does."""

    def __call__(self, x: Any) -> Any:
        self.append(float(np.abs(x).max()))
        return x

    def calculate_qparams(self) -> oc.QParams:
        return oc.choose_qparams([0, max(self)], "quint8")


@pytest.mark.parametrize(
    ("observer", "reason"), [(Locked, "Locked has seen cannot be taken back"), (Listed, "Listed keeps as a list")]
)
def test_batch_is_not_run_again_where_an_observer_cannot_be_copied(observer: Any, reason: str) -> None:
    prepared = oc.prepare(model(true_arrays_only), oc.QConfig(activation=observer), layers={oc.nn.Linear})
    with pytest.raises(TypeError, match="a true array, please") as caught:
        oc.calibrate(prepared, [BATCH])
    assert reason in caught.value.__notes__[0]
    fine = oc.prepare(model(lambda h: h), oc.QConfig(activation=observer), layers={oc.nn.Linear})
    oc.calibrate(fine, [BATCH, BATCH])


def test_snapshot_can_be_restored_twice() -> None:
    observer = Counting()
    before = Snapshot([], [observer])
    for _ in range(2):
        observer(BATCH)
        before.restore()
        assert (observer.batches, observer.largest, observer.sum[0]) == (0, [0.0], 0.0)


def test_what_observers_share_stays_shared() -> None:
    one, other = Counting(), Counting()
    one.largest = other.largest
    one.peer = other  # type: ignore[attr-defined]
    before = Snapshot([], [one, other])
    one(BATCH)
    before.restore()
    assert one.largest is other.largest
    assert one.largest == [0.0]
    assert one.peer is other  # type: ignore[attr-defined]


class Delegating(Slotted):
    """Asks another object for what it does not have, and has an empty slot at first."""

    __slots__ = ("inner",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting()

    def __getattr__(self, name: str) -> Any:
        return 0.0 if name == "lower" else getattr(self.inner, name)


def test_empty_slots_of_an_observer_with_getattr_stay_empty() -> None:
    prepared = oc.prepare(model(true_arrays_only), oc.QConfig(activation=Delegating), layers={oc.nn.Linear})
    oc.calibrate(prepared, [BATCH])
    assert prepared[0].input.observer.batches == 1
    observer = Delegating()
    before = Snapshot([], [observer])
    before.restore()  # must not delete what was never there
    observer(BATCH)
    before.restore()
    with pytest.raises(AttributeError):
        object.__getattribute__(observer, "lower")


class Buffer:
    """Counts how often it is copied."""

    copies = 0

    def __deepcopy__(self, memo: Any) -> Buffer:
        Buffer.copies += 1
        return self


class Keeping(Counting):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.buffer = Buffer()

    def __call__(self, x: Any) -> Any:
        self.kept.append(np.zeros((1 << 20, 4), F))  # 16 MiB
        return super().__call__(x)


def test_observers_that_keep_much_are_not_copied_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buffer, "copies", 0)
    fails: list[bool] = []
    prepared = oc.prepare(
        oc.nn.Sequential(oc.nn.Linear.init(6, 2), lambda h: 1 // 0 if fails else h),
        oc.QConfig(activation=Keeping),
        layers={oc.nn.Linear},
    )
    oc.calibrate(prepared, [BATCH] * 12)
    copies = Buffer.copies
    assert copies <= 3 * 3  # in three batches, of three observers
    oc.calibrate(prepared, [BATCH])  # in other calls, too
    assert Buffer.copies == copies
    assert prepared[0].input.observer.batches == 13
    fails.append(True)
    with pytest.raises(ZeroDivisionError) as caught:
        oc.calibrate(prepared, [BATCH])
    assert "layers before this have seen the batch: what your own observers hold is too large" in str(
        caught.value.__notes__
    )


def test_observers_that_keep_much_are_copied_until_a_batch_has_passed() -> None:
    prepared = oc.prepare(model(true_arrays_only), oc.QConfig(activation=Keeping), layers={oc.nn.Linear})
    first = prepared[0].input.observer
    first.kept += [np.zeros((1 << 20, 20), F)]
    oc.calibrate(prepared, [BATCH, BATCH])
    assert first.batches == 2
    assert Snapshot([], [first]).nbytes > 1 << 26
    assert Snapshot([], [oc.MinMaxObserver()]).nbytes == 0

"""The second step of static quantization: `calibrate` shows a prepared model data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from octavo._layers.arrays.traced import Tracer
from octavo._models import walk as tree
from octavo._observers.base import Observer
from octavo._quantize.batches import Forward, check_batches, check_callable, run_model
from octavo._quantize.static.observed import Prepared, observed_layers
from octavo._quantize.static.snapshot import Snapshot
from octavo._util.progress import with_bar

__all__ = ["calibrate"]

_HEAVY_BYTES = 1 << 26


def calibrate(
    prepared: Any,
    batches: Iterable[Any],
    *,
    forward: Forward = run_model,
    progress: bool = False,
) -> None:
    """Runs a prepared model over batches, so that it has seen its ranges and how each layer's result is used.

    Args:
        prepared: what `prepare` returned.
        batches: an iterable of batches, [x] for one; some hundred rows of real inputs are enough. They are seen in
            constant memory.
        forward: how to run the model on a batch; by default model(batch), or model.predict(batch) of an estimator. For
            batches (inputs, targets): forward=lambda model, batch: model(batch[0]).
        progress: show a progress bar (needs tqdm).

    Raises:
        TypeError, ValueError: a batch of another width, or with NaN or infinity: the layer is named, and a note gives
            the batch. The model stays usable, with what it has seen of the batches before.
        TypeError: batches is one array, whose rows would be taken for batches.
        ValueError: there was no batch, or the model is not prepared.
        ImportError: progress without tqdm; the message names the extra.

    Notes:
        Unlike a run of the prepared model by hand, this function knows when the model has returned, and so which arrays
        leave the model. Without that, a ReLU cannot be folded into the layer before it. If the model's code fails on a
        stand-in because it accepts only true arrays, the batch is run again with arrays, and results stay float32.
        Before each batch the state of all observers is copied, so that a batch that fails counts for nothing. It is not
        if an observer cannot be copied, or once your own observers hold more than 64 MiB and a batch has passed: then a
        batch that fails is not run again and leaves its traces, as a note of the error says.
        Threads that calibrate one model take turns, batch by batch.

    Example:
        >>> import numpy as np, octavo as oc
        >>> prepared = oc.prepare(oc.nn.Linear.init(4, 2), oc.default_qconfig, layers={oc.nn.Linear})
        >>> oc.calibrate(prepared, [np.ones((1, 4), np.float32)], progress=False)
    """
    check_callable(forward)
    batches = check_batches(batches, "batches")
    layers = [layer for _, layer in observed_layers(prepared)]
    tracers = [tracer for _, tracer in sorted({id(layer.tracer): layer.tracer for layer in layers}.items())]
    observers = [value for _, value in tree.walk(prepared) if isinstance(value, Observer)]
    count = 0
    for count, batch in enumerate(with_bar(batches, "calibrating", "batch") if progress else batches, start=1):
        try:
            with contextlib.ExitStack() as turn:
                for tracer in tracers:
                    turn.enter_context(tracer.lock)
                _run(prepared, batch, forward, tracers, _snapshot(layers, observers, tracers))
        except Exception as error:
            error.add_note(f"octavo.calibrate: this was batch {count - 1}")
            raise
    if count == 0:
        raise ValueError("batches must hold at least one batch, got none; a generator can be used only once")


def _snapshot(layers: list[Prepared], observers: list[Observer], tracers: list[Tracer]) -> Snapshot | TypeError:
    """What has been seen; or why that cannot be kept, which matters only where a batch fails."""
    if any(tracer.heavy for tracer in tracers):
        return TypeError("what your own observers hold is too large to be copied before each batch")
    try:
        return Snapshot(layers, observers)
    except TypeError as error:
        return error


def _run(prepared: Any, batch: Any, forward: Forward, tracers: list[Tracer], before: Snapshot | TypeError) -> None:
    """Shows the model a batch, or, where that fails, nothing of it."""
    try:
        _pass(prepared, batch, forward, tracers, stand_ins=True)
        for tracer in tracers:
            tracer.heavy |= isinstance(before, Snapshot) and before.nbytes > _HEAVY_BYTES
        return
    except BaseException as error:
        if isinstance(before, TypeError):
            error.add_note(f"octavo.calibrate: layers before this have seen the batch: {before}")
            raise
        before.restore()
        if not isinstance(error, Exception):
            raise
        first = error
    try:
        # Either the batch is at fault, and fails again, or the code cannot take stand-ins. Layers before the failure
        # have seen the batch, and must not count it twice.
        reached = sum(tracer.calls for tracer in tracers)
        _pass(prepared, batch, forward, tracers, stand_ins=False)
        if sum(tracer.calls for tracer in tracers) < reached:
            raise first  # the batch could be read only once, so that the second run says nothing
    except BaseException:
        before.restore()
        raise
    finally:
        del first  # it refers to this frame, and the frame to it


def _pass(prepared: Any, batch: Any, forward: Forward, tracers: list[Tracer], *, stand_ins: bool) -> None:
    for tracer in tracers:
        tracer.begin(stand_ins=stand_ins)
    try:
        result = forward(prepared, batch)
        for tracer in tracers:
            tracer.finish()  # while the result is alive
        del result
    finally:
        for tracer in tracers:
            tracer.end()

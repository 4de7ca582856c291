"""Pickles of 0.1.0 load for ever, to objects equal to new ones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pickle_fixtures import KINDS, PICKLES, contents, outputs


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_of_0_1_0_loads_to_an_equal_object(kind: str) -> None:
    loaded, made = pickle.loads((PICKLES / f"{kind}.pickle").read_bytes()), KINDS[kind]()
    assert contents(loaded) == contents(made)
    before, now = outputs(kind, loaded), outputs(kind, made)
    if now is not None:
        np.testing.assert_array_equal(before, now)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_new_pickle_loads_to_an_equal_object(kind: str) -> None:
    made = KINDS[kind]()
    assert contents(pickle.loads(pickle.dumps(made))) == contents(made)


def test_every_recorded_pickle_is_checked() -> None:
    assert {path.stem for path in PICKLES.glob("*.pickle")} == set(KINDS)

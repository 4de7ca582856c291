"""Fixtures that the modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import hypothesis
import numpy as np
import pytest

import octavo as oc
from reference import random_layer

hypothesis.settings.register_profile("untimed", deadline=None)  # machines that test may be busy
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--errstate",
        choices=("default", "raise"),
        default="default",
        help="what NumPy does about floating-point errors while a test runs; octavo must not depend on it",
    )


@pytest.fixture(autouse=True)
def _errstate(request: pytest.FixtureRequest) -> Iterator[None]:
    """The treatment of floating-point errors that --errstate asks for, as a user may have set it with np.seterr."""
    raises = request.config.getoption("--errstate") == "raise" and request.node.get_closest_marker("underflows") is None
    with np.errstate(all="raise") if raises else nullcontext():
        yield


@pytest.fixture(params=[k.name for k in oc.kernels()])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kernel of this build in turn, forced; one that this CPU does not run is skipped with the reason."""
    info = next(k for k in oc.kernels() if k.name == request.param)
    if not info.supported:
        pytest.skip(f"kernel {info.name} needs {', '.join(info.missing)}, which this CPU lacks")
    with oc.use_kernel(info.name):
        yield info.name


@pytest.fixture(params=[1, 2, 5], ids=lambda n: f"{n}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """That many threads, put back afterwards."""
    before = oc.get_num_threads()
    oc.set_num_threads(request.param)
    yield request.param
    oc.set_num_threads(before)


@pytest.fixture
def layer() -> oc.QuantLinear:
    """A small layer, 24 -> 10, with a bias."""
    return random_layer(24, 10)

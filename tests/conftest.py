"""What every test shares: the same random numbers on every run, and no test's choice of instruction set outlives it."""

import os
from collections.abc import Iterator

# The built-in cost model, so that tests choose alike on every machine and write nothing into a home directory.
os.environ["FASTCONV_CALIBRATION"] = "off"

import pytest
import torch
from hypothesis import settings

# The same examples on every run, and as slow a machine as it likes: a failure is then a wrong answer.
settings.register_profile("fastconv", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("fastconv")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def keep_isa() -> Iterator[None]:
    """For tests that select an instruction set: the one in use before is put back."""
    from fastconv import introspection

    before = introspection.isa()
    yield
    introspection.select_isa(before)


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    """An empty cache of packed weights, and the capacity of before put back."""
    from fastconv.functional import cache

    capacity = cache.stats()["capacity"]
    cache.clear()
    yield
    cache.set_capacity(capacity)
    cache.clear()

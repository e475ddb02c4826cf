"""Every test here starts without compiled graphs."""

import pytest
from compiling import fresh


@pytest.fixture(autouse=True)
def _no_graphs() -> None:
    fresh()

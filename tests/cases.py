"""The cases live in the package, where `fastconv verify` finds them; the tests reach them here."""

from fastconv.verify.cases import *  # noqa: F403
from fastconv.verify.cases import __all__  # noqa: F401

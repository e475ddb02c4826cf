"""Networks that others wrote, and what a conversion has to get right in each: `fastconv bench --suite zoo`."""

from __future__ import annotations

from fastconv.bench.zoo.network import MissingPackage, ZooNetwork
from fastconv.bench.zoo.registry import ZOO

__all__ = ["ZOO", "MissingPackage", "ZooNetwork"]

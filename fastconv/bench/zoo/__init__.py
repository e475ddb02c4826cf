"""Networks that others wrote, and what a conversion has to get right in each: `fastconv bench --suite zoo`."""

from __future__ import annotations

from fastconv.bench.zoo import from_others, from_pytorchcv, from_transformers, own
from fastconv.bench.zoo.network import MissingPackage, ZooNetwork

ZOO: dict[str, ZooNetwork] = {
    network.name: network
    for network in (*from_pytorchcv.NETWORKS, *from_transformers.NETWORKS, *from_others.NETWORKS, *own.NETWORKS)
}

__all__ = ["ZOO", "MissingPackage", "ZooNetwork"]

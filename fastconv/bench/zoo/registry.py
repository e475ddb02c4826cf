"""All networks of the zoo by name, in the order in which they are measured."""

from __future__ import annotations

from fastconv.bench.zoo import from_others, from_pytorchcv, from_transformers, own
from fastconv.bench.zoo.network import ZooNetwork

ZOO: dict[str, ZooNetwork] = {
    network.name: network
    for network in (*from_pytorchcv.NETWORKS, *from_transformers.NETWORKS, *from_others.NETWORKS, *own.NETWORKS)
}

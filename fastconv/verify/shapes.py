"""The shapes and options that the convolution cases combine: small, and on the edges that kernels get wrong."""

from __future__ import annotations

from typing import Any

ACTS = (
    "identity", "relu", "relu6", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu",
    "elu",
)  # fmt: skip
# The base problem of each family of kernels, for the options that every family implements in its own epilogue.
DENSE, POINTWISE, DEPTHWISE = "mb2ic8ih6iw7oc18kh3ph1", "mb2ic17ih5iw7oc19kh1", "g20mb2ic20ih6iw7oc20kh3ph1"
FAMILIES = (DENSE, POINTWISE, DEPTHWISE)
# Groups of as many channels as a fragment of a tensor core holds, several to a block.
WHOLE_GROUPS = "g4mb2ic32ih9iw18oc32kh3ph1"

# Shapes of the plain convolution; its gradients run over them too.
DENSE_SHAPES = (
    "mb1ic1ih1oc1kh1",
    "mb1ic1ih1oc1kh3ph1",
    "mb2ic5ih7iw11oc7kh3ph1",
    "mb1ic13ih17iw5oc3kh3",
    "mb3ic7ih5oc11kh5ph2",
    "mb1ic16ih14oc16kh3ph1",
    "mb1ic64ih9oc33kh3ph1",
    "mb1ic33ih8oc66kh3ph1",  # past a block of 32 or 64 channels by a little
    "mb0ic4ih5oc6kh3ph1",
    "mb1ic3ih29oc32kh7sh2ph3",
    "mb2ic3ih23oc24kh3sh2ph1",
    "mb1ic1ih9oc1kh3ph1",
    "mb2ic6ih9oc10kh3sh2ph1",
    "mb1ic6ih11iw8oc5kh3sh3ph1",
    "mb1ic4ih9iw10oc6kh2sh2",
    "mb1ic5ih10oc6kh3sh2sw1ph1pw0",
    "mb1ic6ih12oc9kh3ph2dh1",
    "mb1ic4ih13iw11oc5kh3sh2ph3pw2dh2dw1",
    "mb1ic5ih8iw12oc9kh1kw7ph0pw3",
    "mb1ic5ih12iw8oc9kh5kw1ph2pw0",
    "mb1ic3ih3oc5kh3ph4",  # more padding than image
    "mb1ic4ih2oc3kh5ph5",
    "mb1ic3ih4oc4kh3sh2ph3",
    "mb1ic2ih19oc3kh11ph5",
    "mb1ic4ih20oc3kh15",
    "mb1ic7ih1iw37oc9kh1kw3ph0pw1",
    "mb1ic7ih37iw1oc9kh3kw1ph1pw0",
)
POINTWISE_SHAPES = (
    "mb1ic16ih7oc16kh1",
    "mb2ic31ih5iw3oc37kh1",
    "mb1ic3ih9oc100kh1",
    "mb1ic530ih3oc20kh1",  # past a block of the reduction
    "mb1ic20ih3oc130kh1",
    "mb2ic10ih9oc12kh1sh2",
    "mb1ic5ih4oc7kh1ph1",
    "mb1ic64ih1oc10kh1",
)
GROUPED_SHAPES = (
    "g2mb2ic8ih7oc12kh3ph1",
    "g3mb1ic9ih8oc15kh3sh2ph1",
    "g4mb1ic64ih6oc32kh1",
    "g5mb1ic5ih7oc35kh3ph1",
    "g2mb1ic34ih5oc38kh3ph2dh1",
    WHOLE_GROUPS,
    "g4mb1ic64ih17iw5oc64kh3sh2ph1",
    "g4mb1ic32ih11iw12oc32kh5kw2sh3ph3dh1",
    # Several groups to a vector: rows past a tile, vectors that groups do not fill, more channels than filters.
    "g8mb1ic32ih5iw37oc32kh3ph1",
    "g6mb1ic24ih9iw31oc12kh3sh2ph1",
    "g3mb1ic18ih7iw16oc9kh2kw5ph1pw2",
    "g16mb2ic32ih10iw4oc32kh3ph1",
)
DEPTHWISE_SHAPES = (
    "g1mb1ic1ih7oc1kh3ph1",
    "g8mb2ic8ih9iw7oc8kh3ph1",
    "g17mb1ic17ih11iw13oc17kh3ph1",
    "g33mb1ic33ih9oc33kh3sh2ph1",
    "g16mb1ic16ih12iw9oc16kh5ph2",
    "g19mb1ic19ih11oc19kh5sh2ph2",
    "g16mb1ic16ih13oc16kh7ph3",
    "g6mb1ic6ih15oc6kh7sh2ph3",
    "g6mb2ic6ih7oc12kh3ph1",
    "g7mb1ic7ih8oc21kh5sh2ph2",
    "g16mb1ic16ih10oc16kh3ph2dh1",
    "g8mb1ic8ih3oc8kh7ph3",
    "g3mb1ic3ih12iw36oc3kh9ph4",
    "g2mb1ic2ih10iw15oc4kh16ph8",
    "g1mb1ic1ih13iw20oc3kh12kw10ph5pw3",
    "g4mb1ic4ih5iw40oc4kh3ph1",
    "g64mb1ic64ih2oc64kh3ph1",
    "g9mb1ic9ih9iw8oc9kh1kw5ph0pw2",
    "g8mb0ic8ih9oc8kh3ph1",
)
CONV_SHAPES = (*DENSE_SHAPES, *POINTWISE_SHAPES, *GROUPED_SHAPES, *DEPTHWISE_SHAPES)
ASYMMETRIC: tuple[tuple[str, tuple[int, int, int, int]], ...] = (
    ("mb1ic3ih14oc8kh3sh2", (0, 1, 0, 1)),
    ("mb1ic5ih7iw9oc6kh4", (1, 2, 1, 2)),
    ("mb1ic4ih6oc4kh3", (3, 0, 0, 2)),
    ("g8mb1ic8ih8iw9oc8kh3sh2", (0, 1, 0, 1)),
    ("g18mb1ic18ih9oc18kh5sh2", (1, 2, 2, 1)),
    ("mb1ic6ih5oc7kh1", (1, 0, 0, 2)),
)
EPILOGUES: tuple[dict[str, Any], ...] = (
    {"bias": False},
    {"scale": True, "bias": False, "act": "relu"},
    {"scale": True, "shift": True, "act": "relu6"},
    {"residual": True, "act": "relu"},
    {"scale": True, "shift": True, "residual": True, "act": "prelu", "alpha": "channel"},
    {"residual": True, "bias": False, "act": "prelu", "alpha": "full"},
)
SPECIALS: tuple[dict[str, Any], ...] = (
    {"fill": "nan", "act": "relu"},
    {"fill": "nan", "act": "relu6"},
    {"fill": "nan", "act": "prelu"},
    {"fill": "inf"},
    {"fill": "inf", "act": "sigmoid"},
    {"view": "sliced"},
    {"view": "expanded"},
    {"view": "transposed", "act": "relu"},
    {"view": "offset"},
    {"view": "weight"},
    {"fill": "integer", "view": "sliced", "residual": True, "act": "relu"},
    {"fill": "integer", "scale": True, "shift": True, "act": "prelu", "alpha": "full"},
)


def act_options() -> list[dict[str, Any]]:
    """Every activation but identity, PReLU with each form of its parameter."""
    plain: list[dict[str, Any]] = [{"act": act} for act in ACTS if act not in ("identity", "prelu")]
    return plain + [{"act": "prelu", "alpha": form} for form in ("one", "channel", "full")]

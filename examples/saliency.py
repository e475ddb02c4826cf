"""Where a network looks: Grad-CAM and SmoothGrad heat maps on photos, through fastconv's backward.

    python examples/saliency.py [PHOTO ...] [--samples 16] [--output saliency.png]

`fastconv.replace` swaps the layers of a trained EfficientNet-Lite0 one for one; hooks and autograd work as before.
Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) weighs the last convolution's channels with the mean gradient that
the winning class has there. SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825) averages the gradient of the class with
respect to the pixels over noisy copies of the photo. The same maps from torch's own backward are the check.
"""

import argparse
import copy

import matplotlib
import numpy as np
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn

import fastconv
from fastconv.demo.classify import SIZE, labels, preprocess, top5
from fastconv.demo.networks import load_efficientnet_lite0
from fastconv.demo.photos import load_image, shipped_photo

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def with_plain_layers(model: nn.Module) -> nn.Module:
    """The same network of torch's own layers: its convolutions pad in a forward of their own, which stays as it is."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and hasattr(child, "static_padding"):
                padding = child.static_padding
                del child.static_padding
                child.__class__ = nn.Conv2d
                setattr(parent, name, nn.Sequential(padding, child))
    return model


def last_convolution(model: nn.Module) -> nn.Module:
    """The convolution whose output the classifier's pooling averages."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]


def grad_cam(model: nn.Module, x: Tensor, label: int) -> Tensor:
    """relu(sum over channels of mean gradient times activation): (H, W) of the photo, from 0 to 1."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        seen["y"] = y
        y.register_hook(lambda gradient: seen.update(dy=gradient))

    handle = last_convolution(model).register_forward_hook(keep)
    model(x.clone().requires_grad_())[0, label].backward()
    handle.remove()
    weights = seen["dy"].mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * seen["y"]).sum(dim=1, keepdim=True)).detach()
    return normalise(torch_f.interpolate(cam, size=x.shape[2:], mode="bicubic")[0, 0].clamp(min=0))


def gradient(model: nn.Module, x: Tensor, label: int, samples: int, spread: float) -> Tensor:
    """|d logit / d pixel|, the mean over noisy copies, the largest of the colours: (H, W), from 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(x)
    for _ in range(samples):
        noise = torch.randn(x.shape, generator=generator) * spread * (x.max() - x.min())
        noisy = (x + noise).requires_grad_()
        model(noisy)[0, label].backward()
        total += noisy.grad.abs()
    return normalise(total[0].amax(dim=0))


def normalise(heat: Tensor) -> Tensor:
    """Scaled so that the hottest hundredth of the pixels is 1."""
    return (heat / torch.quantile(heat, 0.99).clamp(min=1e-12)).clamp(0, 1)


def shown(x: Tensor) -> np.ndarray:
    """The network's input as a picture."""
    low, high = x.min(), x.max()
    return ((x[0] - low) / (high - low)).permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", help="image files (default: photos that ship with scikit-image)")
    parser.add_argument("--samples", type=int, default=16, help="noisy copies for SmoothGrad")
    parser.add_argument("--quick", action="store_true", help="one photo, two copies")
    parser.add_argument("--output", default="saliency.png")
    arguments = parser.parse_args()

    photos = [load_image(path) for path in arguments.photos] or [
        shipped_photo(n) for n in ("chelsea", "coffee", "flower")
    ]
    samples = 2 if arguments.quick else arguments.samples
    photos = photos[:1] if arguments.quick else photos
    theirs = load_efficientnet_lite0()
    ours = fastconv.replace(with_plain_layers(copy.deepcopy(theirs)))
    served = [row.served for row in fastconv.explain(ours).rows if "Conv2d" in row.operation]
    print(f"{sum(served)} of {len(served)} convolutions run on fastconv's kernels, forward and backward")

    titles = ("", f"Grad-CAM, {SIZE // 32} x {SIZE // 32} cells", "gradient", f"SmoothGrad, {samples} copies")
    figure, axes = plt.subplots(len(photos), 4, figsize=(11.6, 2.85 * len(photos)), squeeze=False, layout="constrained")
    for row, photo in zip(axes, photos, strict=True):
        x = preprocess(photo)
        with torch.no_grad():
            guess = top5(ours(x)[0], labels())[0]
        both = []
        for model in (ours, theirs):
            cam = grad_cam(model, x, guess.index)
            both.append((cam, *(gradient(model, x, guess.index, *how) for how in ((1, 0.0), (samples, 0.15)))))
        # The mean: a ReLU6 that rounding puts on the other side of 0 or 6 moves single pixels, in torch's float32 too.
        apart = max(float((a - b).abs().mean()) for a, b in zip(*both, strict=True))
        assert apart < 1e-3, f"fastconv's maps differ from torch's by {apart}"
        print(f"{photo.name}: {guess.label} ({100 * guess.probability:.0f} %), maps within {apart:.1e} of torch's")

        for axis, title, heat in zip(row, titles, (None, *both[0]), strict=True):
            axis.set_axis_off()
            axis.set_title(title or f"{guess.label}, {100 * guess.probability:.0f} %", fontsize=11)
            if axis in row[:2]:
                axis.imshow(shown(x))
            if heat is not None:
                cold = 0.15 + 0.6 * heat if axis is row[1] else None  # the photo shows through where it is cold
                image = axis.imshow(heat, cmap="inferno", alpha=cold, vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, label="weight in the decision (hottest 1 % of pixels = 1)")
    figure.savefig(arguments.output, dpi=100)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

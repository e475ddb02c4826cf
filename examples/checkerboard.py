"""Checkerboards of transposed convolution, and why upsampling + convolution draws none.

    python examples/checkerboard.py [PHOTO] [--steps 120] [--output checkerboard.png]

A 3x3 filter at stride 2 puts one, two or four products on an output pixel, in turns of two: any image that goes through
such layers gets a grid with a period of two pixels (Odena et al. 2016, doi 10.23915/distill.00003). After nearest
upsampling every output pixel has nine. Two small decoders that differ in nothing else blow a photo up four times, drawn
as they were initialised and after training; the spectrum shows the grid as dots away from the centre.
"""

import argparse

import matplotlib
import numpy as np
import torch
import torch.nn.functional as torch_f
from torch import Tensor, nn

import fastconv.nn as fnn
from fastconv.demo.photos import fit, load_image, shipped_photo

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CHANNELS, CROP = 12, 128


def transposed(c: int, k: int) -> nn.Module:
    return fnn.ConvTranspose2d(c, k, 3, stride=2, padding=1, output_padding=1)


def upsampled(c: int, k: int) -> nn.Module:
    return fnn.UpsampleConv2d(c, k, 3, scale_factor=2, padding=1)


def decoder(stage) -> nn.Module:
    """Four times as large, in two stages."""
    torch.manual_seed(1)
    return nn.Sequential(stage(3, CHANNELS), fnn.PReLU(CHANNELS), stage(CHANNELS, CHANNELS), fnn.PReLU(CHANNELS),
                         fnn.Conv2d(CHANNELS, 3, 1))  # fmt: skip


def train(model: nn.Module, photo: Tensor, steps: int) -> None:
    """Learns to reconstruct crops of the photo from a quarter of their resolution."""
    torch.manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        top, left = (4 * int(torch.randint((extent - 64) // 4, ())) for extent in photo.shape[2:])
        target = photo[:, :, top : top + 64, left : left + 64]
        loss = (model(torch_f.avg_pool2d(target, 4)) - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()


def grid_share(grey: Tensor) -> float:
    """Share of the variance that repeats every four pixels, what two stages of stride 2 can draw by themselves."""
    h, w = (extent // 4 * 4 for extent in grey.shape)
    cells = grey[:h, :w].reshape(h // 4, 4, w // 4, 4).mean(dim=(0, 2))
    return float(cells.var(correction=0) / grey.var(correction=0))


def spectrum(grey: Tensor) -> Tensor:
    """log10 of the power at each frequency, the mean in the centre."""
    window = torch.hann_window(grey.shape[0])[:, None] * torch.hann_window(grey.shape[1])
    power = torch.fft.fftshift(torch.fft.fft2((grey - grey.mean()) * window)).abs().square()
    return power.clamp(min=1e-6).log10()


def picture(y: Tensor) -> np.ndarray:
    """(1, C, H, W) stretched to what can be shown."""
    low, high = torch.quantile(y, 0.01), torch.quantile(y, 0.99)
    return ((y[0] - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="image file (default: a photo that ships with scikit-image)")
    parser.add_argument("--steps", type=int, default=120, help="of training")
    parser.add_argument("--quick", action="store_true", help="five steps")
    parser.add_argument("--output", default="checkerboard.png")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps = 5

    pixels = fit((load_image(arguments.photo) if arguments.photo else shipped_photo("chelsea")).pixels, 384)
    photo = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    photo = photo[:, :, : photo.shape[2] // 4 * 4, : photo.shape[3] // 4 * 4]
    low = torch_f.avg_pool2d(photo, 4)
    top, left = ((extent - CROP) // 2 for extent in photo.shape[2:])

    figure, axes = plt.subplots(2, 5, figsize=(14.5, 6.1), layout="constrained")
    for row, (name, stage) in zip(axes, (("ConvTranspose2d", transposed), ("UpsampleConv2d", upsampled)), strict=True):
        model = decoder(stage)
        layer = stage(1, 1)
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), (1.0, 0.0), strict=True):
                parameter.fill_(value)
            counts = layer(torch.ones(1, 1, 8, 8))[0, 0, 2:-2, 2:-2]  # products on each pixel, away from the border
            fresh = model(low)
        train(model, photo, arguments.steps)
        with torch.no_grad():
            trained = model(low)
        share = grid_share(fresh.mean(dim=1)[0])
        error = float((trained - photo).square().mean().sqrt())
        print(
            f"{name:16s} {int(counts.min())} to {int(counts.max())} products a pixel; untrained, {100 * share:.2f} % "
            f"of the variance is grid; trained, the error is {255 * error:.1f} of 255"
        )
        grey = fresh.mean(dim=1, keepdim=True)
        shown = (("products on each pixel", counts), (f"untrained: {100 * share:.0f} % is grid", grey),
                 ("its spectrum, cycles a pixel", grey), (f"after {arguments.steps} steps", trained),
                 ("its spectrum, cycles a pixel", trained))  # fmt: skip
        for axis, (title, y) in zip(row, shown, strict=True):
            axis.set_title(title, fontsize=10.5)
            if y is counts:
                axis.imshow(counts, cmap="viridis", vmin=0, vmax=9)
                for (p, q), count in np.ndenumerate(counts.numpy()):
                    axis.text(
                        q, p, int(count), ha="center", va="center", fontsize=7, color="black" if count > 6 else "white"
                    )
            elif "spectrum" in title:
                axis.imshow(spectrum(y[0].mean(dim=0)), cmap="magma", extent=(-0.5, 0.5, -0.5, 0.5), vmin=-4, vmax=4)
            else:
                crop = y[:, :, top : top + CROP, left : left + CROP]
                axis.imshow(picture(crop), cmap="gray", interpolation="nearest")
            if "spectrum" not in title:
                axis.set_xticks([])
                axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=12)
    figure.savefig(arguments.output, dpi=100)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

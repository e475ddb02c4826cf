"""Doubling a photo's size: nearest upsampling and a smoothing filter in one call, beside the pair of calls of torch.

    python examples/upsample_conv.py [PHOTO] [--output upsampled.png]

`upsample_conv2d` never writes the upsampled image: where two filter taps fall on the same source pixel it adds their
weights first. The picture shows a detail of the photo, enlarged blockwise and smoothed; the times are medians of
interleaved rounds, of the photo and of a decoder layer of a network.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as torch_f
from PIL import Image

import fastconv.functional as ff
from fastconv.bench.timing import Effort, interleave
from fastconv.demo.photos import fit, load_image, shipped_photo


def unfused(x: torch.Tensor, weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """What torch programs write."""
    return torch_f.conv2d(torch_f.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1, groups=groups)


def compare(title: str, x: torch.Tensor, weight: torch.Tensor, effort: Effort, groups: int = 1) -> torch.Tensor:
    """Prints the times and the difference of both programs; returns the fused result."""
    nhwc = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        ours = ff.upsample_conv2d(x, weight, scale_factor=2, padding=1, groups=groups)
        difference = (ours - unfused(x, weight, groups)).abs().max()
        times = interleave(
            {
                "torch, NCHW": lambda: unfused(x, weight, groups),
                "torch, channels_last": lambda: unfused(nhwc, weight, groups),
                "fastconv, NCHW": lambda: ff.upsample_conv2d(x, weight, scale_factor=2, padding=1, groups=groups),
                "fastconv, channels_last": lambda: ff.upsample_conv2d(
                    nhwc, weight, scale_factor=2, padding=1, groups=groups
                ),
            },
            effort,
        )
    print(f"{title}: largest difference {difference:.2e}")
    for name, timing in times.items():
        print(f"  {name:24s} {1e3 * timing.median:8.3f} ms  ({1e3 * timing.q20:.3f} to {1e3 * timing.q80:.3f})")
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="image file (default: a photo that ships with scikit-image)")
    parser.add_argument("--quick", action="store_true", help="time briefly")
    parser.add_argument("--output", default="upsampled.png")
    arguments = parser.parse_args()
    effort = Effort.quick() if arguments.quick else Effort()

    pixels = fit((load_image(arguments.photo) if arguments.photo else shipped_photo("chelsea")).pixels, 512)
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().unsqueeze(0)  # (1, 3, H, W)
    binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (binomial[:, None] * binomial).expand(3, 1, 3, 3).contiguous()  # one filter per colour
    smooth = compare(f"photo, {x.shape[3]} x {x.shape[2]} pixels", x, weight, effort, groups=3)

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 128, 56, 56, generator=generator)
    compare("decoder layer, 128 to 64 channels, 56 px to 112 px", features, torch.randn(64, 128, 3, 3) / 34, effort)

    # a detail, eight times as large: the source pixels beside the smoothed ones
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    top, left = height, width
    after = smooth[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
    details = (
        pixels[top : top + height, left : left + width],
        after[2 * top :][: 2 * height, 2 * left :][:, : 2 * width],
    )
    shown = [np.array(Image.fromarray(d).resize((4 * width, 4 * height), Image.Resampling.NEAREST)) for d in details]
    Image.fromarray(np.concatenate(shown, axis=1)).save(arguments.output)
    print(f"wrote {arguments.output}: source pixels, and upsampled with a binomial filter")


if __name__ == "__main__":
    main()

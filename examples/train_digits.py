"""Training on fastconv's kernels beside torch's: the same losses from the same seed, to the same accuracy.

    python examples/train_digits.py [--epochs 8] [--output trained.png]

Three small networks learn scikit-learn's handwritten digits: a plain [INPUT-CONV-RELU-POOL-FC] one, one with residuals,
one with depthwise convolutions. `fastconv.replace` swaps the layers; nothing else differs. A run in float64 judges
both: the middle plots show how far each loss is from it. At first both are at float32's rounding; then a value rounds
to the other side of a ReLU's kink, in torch's run or in ours, and the runs part without becoming better or worse.
"""

import argparse
from collections.abc import Callable

import matplotlib
import torch
import torch.nn.functional as torch_f
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastconv

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def conv_bn_act(c: int, k: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c, k, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(k), nn.ReLU6()]


class Residual(nn.Module):
    """x + body(x)"""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def with_residuals() -> nn.Module:
    body = [Residual(*conv_bn_act(16, 16), *conv_bn_act(16, 16)) for _ in range(2)]
    return nn.Sequential(*conv_bn_act(1, 16), *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def with_depthwise() -> nn.Module:
    body = [Residual(*conv_bn_act(16, 48, 1), *conv_bn_act(48, 48, groups=48), *conv_bn_act(48, 16, 1)) for _ in "12"]
    return nn.Sequential(*conv_bn_act(1, 16), *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv, ReLU, pool, linear": plain,
    "residual": with_residuals,
    "depthwise": with_depthwise,
}


def train(model: nn.Module, images: Tensor, labels: Tensor, split: int, epochs: int) -> tuple[list[float], list[float]]:
    """The loss at every step, and the accuracy in percent after each epoch."""
    dtype = images.dtype
    model = model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order = torch.Generator().manual_seed(1)
    losses, accuracies = [], []
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(split, generator=order).split(50):
            optimizer.zero_grad()
            loss = torch_f.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        falling.step()
        with torch.inference_mode():
            right = model.eval()(images[split:]).argmax(1) == labels[split:]
        accuracies.append(100 * right.double().mean().item())
    return losses, accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one epoch")
    parser.add_argument("--output", default="trained.png")
    arguments = parser.parse_args()
    epochs = 1 if arguments.quick else arguments.epochs
    torch.set_num_threads(1)  # images of 8 x 8 pixels: a second thread only waits

    digits = load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(digits.images).float().unsqueeze(1)[order] / 8 - 1
    labels, split = torch.from_numpy(digits.target)[order], 1400

    figure, axes = plt.subplots(3, len(NETWORKS), figsize=(12, 8), sharex="row", sharey="row", layout="constrained")
    for column, (name, build) in enumerate(NETWORKS.items()):
        runs = {}
        for kind, dtype in {"torch": torch.float32, "fastconv": torch.float32, "float64": torch.float64}.items():
            torch.manual_seed(0)
            model = build() if kind != "fastconv" else fastconv.replace(build())
            runs[kind] = train(model, images.to(dtype), labels, split, epochs)
        for kind, colour, width, dashes in (("torch", "#c0c0c0", 5, "-"), ("fastconv", "#c03020", 1.4, "-")):
            losses, accuracies = runs[kind]
            error = [max(abs(a - b), 1e-9) for a, b in zip(losses, runs["float64"][0], strict=True)]
            line = {"color": colour, "linewidth": width, "linestyle": dashes, "label": kind}
            axes[0, column].semilogy(losses, **line)
            axes[1, column].semilogy(error, **line)
            axes[2, column].plot(range(1, epochs + 1), accuracies, marker="o", **line)
            print(f"{name:26s} {kind:9s} loss {losses[0]:.4f} to {losses[-1]:.4f}, {accuracies[-1]:.2f} % right")
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("step")
        axes[2, column].set_xlabel("epoch")
    for row, text in enumerate(("loss", "distance from the loss in float64", "test images right, %")):
        axes[row, 0].set_ylabel(text)
    axes[0, 0].legend()
    figure.savefig(arguments.output, dpi=110)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

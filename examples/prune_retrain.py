"""Pruning filters by their norm, training on, and leaving them out: accuracy and measured time at each round.

    python examples/prune_retrain.py [--rounds 6] [--epochs 8] [--norm 1] [--output pruned.png]

A small residual network learns scikit-learn's digits on fastconv's kernels. Each round sets a quarter of the remaining
filters to zero, those with the smallest L1 or L2 norm (torch.nn.utils.prune), trains on with the masks, and converts:
`fastconv.convert` does not compute what is zero, where torch multiplies by it. Times are medians of interleaved rounds.
"""

import argparse
from functools import partial

import matplotlib
import torch
import torch.nn.functional as torch_f
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune

import fastconv
from fastconv.bench.timing import Effort, interleave

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def conv_bn(c: int, k: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k))


class Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))"""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(c, c), conv_bn(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def network(width: int) -> nn.Module:
    wide = 2 * width
    return nn.Sequential(
        conv_bn(1, width), nn.ReLU(), Block(width), Block(width),
        conv_bn(width, wide, 2), nn.ReLU(), Block(wide), Block(wide),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10),
    )  # fmt: skip


def prunable(model: nn.Module) -> list[nn.Conv2d]:
    """Each block's first convolution: the others' outputs are summands, which keep what any summand has."""
    return [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "first" in name]


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    model.train()
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            loss = torch_f.cross_entropy(model(x[batch]), y[batch])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        cosine.step()
    model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.inference_mode():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def filters(converted: nn.Module) -> str:
    """How many filters are computed in the layers that lost some, as `fastconv.explain` has it."""
    kept = [row.kept for row in fastconv.explain(converted).rows if row.kept is not None]
    return (
        f"{sum(len(k.filters) for k in kept)} of {sum(k.of_filters for k in kept)} computed" if kept else "all computed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8, help="of the first training; half as many after each pruning")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--norm", type=int, default=1, choices=(1, 2), help="L1 or L2 norm to rank filters by")
    parser.add_argument("--quick", action="store_true", help="one round of a tiny network, timed briefly")
    parser.add_argument("--output", default="pruned.png")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.epochs, arguments.width = 1, 1, 8

    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    learn, judge = order[: len(x) * 3 // 4], order[len(x) * 3 // 4 :]
    model = fastconv.replace(network(arguments.width))
    plain = network(arguments.width).eval()  # the same layers on torch's kernels, for the clock
    probe = torch_f.interpolate(x[:1], size=(64, 64))  # a larger image, whose time is the kernels' and not the calls'
    train(model, x[learn], y[learn], arguments.epochs, 0.05)
    norms = [m.weight.detach().flatten(1).norm(arguments.norm, dim=1) for m in prunable(model)]
    rows, just_pruned = [], [accuracy(model, x[judge], y[judge])]
    for step in range(arguments.rounds + 1):
        if step:
            for layer in prunable(model):
                prune.ln_structured(layer, "weight", 0.25, n=arguments.norm, dim=0)  # of those that are left
            just_pruned.append(accuracy(model, x[judge], y[judge]))
            train(model, x[learn], y[learn], max(1, arguments.epochs // 2), 0.02)
        with torch.no_grad():
            model(probe)  # a mask is applied in the forward: now `weight` is what the last step of training left
        plain.load_state_dict({k.removesuffix("_orig"): v for k, v in model.state_dict().items() if "mask" not in k})
        for theirs, ours in zip(prunable(plain), prunable(model), strict=True):
            theirs.weight.data = ours.weight.detach().clone()
        pruned, whole = fastconv.convert(model, probe), fastconv.convert(model, probe, drop_zero_channels=False)
        contenders = {"torch": plain, "fastconv, with the zeros": whole, "fastconv, without": pruned}
        with torch.inference_mode():
            apart = float((pruned(probe) - plain(probe)).abs().max())
            assert apart < 1e-3, f"the converted network differs from torch's by {apart}"
            calls = {name: partial(contender, probe) for name, contender in contenders.items()}
            times = interleave(calls, Effort.quick() if arguments.quick else Effort(seconds=0.3))
        zero = [int((m.weight == 0).flatten(1).all(1).sum()) for m in prunable(model)]
        share = sum(zero) / sum(m.out_channels for m in prunable(model))
        rows.append(
            (
                100 * share,
                accuracy(pruned, x[judge], y[judge]),
                {name: 1e3 * timing.median for name, timing in times.items()},
            )
        )
        milliseconds = ", ".join(f"{name} {ms:.2f} ms" for name, ms in rows[-1][2].items())
        print(f"{100 * share:3.0f} % pruned, {filters(pruned)}: accuracy {rows[-1][1]:.1f} %; {milliseconds}")

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    shares = [row[0] for row in rows]
    left.plot(shares, just_pruned, "o--", color="#8a8f98", label="just pruned")
    left.plot(shares, [row[1] for row in rows], "o-", color="#1f6f8b", label="after training on")
    left.set(
        title="Accuracy on digits not trained with", xlabel="filters pruned, %", ylabel="recognised, %", ylim=(0, 104)
    )
    left.legend(loc="lower left")
    for (name, _), colour in zip(rows[0][2].items(), ("#8a8f98", "#e3a857", "#c8501e"), strict=True):
        middle.plot(shares, [row[2][name] for row in rows], "o-", color=colour, label=name)
    middle.set(title="Time of a 64 x 64 image, batch 1", xlabel="filters pruned, %", ylabel="ms, median")
    middle.set_ylim(0)
    middle.legend(loc="lower left")
    for layer, (before, conv) in enumerate(zip(norms, prunable(model), strict=True)):
        alive = (conv.weight != 0).flatten(1).any(1)
        places = layer + torch.linspace(-0.3, 0.3, len(before))
        for which, colour in ((alive, "#c8501e"), (~alive, "#c9ccd1")):
            right.scatter(places[which], before[which], s=16, color=colour, linewidths=0)
    right.scatter([], [], color="#c8501e", label="left at the end")
    right.scatter([], [], color="#c9ccd1", label="pruned")
    right.set(title=f"L{arguments.norm} norm of each filter before pruning", xlabel="block", ylabel="norm")
    right.set_xticks(range(len(norms)))
    right.legend(loc="upper left")
    figure.savefig(arguments.output, dpi=90)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

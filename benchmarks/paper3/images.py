"""Unpaired translation of images: handwritten digits 0-4 to 5-9 and back, with a picture.

The 8 x 8 digits that scikit-learn ships, 17 grey levels, get uniform noise of one level and are divided by one spread
for all pixels; outputs are rounded to levels before anything is measured. Rows that took no part in the fit, 15 % of
each end, are translated; a translation that draws the other end's law has the *floor*'s distance from held-out rows:
that of as many true rows. The closed form between the moments, where training starts, is recorded beside the learned
bridge. Two classifiers that know all ten digits say where the translations land.

    OMP_NUM_THREADS=1 python benchmarks/paper3/images.py
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _record import RESULTS, record

from girsanov.bridges import AlternatingConfig, NetworkConfig, SchrodingerBridge, energy_distance, wasserstein
from girsanov.processes import BrownianMotion

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "paper3-digits.png"
SPLIT = 5  # digits below are the start
SIGMA = 0.5  # of the reference, in spreads of the pixels


class Digits:
    """Rows of both ends, the units, and the two classifiers."""

    def __init__(self, seed):
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        found = load_digits()
        self.raw, self.label = torch.tensor(found.images).float()[:, None], torch.tensor(found.target)
        generator = torch.Generator().manual_seed(seed)
        noisy = self.raw + torch.rand(self.raw.shape, generator=generator) - 0.5
        ends = [(self.label < SPLIT).nonzero()[:, 0], (self.label >= SPLIT).nonzero()[:, 0]]
        ends = [index[torch.randperm(len(index), generator=generator)] for index in ends]
        cut = [round(0.15 * len(index)) for index in ends]
        self.test = [index[:n] for index, n in zip(ends, cut, strict=True)]
        self.train = [index[n:] for index, n in zip(ends, cut, strict=True)]
        self.centre = noisy.mean()
        self.scale = torch.stack([noisy[index].var(0).mean() for index in self.train]).mean().sqrt()
        self.x = (noisy - self.centre) / self.scale
        known = torch.cat(self.train)
        pixels, labels = self.raw[known].flatten(1).numpy(), self.label[known].numpy()
        self.classifiers = {
            "neighbours": KNeighborsClassifier(5).fit(pixels, labels),
            "logistic": LogisticRegression(C=0.01, max_iter=500).fit(pixels, labels),
        }

    def levels(self, y):
        """Grey levels of rows in units of the spread."""
        return (y.reshape(-1, 1, 8, 8) * self.scale + self.centre).round()

    def distances(self, levels, end):
        """Of images from the held-out ones of an end, in spreads of a pixel."""
        truth = self.raw[self.test[end]]
        return {"energy": energy_distance(levels, truth) / float(self.scale),
                "wasserstein": wasserstein(levels, truth) / float(self.scale)}  # fmt: skip

    def classes(self, levels):
        """Each classifier's class of each image."""
        return {name: c.predict(levels.flatten(1).numpy()) for name, c in self.classifiers.items()}


def described(digits, levels, source):
    """Distances, classes and change of translations of the held-out rows of ``source``."""
    end, truth = 1 - source, digits.raw[digits.test[1 - source]]
    row = {"direction": ("forward", "backward")[source], "rows": len(levels), **digits.distances(levels, end)}
    spare = digits.raw[digits.train[end][: len(levels)]]
    row |= {f"floor_{name}": value for name, value in digits.distances(spare, end).items()}
    row |= {f"untouched_{name}": v for name, v in digits.distances(digits.raw[digits.test[source]], end).items()}
    change = (levels - digits.raw[digits.test[source]]) / digits.scale
    row["mean_squared_change"] = float(change.square().mean())
    row["variance_ratio"] = float(levels.var(0).sum() / truth.var(0).sum())
    inside = (lambda c: c >= SPLIT) if end == 1 else (lambda c: c < SPLIT)
    true = digits.classes(truth)
    for name, found in digits.classes(levels).items():
        row[f"share_in_target_{name}"] = float(inside(found).mean())
        row[f"share_in_target_true_{name}"] = float(inside(true[name]).mean())
        row[f"classes_{name}"] = np.bincount(found, minlength=10).tolist()
    row["classes_true"] = torch.bincount(digits.label[digits.test[end]], minlength=10).tolist()
    return row


def fitted(digits, network, settings, seed, run):
    """A bridge between the training rows."""
    shape = (64,) if network == "mlp" else (1, 8, 8)
    width, blocks = {"mlp": (256, 2), "conv": (16, 1)}[network]
    bridge = SchrodingerBridge(
        BrownianMotion(sigma=SIGMA), event_shape=shape, steps=20, network=NetworkConfig(width=width, blocks=blocks),
        alternating=AlternatingConfig(**settings),
    )  # fmt: skip
    ends = [digits.x[index].reshape(-1, *shape) for index in digits.train]
    folder = None if run is None else run / f"{network}-{settings['rounds']}"
    return bridge.fit(*ends, generator=torch.Generator().manual_seed(seed), run=folder)


def translated(digits, bridge):
    """Grey levels of both held-out parts at the other end."""
    shape = bridge.event_shape
    rows = [digits.x[index].reshape(-1, *shape) for index in digits.test]
    return [digits.levels(bridge.sample(x, way)) for x, way in zip(rows, ("forward", "backward"), strict=True)]


def draw(digits, bridge, path, shown=12, strips=3):
    """Source row, translated row, both ways, and a few paths."""
    from matplotlib.figure import Figure

    moved = translated(digits, bridge)
    figure = Figure(figsize=(0.62 * shown + 1.1, 0.62 * (4 + strips) + 0.9), facecolor="white")
    axes = figure.subplots(5 + strips, shown, gridspec_kw={"height_ratios": [1, 1, 1, 1, 0.25, *[1] * strips]})
    picked = [_spread_over_classes(digits, end, shown) for end in (0, 1)]
    lines = []
    for end in (0, 1):
        lines += [digits.raw[digits.test[end]][picked[end]], moved[end][picked[end]]]
    lines.append(None)
    x = digits.x[digits.test[0]][picked[0][:strips]].reshape(-1, *bridge.event_shape)
    states = bridge.sample(x, return_path=True)
    times = bridge.path_times()
    at = [int((times - t).abs().argmin()) for t in torch.linspace(0, 1, shown)]
    lines += [digits.levels(states[at, i]) for i in range(strips)]
    names = ("0–4", "to 5–9", "5–9", "to 0–4", "", *["path"] * strips)
    for line, images, name in zip(axes, lines, names, strict=True):
        for axis in line:
            axis.set_axis_off()
        if images is not None:
            line[0].text(-0.35, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=16)
    figure.subplots_adjust(0.1, 0.02, 0.995, 0.98, 0.06, 0.08)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _spread_over_classes(digits, end, count):
    """Held-out rows, the classes in turn: no picture is chosen by hand."""
    labels = digits.label[digits.test[end]]
    queues = [(labels == c).nonzero()[:, 0].tolist() for c in labels.unique().tolist()]
    return [queues[i % len(queues)][i // len(queues)] for i in range(count)]


def main():
    """Fit, measure, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"], choices=["mlp", "conv"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder for checkpoints: a stopped run goes on from there")
    parser.add_argument("--quick", action="store_true", help="a check that it runs; records nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits, rows = Digits(arguments.seed), []
    # 760 paths are one from each row: what a projection holds out are then rows that it does not train on
    full = {
        "mlp": {"rounds": 2, "steps": 1200, "paths": 6000, "batch_size": 256, "learning_rate": 3e-3},
        "conv": {"rounds": 3, "steps": 400, "paths": 760, "batch_size": 128, "learning_rate": 2e-3},
    }
    best = None
    for network in arguments.networks:
        settings = full[network]
        if arguments.quick:
            settings = settings | {"rounds": 1, "steps": 30, "paths": 200}
        for stage, chosen in (("closed form", settings | {"rounds": 0}), ("learned", settings)):
            if stage == "closed form" and network != arguments.networks[0]:
                continue
            bridge = fitted(digits, network, chosen, arguments.seed, arguments.run)
            seconds = round(sum(entry["seconds"] for entry in bridge.history), 1)  # over all resumes
            levels = translated(digits, bridge)
            for source in (0, 1):
                name = "none" if stage == "closed form" else network
                row = {"stage": stage, "network": name, **chosen, "training_seconds": seconds}
                rows.append(row | described(digits, levels[source], source))
                print(rows[-1], flush=True)
            score = rows[-1]["wasserstein"] + rows[-2]["wasserstein"]  # the energy distance hardly sees shapes
            if stage == "learned" and (best is None or score < best[0]):
                best = score, network, bridge
    figure = RESULTS.parent / "paper3-digits-quick.png" if arguments.quick else FIGURE
    draw(digits, best[2], figure)
    if not arguments.quick:
        command = f"OMP_NUM_THREADS=1 python benchmarks/paper3/images.py --networks {' '.join(arguments.networks)}"
        record("paper3-images", rows, seed=arguments.seed, sigma=SIGMA, picture_of=best[1], command=command)


if __name__ == "__main__":
    main()

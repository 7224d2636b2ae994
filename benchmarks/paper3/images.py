"""Unpaired translation of images of digits, there and back, with a picture: MNIST even to odd, small digits 0-4 to 5-9.

MNIST is averaged to 14 x 14 pixels; the 8 x 8 digits are scikit-learn's. Images get uniform noise of one level and are
divided by one spread for all pixels; outputs are rounded to levels before anything is measured. Rows that took no
part in the fit, MNIST's test images or 15 % of each end, are translated; a translation that draws the other end's law
has the *floor*'s distance from held-out rows: that of as many true rows. The closed form between the moments, where
training starts, is recorded beside the learned bridge. Two classifiers that know all ten digits say where the
translations land.

    OMP_NUM_THREADS=1 python -m benchmarks.paper3.images --mnist FOLDER
    OMP_NUM_THREADS=1 python -m benchmarks.paper3.images
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks._page import FIGURES
from benchmarks._record import Command, record
from girsanov.bridges import AlternatingConfig, NetworkConfig, SchrodingerBridge, energy_distance, wasserstein
from girsanov.datasets import read
from girsanov.processes import BrownianMotion
from girsanov.training import LineProgress

SIGMA = 0.5  # of the reference, in spreads of the pixels


@dataclass(frozen=True)
class Plan:
    """What is translated, by which networks and fits.

    Attributes:
        name: of the record and the picture.
        first: digits of the start; the others are the end's.
        ends: their names in the picture.
        measured: held-out rows of each end that are translated and measured, at most.
        networks: width and blocks of each kind of network.
        settings: of its fit.
    """

    name: str
    first: frozenset[int]
    ends: tuple[str, str]
    measured: int
    networks: dict[str, tuple[int, int]]
    settings: dict[str, dict]


SMALL = Plan(
    "digits", frozenset(range(5)), ("0–4", "5–9"), 1000, {"mlp": (256, 2), "conv": (32, 2)},
    {"mlp": {"rounds": 2, "steps": 1200, "paths": 6000, "batch_size": 256, "learning_rate": 3e-3},
     "conv": {"warm_start": "minibatch", "warm_steps": 1500, "rounds": 1, "steps": 800, "paths": 4000,
              "batch_size": 128, "learning_rate": 2e-3}},
)  # fmt: skip
MNIST = Plan(
    "mnist", frozenset(range(0, 10, 2)), ("even", "odd"), 2000, {"conv": (32, 3)},
    {"conv": {"warm_start": "minibatch", "warm_steps": 4000, "rounds": 1, "steps": 3000, "paths": 26_000,
              "batch_size": 128, "learning_rate": 2e-3}},
)  # fmt: skip


class Images:
    """Rows of both ends, the units, and the two classifiers.

    Args:
        plan: which digits are which end.
        raw: grey levels, ``n 1 h w``.
        label: digits.
        n_train: rows before the held-out ones; ``None`` holds out 15 % of each end.
        seed: of the noise and the split.
    """

    def __init__(self, plan, raw, label, n_train, seed):
        self.plan, self.raw, self.label = plan, raw, label
        generator = torch.Generator().manual_seed(seed)
        noisy = self.raw + torch.rand(self.raw.shape, generator=generator) - 0.5
        starts = torch.tensor([int(c) in plan.first for c in label])
        order = torch.randperm(len(label), generator=generator)
        ends = [order[starts[order]], order[~starts[order]]]
        if n_train is None:
            held = [index[: round(0.15 * len(index))] for index in ends]
        else:
            held = [index[index >= n_train] for index in ends]
        self.train = [index[~torch.isin(index, out)] for index, out in zip(ends, held, strict=True)]
        self.test = [index[: plan.measured] for index in held]
        self.centre = noisy.mean()
        self.scale = torch.stack([noisy[index].var(0).mean() for index in self.train]).mean().sqrt()
        self.x = (noisy - self.centre) / self.scale
        self.classifiers = self._classifiers()

    @classmethod
    def small(cls, seed):
        """The 8 x 8 digits that scikit-learn ships."""
        from sklearn.datasets import load_digits

        found = load_digits()
        return cls(SMALL, torch.tensor(found.images).float()[:, None], torch.tensor(found.target), None, seed)

    @classmethod
    def mnist(cls, folder, seed):
        """MNIST at half resolution, from the folder of its four files."""
        raw = read(folder)
        means = raw.stack.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5), dtype=np.float64)
        return cls(MNIST, torch.tensor(np.rint(means)).float(), torch.tensor(raw.labels).long(), raw.n_train, seed)

    def _classifiers(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known = torch.cat([index[:10_000] for index in self.train])
        pixels, labels = self.raw[known].flatten(1).numpy(), self.label[known].numpy()
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
        both = {"neighbours": KNeighborsClassifier(5), "logistic": linear}
        return {name: classifier.fit(pixels, labels) for name, classifier in both.items()}

    @property
    def shape(self):
        """Of one image."""
        return tuple(self.raw.shape[1:])

    def levels(self, y):
        """Grey levels of rows in units of the spread."""
        return (y.reshape(-1, *self.shape) * self.scale + self.centre).round()

    def distances(self, levels, end):
        """Of images from the held-out ones of an end, in spreads of a pixel."""
        truth = self.raw[self.test[end]][: len(levels)]
        return {"energy": energy_distance(levels, truth) / float(self.scale),
                "wasserstein": wasserstein(levels, truth) / float(self.scale)}  # fmt: skip

    def classes(self, levels):
        """Each classifier's class of each image."""
        return {name: c.predict(levels.flatten(1).numpy()) for name, c in self.classifiers.items()}

    def share(self, classes, end):
        """Of classes that are among an end's."""
        return float(np.isin(classes, list(self.plan.first), invert=end == 1).mean())


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
    true = digits.classes(truth)
    for name, found in digits.classes(levels).items():
        row[f"share_in_target_{name}"] = digits.share(found, end)
        row[f"share_in_target_true_{name}"] = digits.share(true[name], end)
        row[f"classes_{name}"] = np.bincount(found, minlength=10).tolist()
    row["classes_true"] = torch.bincount(digits.label[digits.test[end]], minlength=10).tolist()
    return row


def fitted(digits, network, settings, seed, run):
    """A bridge between the training rows."""
    shape = (math.prod(digits.shape),) if network == "mlp" else digits.shape
    width, blocks = digits.plan.networks[network]
    bridge = SchrodingerBridge(
        BrownianMotion(sigma=SIGMA), event_shape=shape, steps=20, network=NetworkConfig(width=width, blocks=blocks),
        alternating=AlternatingConfig(**settings),
    )  # fmt: skip
    ends = [digits.x[index].reshape(-1, *shape) for index in digits.train]
    folder = None if run is None else run / f"{digits.plan.name}-{network}-{settings['rounds']}"
    generator = torch.Generator().manual_seed(seed)
    return bridge.fit(*ends, generator=generator, run=folder, progress=LineProgress())


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
    first, second = digits.plan.ends
    names = (first, f"to {second}", second, f"to {first}", "", *["path"] * strips)
    for line, images, name in zip(axes, lines, names, strict=True):
        for axis in line:
            axis.set_axis_off()
        if images is not None:
            line[0].text(-0.35, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=float(digits.raw.max()))
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
    parser = Command(__doc__)
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="of MNIST's files; without it the small digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder for checkpoints: a stopped run goes on from there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = Images.mnist(arguments.mnist, arguments.seed) if arguments.mnist else Images.small(arguments.seed)
    plan, rows, fits = digits.plan, [], []
    for network, settings in plan.settings.items():
        if arguments.quick:
            settings = settings | {"rounds": 1, "steps": 30, "warm_steps": 30, "paths": 200}
        if not fits:
            fits.append(("none", settings | {"rounds": 0, "warm_start": None}, network))
        fits.append((network, settings, network))
    bridges = {}
    for name, settings, network in fits:
        bridges[name] = fitted(digits, network, settings, arguments.seed, arguments.run)
        seconds = round(sum(entry["seconds"] for entry in bridges[name].history), 1)  # over all resumes
        levels = translated(digits, bridges[name])
        for source in (0, 1):
            row = {"stage": "closed form" if name == "none" else "learned", "network": name, **settings}
            rows.append({**row, "training_seconds": seconds, **described(digits, levels[source], source)})
            print(rows[-1], flush=True)
    # the energy distance hardly sees shapes
    best = min(plan.settings, key=lambda name: sum(r["wasserstein"] for r in rows if r["network"] == name))
    if not arguments.quick:
        draw(digits, bridges[best], FIGURES / f"paper3-{plan.name}.png")
        name = {"digits": "paper3-images", "mnist": "paper3-images-mnist"}[plan.name]
        given = " --mnist FOLDER" if arguments.mnist else ""
        command = f"OMP_NUM_THREADS=1 python -m benchmarks.paper3.images{given}"
        record(name, rows, seed=arguments.seed, sigma=SIGMA, picture_of=best, command=command)


if __name__ == "__main__":
    main()

"""Photographs in colour: the whole command on 32 x 32 patches, on 200 small crops and, at hand, on other pictures.

- `photographs`: the named data, 520 patches of scikit-learn's two pictures (decoded JPEGs), 20 minutes;
- `mixture of patches`: beside it, mixtures of 100 Gaussians of 8 x 8 patches, fitted to the same training rows with
  uniform dequantisation (the density of an image is the product over its 16 disjoint patches; which offsets are
  learned from, and the ridge, are chosen on the validation rows);
- `crops`: 200 crops of 16 x 16 as a folder of PNG files, 1 minute;
- `pictures`: 32 x 32 patches of pictures that scikit-image's wheel ships (`--pictures FOLDER`, its `skimage/data`),
  20 minutes.

Test images are from the right-hand fifth of each picture. PNG and WebP are beside every row. Rows are kept as they are
finished.

    python -m benchmarks.images.photographs --out RUNS --pictures FOLDER
"""

__all__: list[str] = []

import math
import shlex
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from benchmarks._record import Command, record, settings
from benchmarks.images._command import bits, fitted, kept, parts, step_seconds
from girsanov.density_model import DensityModel
from girsanov.evaluation import summary
from girsanov.runs.folder import RunFolder
from girsanov.types import Estimate

SIDE, DRAWS = 8, 8  # of a mixture's patches; dequantisation draws of a held-out image
STRIDES, RIDGES = (8, 3), (0.1, 1.0)  # between learned patches, in pixels; in squared levels
TEST_SHARE = 0.2  # of a picture's columns
PICTURES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def cut(picture, side):
    """Disjoint crops of a picture ``h w 3`` as two arrays ``n side side 3``: at the left, and at the right-hand end."""
    down, across = (size // side for size in picture.shape[:2])
    grid = picture[: down * side, : across * side].reshape(down, side, across, side, 3).swapaxes(1, 2)
    border = across - round(TEST_SHARE * across)
    return [part.reshape(-1, side, side, 3) for part in (grid[:, :border], grid[:, border:])]


def write_crops(folder, pictures, side, counts=None, seed=0):
    """Crops as PNG files in ``train`` and ``test``, of every picture as many; all of them, or so many at random."""
    generator = np.random.default_rng(seed)
    for k, picture in enumerate(pictures):
        for place, crops, count in zip(("train", "test"), cut(picture, side), counts or (None, None), strict=True):
            chosen = range(len(crops)) if count is None else generator.permutation(len(crops))[:count]
            (folder / place).mkdir(parents=True, exist_ok=True)
            for i in chosen:
                Image.fromarray(crops[i]).save(folder / place / f"{k}-{i:04d}.png")
    return folder


def small_patches(x, stride):
    """All patches at multiples of the stride of images ``n c h w``, shape ``n m d``."""
    found = x.unfold(2, SIDE, stride).unfold(3, SIDE, stride)  # n c a b s s
    return found.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def log_mass(mixture, x, generator):
    """Bound of every image's log-mass in nats by each draw of uniform dequantisation, shape ``DRAWS n``."""
    values = []
    for _ in range(DRAWS):
        y = small_patches(x + torch.rand(x.shape, generator=generator, dtype=x.dtype), SIDE)
        values.append(torch.from_numpy(mixture.score_samples(y.flatten(0, 1).numpy())).reshape(y.shape[:2]).sum(1))
    return torch.stack(values)


def mixture_of_patches(run, components, iterations, seed=0):
    """The mixture that the validation rows prefer, on the test rows of a run and beside its own bound of them."""
    begun, tried = time.monotonic(), []
    train, validation, test = (part.x for part in parts(DensityModel.from_pretrained(run)))
    generator = torch.Generator().manual_seed(seed)
    for stride in STRIDES:
        learned = small_patches(train + torch.rand(train.shape, generator=generator, dtype=train.dtype), stride)
        for ridge in RIDGES:
            mixture = GaussianMixture(
                min(components, len(learned)), reg_covar=ridge, max_iter=iterations, tol=0.01, random_state=seed
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(learned.flatten(0, 1).numpy())
            held = float(log_mass(mixture, validation, generator).mean())
            tried.append({"stride": stride, "ridge": ridge, "iterations": mixture.n_iter_, "validation": held})
            if held == max(trial["validation"] for trial in tried):
                best = mixture
    seconds = round(time.monotonic() - begun, 1)
    values = log_mass(best, test, generator)
    facts = {"kind": "lower_bound", "model": "density", "measure": "mass", "nfe": 0, "event_dim": test[0].numel()}
    found = bits(summary(Estimate.from_replicates(values, **facts)))
    return {**found, "components": components, "seconds": seconds, "tried": tried, **beside(run, values.mean(0))}


def beside(run, theirs):
    """By how many bits per dimension the run's bound of the same rows is better, with its 95 % interval over rows."""
    ours, dim = RunFolder(Path(run)).values()[1]["elbo"], DensityModel.from_pretrained(run).schema.event_shape
    gap = (ours - theirs[: len(ours)]) / (math.prod(dim) * math.log(2))
    mean, error = float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))
    return {"ours_is_better_by": [mean, mean - 1.96 * error, mean + 1.96 * error]}


def makers(options):
    """What makes each row, by its name."""
    asked = shlex.split(options.options)

    def command(name, data, minutes):
        out = options.out / name
        found = fitted(data, out, *asked, seconds=60.0 * minutes, threads=options.threads)
        return {"minutes": minutes, **found, **step_seconds(out, rounds=options.rounds, threads=options.threads)}

    def crops():
        pictures = load_sample_images().images
        return command("crops", write_crops(options.out / "crops-data", pictures, 16, (80, 20)), options.short)

    def pictures():
        found = [np.asarray(Image.open(options.pictures / name).convert("RGB")) for name in PICTURES]
        return {"pictures": PICTURES} | command(
            "pictures", write_crops(options.out / "pictures-data", found, 32), options.minutes
        )

    found = {
        "photographs": lambda: command("photographs", "photographs", options.minutes),
        "mixture of patches": lambda: mixture_of_patches(
            options.out / "photographs", options.components, options.iterations
        ),
        "crops": crops,
    }
    found |= {} if options.pictures is None else {"pictures": pictures}
    return {name: found[name] for name in options.only or found}


def main():
    """Every row that is not kept yet; the record grows with each."""
    parser = Command(__doc__, only=["crops"], minutes=0.5, short=0.3, rounds=1, components=4, iterations=3)
    parser.add_argument("--out", type=Path, default=Path("runs") / "images", help="folder of the runs")
    parser.add_argument(
        "--pictures", type=Path, help="folder with scikit-image's pictures; without it they are left out"
    )
    parser.add_argument("--only", nargs="*", metavar="ROW", help="rows that are made or shown; default all")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the command on patches")
    parser.add_argument("--short", type=float, default=1.0, help="minutes of the command on crops")
    parser.add_argument("--components", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=40, help="of each mixture, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="in which the step is timed")
    parser.add_argument("--options", default="", help="further options of the command, as one text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines, rows = options.out / ("photographs-quick.jsonl" if options.quick else "photographs.jsonl"), []
    for name, make in makers(options).items():
        rows.append(kept(lines, name, make))
        print(rows[-1], flush=True)
        if not options.quick:
            record("images-photographs", rows, **settings(options, "out", "pictures", "only"))


if __name__ == "__main__":
    main()

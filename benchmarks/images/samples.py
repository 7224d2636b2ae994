"""Samples of fitted images: precision and recall in a classifier's features, beside what real images reach, and a grid.

Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991, k = 3): the share of samples inside the union
of balls around real test images that reach to each one's third neighbour, and the reverse. The features are the last
hidden layer of a small convolutional classifier, trained on the run's training images and their labels. Training
images in the place of samples say what is to be had (real training images are not samples, but no more can be asked
for). Of a model that was fitted with `--conditional`, samples of every class are given to the classifier too.

    python -m benchmarks.images.samples RUNS/mnist-20 RUNS/digits
"""

__all__: list[str] = []

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from benchmarks.images._command import kept, parts
from girsanov.density_model import DensityModel
from girsanov.reports.png import image_grid

NEIGHBOURS, SHOWN = 3, 64
BATCH, RATE = 128, 1e-3


class Classifier(nn.Module):
    """Two convolutions, a hidden layer whose values are the features, and the classes.

    Args:
        event_shape: of an image.
        classes: their number.
        high: the highest level, which becomes 1.
    """

    def __init__(self, event_shape, classes, high):
        super().__init__()
        channels, height, width = event_shape
        self.high = max(high, 1.0)
        size = 32 * ((height + 3) // 4) * ((width + 3) // 4)
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(size, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.features(x.float() / self.high))

    @torch.no_grad()
    def of(self, x):
        """Features of images, shape ``n 64``."""
        return torch.cat([self.features(block.float() / self.high) for block in x.split(1000)])

    @torch.no_grad()
    def classes(self, x):
        """The likeliest class of each image."""
        return torch.cat([self(block).argmax(1) for block in x.split(1000)])


def trained(train, validation, steps, seed=0):
    """A classifier of the training rows, as it was best on the validation rows."""
    torch.manual_seed(seed)
    found = Classifier(train.x.shape[1:], len(train.classes), float(train.x.max()))
    optimizer, best, kept_weights = torch.optim.Adam(found.parameters(), RATE), -1.0, None
    for step in range(1, steps + 1):
        index = torch.randint(len(train), (BATCH,))
        optimizer.zero_grad()
        cross_entropy(found(train.x[index]), train.codes[index]).backward()
        optimizer.step()
        if step % max(1, steps // 10) == 0:
            share = accuracy(found, validation)
            if share > best:
                best, kept_weights = share, copy.deepcopy(found.state_dict())
    found.load_state_dict(kept_weights)
    return found.eval()


def accuracy(classifier, data):
    """Share of rows whose class it says."""
    return float((classifier.classes(data.x) == data.codes).double().mean())


def covered(points, reference, k=NEIGHBOURS):
    """Share of points ``m d`` inside a ball around one of the references ``n d`` that reaches to its k-th neighbour."""
    radius = torch.cdist(reference, reference).kthvalue(k + 1, dim=1).values  # each is its own nearest
    inside = torch.cat([(torch.cdist(block, reference) <= radius).any(1) for block in points.split(1000)])
    return float(inside.double().mean())


def precision_and_recall(samples, real, k=NEIGHBOURS):
    """Share of samples among real features, and of real features among samples."""
    return {"precision": covered(samples, real, k), "recall": covered(real, samples, k)}


def drawn(model, count, options, condition=None):
    """Images of a model."""
    generator = torch.Generator().manual_seed(options.seed)
    return torch.as_tensor(model.sample(count, steps=options.steps, condition=condition, generator=generator))


def of_classes(model, classifier, options):
    """The share of samples of each class that the classifier says are of it; nothing of a model without classes."""
    shares = {}
    for code, name in enumerate(model.classes):
        condition = [model.class_values[code]]
        found = classifier.classes(drawn(model, max(2, options.samples // len(model.classes)), options, condition))
        shares[str(name)] = float((found == code).double().mean())
    return (
        {"of_the_asked_class": shares, "of_the_asked_class_mean": sum(shares.values()) / len(shares)} if shares else {}
    )


def row(run, options):
    """Precision, recall and a picture of one run."""
    model = DensityModel.from_pretrained(run)
    train, validation, test = parts(model)
    classifier = trained(train, validation, options.training)
    count = min(options.samples, len(test))
    samples = drawn(model, count, options)
    real, others = classifier.of(test.x[:count]), classifier.of(train.x[:count])
    if not options.quick:
        FIGURES.mkdir(exist_ok=True)
        low, high = float(train.x.min()), float(train.x.max())
        image_grid(samples[:SHOWN].numpy(), low=low, high=high).save(FIGURES / f"images-{Path(run).name}.png")
    return {
        "rows": count,
        "classifier_accuracy": accuracy(classifier, test),
        **precision_and_recall(classifier.of(samples), real),
        "real": precision_and_recall(others, real),
        "noise": precision_and_recall(classifier.of(noise(train.x, count, options.seed)), real),
        "classes": torch.bincount(classifier.classes(samples), minlength=len(train.classes)).tolist(),
        **of_classes(model, classifier, options),
    }


def noise(x, count, seed):
    """Images of independent pixels, each from another training image: what a model without any dependence draws."""
    flat, generator = x.flatten(1), torch.Generator().manual_seed(seed)
    index = torch.randint(len(x), (count, flat.shape[1]), generator=generator)
    return flat.gather(0, index).reshape(count, *x.shape[1:])


def main():
    """Every run that is not kept yet; the record grows with each."""
    parser = Command(__doc__, samples=64, steps=4, training=20)
    parser.add_argument("runs", nargs="+", help="folders of runs of images with labels")
    parser.add_argument("--samples", type=int, default=2000, help="and as many real images")
    parser.add_argument("--steps", type=int, default=64, help="of the sampler")
    parser.add_argument("--training", type=int, default=2000, help="steps of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for run in map(Path, options.runs):
        lines = run.parent / ("samples-quick.jsonl" if options.quick else "samples.jsonl")
        rows.append(kept(lines, run.name, lambda run=run: row(run, options)))
        print(rows[-1], flush=True)
        if not options.quick:
            record("images-samples", rows, **settings(options, "runs"))


if __name__ == "__main__":
    main()

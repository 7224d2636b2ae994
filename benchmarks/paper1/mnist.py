"""Bits per dimension and the variance of the gradient over training, by how times are drawn, on small MNIST.

The same network, start, batches and number of steps three times, trained by denoising score matching with

- `uniform, unweighted`: uniform times and the plain noise loss, whose gradient is not the bound's (no debiasing);
- `uniform`: uniform times with the likelihood's weight, an unbiased gradient of the bound;
- `debiased`: times in proportion to g^2/sigma^2 through log-SNR, the same expected gradient.

At equal distances over training, with the averaged weights: held-out bits per dimension by the library's own estimator;
for every law of times the variance of a batch's gradient (trace of its covariance over fresh batches) and the squared
norm of its mean, both per dimension of the data; and the standard error of the mean bound of the same held-out rows by
one draw of each law, which is how the paper's own evaluation works. At the end, more held-out rows.

Images are MNIST averaged to 14 x 14 whole grey levels (see _pixels.py) with uniform dequantisation: bits per dimension
of that discrete variable, not of MNIST. One core:

    OMP_NUM_THREADS=1 python -m benchmarks.paper1.mnist FOLDER
"""

__all__: list[str] = []

import copy
import math
import time

import torch

from benchmarks._page import FIGURES
from benchmarks._record import Command, record, settings
from benchmarks.paper1._pixels import mnist, untrained
from girsanov.networks import ConvConfig
from girsanov.objectives import Batch, DebiasedTime, ScoreMatchingObjective, UniformTime, independent, uniform_weight
from girsanov.pairs import ScorePair
from girsanov.training import ShuffledBatches, TrainingConfig, train

FIGURE = FIGURES / "paper1-mnist.png"
LAWS = ("uniform, unweighted", "uniform", "debiased")
COLOURS = dict(zip(LAWS, ("C2", "C0", "C3"), strict=True))


def objective(model, law):
    """The loss of one arm, in the model's coordinates."""
    process = model.score.process
    if law == "uniform, unweighted":
        weighting, times = uniform_weight, UniformTime(process, atom=0.0)
    else:
        weighting, times = None, UniformTime(process) if law == "uniform" else DebiasedTime(process)
    return ScoreMatchingObjective(weighting=weighting, times=times, draws=independent)


def loss_of(model, law):
    """``loss(score, rows, generator, step)`` per dimension, with fresh dequantisation."""
    inner, prior = objective(model, law), model.pair.prior

    def loss(score, rows, generator, step):
        with torch.no_grad():
            y, _ = model.encoding.transforms(rows, torch.rand(rows.shape, generator=generator, dtype=rows.dtype))
        return inner(ScorePair(score, prior=prior), Batch(y.float()), generator, step) / rows[0].numel()

    return loss


def gradient_moments(score, loss, rows, batch_size, count):
    """Trace of the covariance of one batch's gradient, and the unbiased squared norm of its mean."""
    score = copy.deepcopy(score).requires_grad_(True)
    parameters, gradients = list(score.network.parameters()), []
    for i in range(count):
        generator = torch.Generator().manual_seed(1000 + i)
        batch = rows[torch.randint(len(rows), (batch_size,), generator=generator)]
        found = torch.autograd.grad(loss(score, batch, generator, i).mean(), parameters)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]).double())
    stacked = torch.stack(gradients)
    variance = float(stacked.var(0).sum())
    return {"variance": variance, "signal": float(stacked.mean(0).square().sum()) - variance / count}


def one_draw(model, score, law, rows):
    """Mean bound of rows in bits per dimension by one draw of a law each, and its standard error over rows."""
    generator, pair = torch.Generator().manual_seed(5), ScorePair(score, prior=model.pair.prior)
    with torch.no_grad():
        y, log_det = model.encoding.transforms(rows, torch.rand(rows.shape, generator=generator, dtype=rows.dtype))
        loss = objective(model, law)(pair, Batch(y.float()), generator, 0)
        bits = (loss - log_det) / (rows[0].numel() * math.log(2))
    return {"bits_per_dim": float(bits.mean()), "stderr": float(bits.std()) / math.sqrt(len(rows))}


def evaluated(model, score, rows, samples):
    """Mean bits per dimension by the library's own estimator, with both standard errors."""
    estimate = type(model)(model.encoding, score, record=model.record).elbo(rows, samples=samples)
    mean, scale = estimate.mean(), rows[0].numel() * math.log(2)
    return {"bits_per_dim": -mean.value / scale, "stderr": mean.stderr / scale, "rows_stderr": mean.rows_stderr / scale}


def arm(data, law, options):
    """Train by one law; one row per probe, and the end."""
    model, config, splits = untrained(
        data, network=ConvConfig(options.width, blocks=1, dropout=0.0), batch_size=options.batch
    )
    train_rows, held = data.x[splits.train], data.x[splits.test]
    shuffled, rows = ShuffledBatches(len(train_rows), options.batch, config.seed), []
    losses = {name: loss_of(model, name) for name in LAWS}

    def probe(score, step):
        found = evaluated(model, score, held[: options.held], 16)
        row = {"trained_by": law, "step": step, **found}
        for name, loss in losses.items():
            moments = gradient_moments(score, loss, train_rows, options.batch, options.gradients)
            row |= {f"{name}: gradient {key}": value for key, value in moments.items()}
        for name in LAWS[1:]:
            row |= {f"{name}: one draw {k}": v for k, v in one_draw(model, score, name, held[: options.held]).items()}
        rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        return -found["bits_per_dim"]

    training = TrainingConfig(
        steps=options.steps,
        batch_size=options.batch,
        learning_rate=options.rate,
        validate_every=max(1, options.steps // options.probes),
        ema_decay=0.995,
        seed=config.seed,
    )
    begun = time.monotonic()
    result = train(model.score, losses[law], lambda step: train_rows[shuffled(step)], config=training, validate=probe)
    final = evaluated(model, result.module, held[: options.final], 32)
    final |= {"best_step": result.best_step, "rows": options.final, "seconds": round(time.monotonic() - begun, 1)}
    return rows, final


def draw(rows, final):
    """Bits, gradient variance and one-draw errors over training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (bits, gradient, error) = plt.subplots(1, 3, figsize=(11, 3.3), constrained_layout=True)
    for law in LAWS:
        mine = [row for row in rows if row["trained_by"] == law and row["step"] > 0]
        steps = [row["step"] for row in mine]
        bits.errorbar(
            steps,
            [row["bits_per_dim"] for row in mine],
            [2 * row["stderr"] for row in mine],
            fmt="o-",
            ms=3,
            c=COLOURS[law],
            label=f"{law}: {final[law]['bits_per_dim']:.3f}",
        )
    mine = [row for row in rows if row["trained_by"] == "debiased" and row["step"] > 0]
    steps = [row["step"] for row in mine]
    for law in LAWS[1:]:
        gradient.semilogy(
            steps, [row[f"{law}: gradient variance"] for row in mine], "o-", ms=3, c=COLOURS[law], label=law
        )
        error.semilogy(steps, [row[f"{law}: one draw stderr"] for row in mine], "o-", ms=3, c=COLOURS[law], label=law)
    error.semilogy(steps, [row["stderr"] for row in mine], "k^-", ms=3, label="library, 16 evaluations")
    bits.set(title="held-out bits/dim (14 × 14), by training", xlabel="step")
    gradient.set(title="variance of the bound's gradient\n(weights trained debiased)", xlabel="step")
    error.set(title="standard error of held-out bits/dim\n(same rows, one draw each)", xlabel="step")
    for panel in (bits, gradient, error):
        panel.legend(fontsize=7)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=75)


def main():
    """Train three times, record, draw."""
    parser = Command(__doc__, steps=4, probes=2, gradients=2, held=8, final=8, rows=200)
    parser.add_argument("data", help="folder of MNIST's idx files")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--gradients", type=int, default=12, help="batches behind each variance")
    parser.add_argument("--held", type=int, default=512, help="test images at every probe")
    parser.add_argument("--final", type=int, default=2000, help="test images at the end")
    parser.add_argument("--rows", type=int, default=20_000, help="training images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = mnist(options.data, side=14, rows=options.rows)
    rows, final = [], {}
    for law in LAWS:
        found, final[law] = arm(data, law, options)
        rows += found
    asked = settings(options, "data", "rows", "final")
    facts = {"image": "14 x 14, means of 2 x 2 pixels rounded to 256 levels", "training_rows": options.rows}
    if not options.quick:
        record("paper1-mnist", rows, **asked, **facts, final=final)
        draw(rows, final)


if __name__ == "__main__":
    main()

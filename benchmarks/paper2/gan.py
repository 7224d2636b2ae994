r"""A small GAN on digits, with and without the density regulariser, beside the optimum that theory predicts.

Every variant trains the same generator and discriminator for the same steps on the same training digits (dequantised,
standardised); the regulariser is a density model fitted to them, frozen. Measured on 2000 generated rows with models
that took no part in the training:

- ``nll``: mean of -log p under a *second* density model, fitted with another seed on the held-out half (nats per
  row, model's space), which the regulariser should lower: with weight w the optimum p c p^w/(1 - c p^w) sharpens;
- ``confidence``: largest class probability of a logistic classifier, and ``classes``: entropy of the classes drawn, in
  nats (log 10 = 2.303 at best), which shows modes that are lost;
- ``precision``, ``recall``: share of generated rows within the 3-neighbour balls of real rows, and the reverse;
- ``frechet``: distance of Gaussians fitted to generated and held-out rows.

    OMP_NUM_THREADS=1 python -m benchmarks.paper2.gan
"""

import json
import time

import torch
from scipy.linalg import sqrtm
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import softplus

from benchmarks._record import Command, record
from girsanov.applications.regulariser import density_regulariser, gan_optimum
from girsanov.datasets import Splits, load
from girsanov.density_model import Config, fit
from girsanov.likelihoods import density
from girsanov.pairs import ScorePair
from tests.laws import note_mixture_1d

LATENT, WIDTH, BATCH, DRAWN = 16, 128, 128, 2000
EVERY, PENALISED = 4, 32  # the regulariser acts every fourth step, fourfold, on so many rows
WARM = 0.25  # share of the steps before it starts: far from the data its gradient is large and no longer informative
BAND = (-4.0, 1.0)  # coarse structure, where score distillation is usually applied
#: variant -> weight and options of the regulariser; the fake score of "paired" is a Gaussian fitted to each batch
VARIANTS = {
    "plain": (0.0, {}),
    "full, w=0.001": (0.001, {}),
    "full, w=0.01": (0.01, {}),
    "band, w=0.01": (0.01, {"log_snr_range": BAND}),
    "detached, w=0.01": (0.01, {"log_snr_range": BAND, "detach_jacobian": True}),
    "paired, w=0.1": (0.1, {"log_snr_range": BAND, "fake": "batch"}),
}


def network(inputs, outputs):
    """Three layers."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(WIDTH, outputs),
    )


class Bounded(nn.Module):
    """Outputs within the range of the data, outside of which a log-density says nothing useful."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        """A sigmoid between the two ends."""
        return self.low + (self.high - self.low) * torch.sigmoid(x)


def penalty(model, x, options, generator):
    """Mean regulariser of a batch of flat rows."""
    options, rows = dict(options), x.reshape(-1, *model.reference.event_shape)[:PENALISED]
    if options.get("fake") == "batch":
        with torch.no_grad():
            law = type(model.reference).fit(x.double().reshape(-1, *model.reference.event_shape))
        options["fake"] = law.score(model.score.process)
    return density_regulariser(model, rows, generator=generator, **options).mean()


def train(real, model, variant, steps, seed):
    """Non-saturating GAN with a gradient penalty at real rows; returns generated rows and seconds."""
    torch.manual_seed(seed)
    weight, options = VARIANTS[variant]
    d = real.shape[1]
    low, high = float(real.min()), float(real.max())
    maker, judge = nn.Sequential(network(LATENT, d), Bounded(low, high)), network(d, 1)
    settings = {"lr": 3e-4, "betas": (0.5, 0.99)}
    makers, judges = (torch.optim.Adam(part.parameters(), **settings) for part in (maker, judge))
    generator, begun = torch.Generator().manual_seed(seed), time.perf_counter()
    for step in range(steps):
        rows = real[torch.randint(len(real), (BATCH,), generator=generator)].requires_grad_()
        fakes = maker(torch.randn(BATCH, LATENT, generator=generator))
        verdict = judge(rows)
        (slope,) = torch.autograd.grad(verdict.sum(), rows, create_graph=True)
        loss = softplus(-verdict).mean() + softplus(judge(fakes.detach())).mean() + slope.square().sum(1).mean()
        judges.zero_grad()
        loss.backward()
        judges.step()
        objective = softplus(-judge(fakes)).mean()
        if weight and step >= WARM * steps and step % EVERY == 0:
            objective = objective + EVERY * weight * penalty(model, fakes, options, generator)
        makers.zero_grad()
        objective.backward()
        nn.utils.clip_grad_norm_(maker.parameters(), 1.0)
        makers.step()
    with torch.no_grad():
        rows = maker(torch.randn(DRAWN, LATENT, generator=generator))
    return rows, time.perf_counter() - begun


def neighbours(rows, centres):
    """Share of ``rows`` within the 3-neighbour ball of some centre."""
    radii = torch.cdist(centres, centres).kthvalue(4, dim=1).values
    return float((torch.cdist(rows, centres) <= radii).any(1).double().mean())


def frechet(a, b):
    """Squared Frechet distance of the Gaussians fitted to two samples."""
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((first @ second).numpy()).real)
    return float((a.mean(0) - b.mean(0)).square().sum() + (first + second - 2.0 * root).trace())


def nll(model, rows, samples):
    """Mean of -log p by the density formula, and its standard error over rows."""
    wide = rows.reshape(-1, *model.reference.event_shape)
    estimate = density(ScorePair(model.score, reference=model.reference), wide, samples=samples)
    mean = estimate.mean()
    return -mean.value, mean.rows_stderr


def measure(drawn, held, judge, classifier):
    """All figures of one sample of generated rows."""
    drawn = drawn.double()
    chances = torch.from_numpy(classifier.predict_proba(drawn.numpy()))
    shares = torch.bincount(chances.argmax(1), minlength=10) / len(chances)
    value, error = nll(judge, drawn[:400], 32)
    return {
        "nll": value,
        "nll_stderr": error,
        "confidence": float(chances.amax(1).mean()),
        "classes": float(-(shares * shares.clamp_min(1e-12).log()).sum()),
        "precision": neighbours(drawn, held),
        "recall": neighbours(held, drawn),
        "frechet": frechet(drawn, held),
    }


def predicted(weights=(0.003, 0.03, 0.1, 0.5)):
    """What the closed form says about E_G[-log p] on the 1-D mixture of the note."""
    x = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    log_p, volume = note_mixture_1d().log_prob(x[:, None]), 16.0 / 4000
    return {str(w): float((-log_p * gan_optimum(log_p, volume, w) * volume).sum()) for w in (0.0, *weights)}


def prepared(config):
    """Two density models with another seed each, and training and held-out digits in the first one's space."""
    data = load("digits")
    model = fit(data, config=config).requires_grad_(False)
    splits = Splits.from_json(model.record["splits"])
    uniform = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y, _ = model.encoding.transforms(data.x, uniform)
    flat = y.flatten(1)
    held = torch.cat([splits.test, splits.validation])
    # the judge's data are the first model's space, so both see the same coordinates
    judge = fit(y[held], config=Config(**{**config.to_json(), "seed": config.seed + 1, "gaussianise": False}))
    classifier = LogisticRegression(max_iter=2000).fit(flat[held].numpy(), data.codes[held].numpy())
    return model, judge.requires_grad_(False), flat[splits.train].float(), flat[held], classifier


def main():
    """All variants over seeds; with --quick two variants and few steps."""
    parser = Command(__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40.0, help="of training for each of the two density models")
    options = parser.parse_args()
    settings = {"steps": 200, "members": 1} if options.quick else {"time_budget": options.seconds}
    # no lattice head: where cells are resolved, the density outside them is zero and its gradient useless
    config = Config(seed=0, network="conv", test=0.4, flow=False, lattice_head=False, **settings)
    model, judge, real, held, classifier = prepared(config)
    steps = 1500 if options.quick else 2000
    variants = ["plain", "full, w=0.001", "full, w=0.01", "paired, w=0.1"] if options.quick else list(VARIANTS)
    rows = [{"variant": "held-out digits", "seed": 0, **measure(held, held, judge, classifier)}]
    for variant in variants:
        for seed in range(1 if options.quick else options.seeds):
            drawn, seconds = train(real, model, variant, steps, seed)
            facts = {"variant": variant, "seed": seed, "seconds": seconds}
            rows.append({**facts, **measure(drawn, held, judge, classifier)})
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(rows[0]))
    if not options.quick:
        facts = {"steps": steps, "seconds": options.seconds, "predicted_nll_1d": predicted()}
        print(f"wrote {record('paper2-gan', rows, **facts).name}")


if __name__ == "__main__":
    main()

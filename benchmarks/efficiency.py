r"""Variance times evaluations of the bound on a trained digits model, beside three estimators of the same integral.

Same estimand (the diffusion part of the bound of each row), same log-SNR range, same dequantisation draw, per row:

- ours: systematic grids in log-SNR with fitted importance, the Gaussian control variate and its fitted slope;
- (a) one uniform time, implicit score matching with one Hutchinson probe (a vector-Jacobian product counts 3);
- (b) uniform times in the denoising form;
- (c) independent truncated-logistic log-SNR draws with the N(0, I) baseline.

Each competitor is written from its formula (notes of papers 1 and 2, section 3).

    python -m benchmarks.efficiency RUN_OR_MODEL_FOLDER
"""

import torch

from benchmarks._record import Command, record, spread
from girsanov.calculus import sum_event
from girsanov.datasets import Splits, load
from girsanov.density_model import DensityModel
from girsanov.likelihoods import elbo

ROWS, DRAWS = 200, 256


def noised(level, x):
    """A draw at each level, with its noise and the network's prediction of it."""
    eps = torch.randn_like(x)
    wide = level.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype)
    return torch.sigmoid(wide).sqrt() * x + torch.sigmoid(-wide).sqrt() * eps, eps


def uniform_times(process, low, high, count):
    """Uniform times over the range, their levels and rates -dl/dt."""
    ends = process.time(torch.tensor([high, low], dtype=torch.float64))
    t = ends[0] + (ends[1] - ends[0]) * torch.rand(count, dtype=torch.float64)
    _, g2 = process.rates(t)
    _, sigma = process.marginal(t)
    return process.log_snr(t), g2 / sigma.square() * (ends[1] - ends[0])


def denoising_uniform(model, x, low, high):
    """(b): -1/2 (|eps - eps_hat|^2 - d) at one uniform time, times dl/dt."""
    level, weight = uniform_times(model.score.process, low, high, len(x))
    z, eps = noised(level, x)
    with torch.no_grad():
        squared = sum_event((eps - model.score.noise(level, z)).square())
    return -0.5 * weight * (squared - x[0].numel()), 1


def implicit_uniform(model, x, low, high):
    """(a): -(1/2 |s|^2 + v' ds/dx v) g^2 + div f, one uniform time, one Rademacher probe."""
    level, weight = uniform_times(model.score.process, low, high, len(x))
    z, _ = noised(level, x)
    z.requires_grad_()
    sigma = torch.sigmoid(-level).sqrt()
    noise = model.score.noise(level, z)
    probe = 2.0 * torch.randint(0, 2, z.shape) - 1.0
    (product,) = torch.autograd.grad(noise, z, probe.to(z.dtype))
    # g^2 = sigma^2 (-dl/dt), s = -eps_hat / sigma; the drift's divergence cancels against its own constant
    inner = 0.5 * sum_event(noise.square()) - sigma * sum_event(product * probe)
    return -(weight * inner).detach(), 3


def logistic_baseline(model, x, low, high):
    """(c): truncated logistic levels, N(0, I) baseline."""
    log_variance = model.reference.spectrum().log()
    location = -float(log_variance.mean())
    scale = float((1.0 + 3.0 / torch.pi**2 * log_variance.var()).sqrt())
    edges = torch.sigmoid((torch.tensor([low, high], dtype=torch.float64) - location) / scale)
    u = edges[0] + (edges[1] - edges[0]) * torch.rand(len(x), dtype=torch.float64)
    level = location + scale * torch.logit(u)
    p = torch.sigmoid((level - location) / scale)
    density = p * (1.0 - p) / scale / (edges[1] - edges[0])
    z, eps = noised(level, x)
    with torch.no_grad():
        squared = sum_event((eps - model.score.noise(level, z)).square())
    return -0.5 * (squared - x[0].numel() * torch.sigmoid(level)) / density, 1


def variance_of(estimator, model, y, low, high):
    """Variance times evaluations per row, from independent draws."""
    values = []
    for _ in range(DRAWS):
        value, cost = estimator(model, y, low, high)
        values.append(value)
    return torch.stack(values).var(0) * cost, torch.stack(values).mean(0)


def ours(model, y, samples):
    """Variance times evaluations per row of the bound itself, at one fixed dequantisation draw."""
    values = []
    for seed in range(DRAWS // samples * 4):
        estimate = elbo(model.pair, y, samples=samples, generator=torch.Generator().manual_seed(seed))
        values.append(estimate.replicates)
    return torch.cat(values).var(0) * (estimate.nfe / len(estimate.replicates))  # evaluations of each replicate


def main():
    """Compare on one model."""
    parser = Command(__doc__, rows=4)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=ROWS, help="test rows")
    parser.add_argument("--name", default="efficiency", help="file stem of the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = DensityModel.from_pretrained(options.folder)
    data = load("digits")
    x = data.x[Splits.from_json(model.record["splits"]).test][: options.rows]
    y = model.encode(x).view(1, 0).x[:, 0].float()
    low, high = model.score.log_snr_range
    reference = {f"ours, {samples} samples": ours(model, y, samples) for samples in (32, 128)}
    base = reference["ours, 32 samples"]
    rows = [{"estimator": name, "variance_times_nfe": spread(value.tolist())} for name, value in reference.items()]
    for name, estimator in (
        ("(a) uniform time, ISM, one probe", implicit_uniform),
        ("(b) uniform time, denoising", denoising_uniform),
        ("(c) logistic log-SNR, N(0, I) baseline", logistic_baseline),
    ):
        value, _ = variance_of(estimator, model, y, low, high)
        ratio = value / base
        rows.append(
            {"estimator": name, "variance_times_nfe": spread(value.tolist()), "ratio_to_ours": spread(ratio.tolist())}
        )
    for row in rows:
        print(row["estimator"], row["variance_times_nfe"]["median"], row.get("ratio_to_ours", {}).get("median"))
    if not options.quick:
        record(options.name, rows, test_rows=len(y), draws=DRAWS)


if __name__ == "__main__":
    main()

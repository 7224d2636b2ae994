r"""A density model as a regulariser of a generator: losses whose gradient in x pulls samples to high density.

Three gradients, by what the caller passes (note of paper 2, section 2.7):

- by default, the likelihood's own: over the whole log-SNR range the value estimates :math:`-\log p(x)` without bias
  and its gradient goes through the network; over a band it is :math:`\tfrac12 \int_{band} E\|\varepsilon -
  \hat\varepsilon\|^2 dl`, the loss of SMaRt with the likelihood's weights;
- with ``detach_jacobian`` (score distillation), that of :math:`-\log q_l(x_l)` averaged over the band,

  .. math::
      \frac{1}{|band|} \int_{band} E\Big[\frac{\alpha}{\sigma}\, \hat\varepsilon(z_l)\Big] dl
      = \frac{1}{|band|} \int_{band} \Big( \frac{p}{\lambda} (x - m) + \frac{\alpha}{\sigma} E[\delta(z_l)] \Big) dl ,

  where the reference's part is closed form and only the deviation :math:`\delta` is sampled;
- with a fake score too (distribution matching), that of :math:`\log q^{fake}_l - \log q_l`: the reverse KL of noised
  laws, whose entropy term keeps the diversity that the other two give up.

In a GAN with optimal discriminator and weight w on :math:`E_G[-\log p]` the optimum is
:math:`p_G = p\, c p^w / (1 - c p^w)`, c the normaliser: it sharpens modes (:func:`gan_optimum`).
"""

__all__ = ["density_regulariser", "gan_optimum"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from girsanov.calculus import Noised, expand_as_rows, sum_event
from girsanov.inputs import checked
from girsanov.likelihoods.baselines import GaussianBaseline
from girsanov.likelihoods.common_noise import systematic
from girsanov.pairs import ScorePair
from girsanov.randomness import source_of
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, Score, State

BISECTIONS = 200


@checked
def density_regulariser(
    model: Any,
    x: State,
    *,
    log_snr_range: tuple[float, float] | None = None,
    detach_jacobian: bool = False,
    fake: Score | None = None,
    samples: int = 4,
    condition: Any = None,
    generator: torch.Generator | None = None,
) -> Nats:
    """Loss of every row, shape ``n``, to be added to a generator's own with a weight.

    Densities of dequantised data vanish outside the range of their cells: with a lattice head, -log p then grows with
    the squared distance over the finest noise, and its gradient, though finite, drowns a generator's own. Take a band
    below the levels that resolve the cells, or fit with ``lattice_head=False``; keep the generator within the range.

    Args:
        model: a fitted density model, or a :class:`girsanov.ScorePair` with a reference. Its parameters get gradients
            too unless they are frozen: ``model.requires_grad_(False)``.
        x: the generator's output in the model's space, ``n *d``; it carries the gradient.
        log_snr_range: band of log-SNR; default the whole range of the score.
        detach_jacobian: leave the network's Jacobian out of the gradient (score distillation). The value is then 0:
            such a loss has a gradient and no value.
        fake: score of the generator's current law, evaluated at the same noise and subtracted (distribution
            matching); it implies ``detach_jacobian``.
        samples: network evaluations per row, at low-discrepancy levels with antithetic noise.
        condition: leading dimension ``n`` or 1: as a fitted model takes it, else passed on to the score.
        generator: source of levels and noise, ``None`` for seed 0; pass the training loop's, so that steps differ.

    Raises:
        InputError: for a model without a reference, a band outside the score's range or fewer than one sample.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> x = torch.full((1, 2), 5.0, requires_grad=True)
        >>> (gradient,) = torch.autograd.grad(density_regulariser(model, x).sum(), x)
        >>> bool((gradient > 0).all())  # descent leads back to the data
        True
    """
    pair = getattr(model, "pair", model)
    if not isinstance(pair, ScorePair) or pair.reference is None:
        raise InputError("A density regulariser is made of a fitted model, or of a ScorePair with a reference")
    low, high = pair.log_snr_range
    band = log_snr_range or (low, high)
    if not low <= band[0] < band[1] <= high:
        raise InputError(f"The band {band} must lie within the score's log-SNR range {(low, high)}")
    encode = getattr(model, "encode_condition", None)  # a fitted model's
    condition = condition if encode is None else encode(condition, len(x))
    baseline, source = GaussianBaseline(pair, None, pair.reference), source_of(generator)
    proposal = LogSNRDensity.from_spectrum(*band, pair.reference.spectrum())
    offset = torch.rand(len(x), generator=source, dtype=torch.float64).to(x.device)
    shape = (len(x), (samples + 1) // 2, *x.shape[1:])
    half = torch.randn(shape, generator=source, dtype=pair.dtype(x)).to(x.device)
    at, weights = systematic(x, proposal, offset, half, samples, condition)

    def integral(values: Tensor) -> Tensor:
        """Over the band: the weighted sum of a row's samples, of values ``m`` or ``m *d``."""
        wide = expand_as_rows(weights, values) if values.ndim > 1 else weights
        return (wide * values).unflatten(0, (-1, samples)).sum(1)

    if detach_jacobian or fake is not None:
        gradient = _distilled(baseline, x, at, integral, band, fake)
        return sum_event((x - x.detach()) * gradient.to(x.dtype))
    gain = integral(baseline.sampled(at))
    if log_snr_range is None:
        return -pair.reference.log_prob(x) - gain
    return 0.5 * baseline.integral(x, *band) - gain


@torch.no_grad()
def _distilled(
    baseline: GaussianBaseline,
    x: State,
    at: Noised,
    integral: Callable[[Tensor], Tensor],
    band: tuple[float, float],
    fake: Score | None,
) -> State:
    """Gradient of the band's mean of -log q_l(x_l), or of its difference to the fake law's."""
    pair, law, width = baseline.pair, baseline.reference, band[1] - band[0]
    ratio = expand_as_rows(torch.exp(0.5 * at.log_snr), at.z)
    if fake is not None:
        theirs = ScorePair(fake, pair.process).noise(at.log_snr, at.z, at.condition)
        ours = pair.noise(at.log_snr, at.z, at.condition)
        return integral(ratio * (ours - theirs)) / width
    _, delta = pair.deviation(at.log_snr, at.z, at.condition)
    sampled = integral(ratio * delta).double() / width
    low, high = band

    def closed(variances: Tensor) -> Tensor:
        shift = variances.log()
        span = torch.nn.functional.softplus(high + shift) - torch.nn.functional.softplus(low + shift)
        return span / (width * variances)

    return sampled + law.spectral(x.double() - law.mean, closed)


def gan_optimum(log_prob: Tensor, volume: Tensor | float, weight: float) -> Tensor:
    """Closed-form optimum of a GAN with ``weight`` times E_G[-log p], on cells that cover the space.

    Args:
        log_prob: log-density of the data at the cells, in nats.
        volume: of the cells, a scalar or of the shape of ``log_prob``.
        weight: w >= 0; the data's own density at 0.

    Returns:
        Density of the optimum at the cells, float64; it sums to one with ``volume``.

    Example:
        >>> x = torch.linspace(-8.0, 8.0, 1001, dtype=torch.float64)
        >>> log_p = -0.5 * x.square() - 0.918939
        >>> p = gan_optimum(log_p, 0.016, 0.5)
        >>> round(float((p * 0.016).sum()), 6), bool(p[500] > log_p[500].exp())
        (1.0, True)
    """
    if weight < 0.0:
        raise InputError(f"weight must not be negative; got {weight}")
    log_p = log_prob.double()
    # c p^w = r / (1 + r) of the densest cell, where r runs over all positive numbers: the mass grows with r
    tilt = weight * (log_p - log_p.max())
    low, high = log_p.new_tensor(-60.0), log_p.new_tensor(60.0)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        mass = (_tilted(log_p, tilt, middle) * volume).sum()
        low, high = (middle, high) if bool(mass < 1.0) else (low, middle)
    return _tilted(log_p, tilt, 0.5 * (low + high))


def _tilted(log_p: Tensor, tilt: Tensor, logit: Tensor) -> Tensor:
    """The optimum p D / (1 - D), D = sigmoid(logit) exp(tilt) being the share of generated mass."""
    share = torch.sigmoid(logit) * tilt.exp()
    # at the densest cell 1 - D is sigmoid(-logit), without cancellation
    rest = torch.sigmoid(-logit) - torch.sigmoid(logit) * torch.expm1(tilt)
    return log_p.exp() * share / rest

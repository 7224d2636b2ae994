r"""A network, a process and what the network predicts: together, a score.

With a Gaussian reference the network does not predict from scratch: it learns the correction to the Gaussian's
exact denoiser. In coordinates that whiten the noised reference, each eigendirection is a variance-preserving
problem of its own, :math:`w = \sqrt{p}\, \xi + \sqrt{1-p}\, \varepsilon` with unit-variance :math:`\xi` and
:math:`p = \mathrm{sigmoid}(l + \log \lambda)`. The network sees w and predicts the residual of ``noise``, ``v``, ...
there; for ``v`` that residual has unit variance at every log-SNR and is uncorrelated with w. A network that
returns zero is the Gaussian exactly.

Far from all training rows a network says anything, and a closed form whose tails are light insists on a place where
no row is. A prediction of the noise that is right is a conditional mean of N(0, 1) variables and does not leave five
standard deviations once in a million draws, whatever the law of the data. With a broad share every coordinate of
:math:`\hat\varepsilon` that does is faded out between five and seven, as in the exact denoiser
:math:`(1 - \pi)\, \hat\varepsilon_p + \pi \cdot 0` of a law p that is mixed with a flat one of weight about
:math:`e^{-18}`: no coordinate then costs more than a few nats per unit of log-SNR, wherever a row lies.
"""

__all__ = ["HALF", "ScoreModel", "called"]

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.densities import Gaussian
from girsanov.inputs import like_rows
from girsanov.networks.dense import Ensemble
from girsanov.networks.heads import Head, ResidualHead
from girsanov.networks.predictions import PREDICTIONS, to_noise
from girsanov.processes import LinearProcess
from girsanov.rows import Calls, at_once
from girsanov.types import InputError, State, Time

# where a coordinate of the noise prediction begins to give way to the flat law's, and where it has given way
NEAR, FAR = 5.0, 7.0
HALF = (torch.float16, torch.bfloat16)  #: the types of half precision


def called(function: Callable[..., Tensor], level: Tensor, x: State, *given: Tensor | None) -> State:
    """``function`` of times or levels ``b`` and rows ``b *d``; half precision rounds what it sees and nothing else."""
    parameter = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    if parameter is None or parameter.dtype not in HALF:
        return function(level, x, *given)
    rounded = (part.to(parameter.dtype) if part is not None and part.is_floating_point() else part for part in given)
    return function(level, x.to(parameter.dtype), *rounded).to(x.dtype)


class ScoreModel(nn.Module):
    """A network and a linear process, called as a score ``(t, x) -> grad log p_t(x)``.

    Args:
        network: without a reference, ``network(log_snr, x_t, condition) -> prediction`` of the shape of ``x_t``, in
            the process's own coordinates. With a reference, ``network(log_snr, features, condition)`` maps the
            whitened input ``b 1 *d`` to the residual of the prediction, ``b 1 *d``; an :class:`Ensemble` of such
            networks is averaged.
        process: the forward process.
        predicts: ``noise``, ``score``, ``denoised``, ``v``, ``flow`` or ``control``.
        reference: the Gaussian whose denoiser the network corrects.
        head: how network outputs become a correction; default the residual of ``predicts``.
        log_snr_range: where the network was trained; default the process's range.
        broad_share: whether predictions that no noise explains give way to those of a flat law, outside of training
            (which fits the correction alone).

    Raises:
        InputError: for an unknown prediction.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> zero = lambda log_snr, x, condition: torch.zeros_like(x)
        >>> model = ScoreModel(zero, VariancePreserving(), reference=Gaussian(torch.zeros(2), 1.0))
        >>> model(torch.tensor([0.5]), torch.ones(1, 2))
        tensor([[-1., -1.]])
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        process: LinearProcess,
        predicts: str = "v",
        *,
        reference: Gaussian | None = None,
        head: Head | None = None,
        log_snr_range: tuple[float, float] | None = None,
        broad_share: bool = False,
    ) -> None:
        super().__init__()
        if predicts not in PREDICTIONS:
            raise InputError(f"Unknown prediction {predicts!r}: choose one of {', '.join(PREDICTIONS)}")
        self.network = network
        self.process = process
        self.predicts = predicts
        self.reference = reference
        self.head = head or (ResidualHead(reference, predicts) if reference is not None else None)
        self.log_snr_range = log_snr_range or process.log_snr_range
        self.broad_share = broad_share

    def forward(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """The score at times ``b`` and rows ``b *d``; before the data end of the range, the score there."""
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        level = self.process.log_snr(times).clamp_max(self.log_snr_range[1])
        alpha, sigma = self.process.marginal_at(level)
        scale = (alpha.square() + sigma.square()).sqrt()
        noise = self.noise(level, x / expand_as_rows(scale, x), condition)
        return -noise / expand_as_rows(sigma, x)

    def at(self, t: float) -> Callable[[State], State]:
        """The score at one time, as a function of the state alone."""
        return lambda x: self(torch.tensor(t, dtype=torch.float64).expand(len(x)), x)

    def noise(self, log_snr: Tensor, z: State, condition: Tensor | None = None, *, calls: Calls | None = None) -> State:
        """Noise prediction at variance-preserving ``z``, ``log_snr`` of shape ``b``; see :meth:`deviation`."""
        if self.reference is not None:
            noise = self.reference.noise(log_snr, z)
            return noise + self.deviation(log_snr, z, condition, noise=noise, calls=calls)
        return (calls or at_once)(self._plain_noise, log_snr, z, condition)

    def _plain_noise(self, log_snr: Tensor, z: State, condition: Tensor | None) -> State:
        """That of a network without a reference."""
        alpha, sigma = self.process.marginal_at(log_snr.double())
        x_t = expand_as_rows((alpha.square() + sigma.square()).sqrt(), z) * z
        answer = called(self.network, log_snr.to(z.dtype), x_t, condition)
        prediction = like_rows(answer, x_t, "network", finite=False)
        return to_noise(self.predicts, self.process, log_snr, x_t, prediction)

    def deviation(
        self,
        log_snr: Tensor,
        z: State,
        condition: Tensor | None = None,
        *,
        noise: State | None = None,
        calls: Calls | None = None,
    ) -> State:
        """Noise prediction minus the reference's, evaluated without cancellation.

        Args:
            log_snr: levels ``b``.
            z: variance-preserving states ``b *d``.
            condition: leading dimension ``b``.
            noise: the reference's prediction there, where it is known already.
            calls: how the network sees the rows; default all at once.

        Raises:
            InputError: if the model has no reference.
        """
        if self.head is None:
            raise InputError("This score model has no reference to deviate from")
        delta = (calls or at_once)(partial(self._averaged, self._member), log_snr, z, condition, noise)
        return self._given_way(delta, lambda law: law.noise(log_snr, z) if noise is None else noise)

    def whitened_deviation(self, log_snr: Tensor, w: State, condition: Tensor | None = None) -> State:
        """The same at the whitened ``w`` of z, for a :class:`ResidualHead`, whose networks see w itself."""
        assert isinstance(self.head, ResidualHead)
        delta = self.head.colour(log_snr, self._averaged(_residual, log_snr, w, condition))
        return self._given_way(delta, lambda law: law.whitened_noise(log_snr, w))

    def _given_way(self, delta: State, noise_of: Callable[[Gaussian], State]) -> State:
        """The deviation where the noise prediction, of which it is a part, gives way to the flat law's."""
        if self.training or not self.broad_share:
            return delta
        assert self.reference is not None
        noise = noise_of(self.reference) + delta
        return delta - noise * given_way(noise)

    def _averaged(self, one: Callable[..., State], *given: Tensor | None) -> State:
        """What ``one(network, *given)`` of some rows is on average over the members."""
        if not isinstance(self.network, Ensemble):
            return one(self.network, *given)
        members = list(self.network.members)
        if not self.training:
            return torch.stack([one(member, *given) for member in members]).mean(0)
        shares = zip(*(_shares(part, len(members)) for part in given), strict=True)
        return torch.cat([one(member, *share) for member, share in zip(members, shares, strict=True)])

    def _member(
        self, network: Callable[..., Tensor], log_snr: Tensor, z: State, condition: Tensor | None, noise: State | None
    ) -> State:
        assert self.head is not None
        level = log_snr.to(z.dtype)
        return self.head.deviation(lambda features: called(network, level, features, condition), log_snr, z, noise)


def _shares(part: Tensor | None, members: int) -> Sequence[Tensor | None]:
    """The rows of each member in training."""
    return [None] * members if part is None else part.tensor_split(members)


def _residual(network: Callable[..., Tensor], log_snr: Tensor, w: State, condition: Tensor | None) -> State:
    """The one map that a network returns for the one map w."""
    return called(network, log_snr.to(w.dtype), w[:, None], condition)[:, 0]


def given_way(noise: State) -> State:
    """Share of the flat law in each coordinate of a noise prediction: exactly 0 up to ``NEAR``, 1 from ``FAR`` on.

    Example:
        >>> given_way(torch.tensor([0.0, -5.0, 6.0, -70.0]))
        tensor([0.0000, 0.0000, 0.5000, 1.0000])
    """
    t = ((noise.abs() - NEAR) / (FAR - NEAR)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)

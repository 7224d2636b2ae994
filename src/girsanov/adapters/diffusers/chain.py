r"""A diffusers sampler as a chain: the scheduler's own steps down, exact noising between its own levels up.

A step's law is Gaussian: its mean is where the scheduler goes without noise, its scale what one unit of noise adds. The
encoder adds noise from each level of the scheduler to the one before, so that weights of its paths bound the density of
what this sampler draws in so many steps, with this guidance, clipping and variances.
"""

__all__ = ["SchedulerChain", "chain_from_diffusers"]

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from girsanov.adapters.diffusers.adapter import event_shape_of
from girsanov.adapters.diffusers.loading import find_parts
from girsanov.adapters.diffusers.network import Call, CalledNetwork, DiffusersNetwork, told_guidance
from girsanov.adapters.diffusers.scheduler_steps import SchedulerSteps
from girsanov.calculus import sum_event
from girsanov.inputs import checked
from girsanov.linear import Diagonal, Isotropic, LinearMap
from girsanov.pairs import Chain, GaussianKernel, Guidance, Path, ScorePair
from girsanov.randomness import normal_blocks
from girsanov.types import InputError, Nats, State


@final
class SchedulerChain(Chain):
    """The steps of a diffusers scheduler with its network; see :func:`chain_from_diffusers`.

    Args:
        network: as it is called.
        schedule: the scheduler's steps.
        floor: least standard deviation of every step; 0 for none.
        guidance: of the network's output by its condition.
        event_shape: of one row.

    Raises:
        InputError: for steps without noise and no floor.
    """

    def __init__(
        self,
        network: CalledNetwork,
        schedule: SchedulerSteps,
        *,
        floor: float = 0.0,
        guidance: Guidance | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(len(schedule))
        self.network, self.schedule, self.guidance = network, schedule, guidance
        self.event_shape = None if event_shape is None else torch.Size(event_shape)
        self.floor = floor
        self._kept, self._added = schedule.kept().tolist(), schedule.added().tolist()
        if not floor:
            schedule.require_noise()

    def encode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """Exact noising from the level of state k to that of state k + 1, in the scheduler's coordinates."""
        del condition
        j = self.length - 1 - k
        scale = Isotropic(x.new_full((len(x),), self._added[j]))
        return GaussianKernel((self._kept[j] - 1.0) * x, scale, self.encoder_log_variance[k])

    def decode(self, k: int, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """The scheduler's step from state k + 1 to state k."""
        j = self.length - 1 - k
        output = self._output(j, x, condition)
        shift = self.schedule.shift(j, output, x)
        return GaussianKernel(shift, self._scale(j, output, x), self.decoder_log_variance[k])

    def log_prior(self, x: State) -> Nats:
        """Log-density of the first states of the sampler: independent normal numbers of one deviation."""
        start = self.schedule.start
        return -0.5 * sum_event((x / start).double().square()) - x[0].numel() * math.log(start * math.sqrt(2 * math.pi))

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw the first states as pipelines do, in the network's precision, single at least.

        Raises:
            InputError: where neither the network nor the caller says the shape of a row.
        """
        if not self.event_shape:
            raise InputError("The network does not say the shape of a row: pass event_shape=")
        parameter = next((p for p in self.network.parameters() if p.is_floating_point()), torch.empty(0))
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        like = torch.empty(n, *self.event_shape, dtype=dtype, device=parameter.device)
        return self.schedule.start * normal_blocks(like, generator)(1)[0]

    def last_mean(self, path: Path) -> State:
        """Means of the last step of paths, ``n *d``: what a pipeline returns where only the floor has noise there."""
        j, x = self.steps - 1, path.states[:, -2]
        return x + self.step(j, x, path.condition).change(torch.zeros_like(x))

    def _output(self, j: int, x: State, condition: Tensor | None) -> State:
        """The network's output, guided, in as many channels as the scheduler reads."""
        shown, timestep = self.schedule.shown(j, x), self.schedule.timesteps[j].to(x.device).expand(len(x))
        channels, found = x.shape[1], x

        def prediction(given: Tensor | None) -> State:
            nonlocal found
            found = self.network.answer(shown, timestep, given)
            return found[:, :channels]

        own = prediction(condition) if self.guidance is None else self.guidance.of(prediction, condition)
        if own.shape != x.shape or found.shape[1] not in (channels, 2 * channels):
            raise InputError(
                f"The network returns shape {tuple(found.shape)} for an input of shape {tuple(x.shape)}: give the rows "
                "the shape that it was trained on"
            )
        if not self.schedule.learned:
            return own
        if found.shape[1] == channels:
            raise InputError(f"This {self.schedule.name} wants learned variances, and the network returns none")
        return torch.cat([own, found[:, channels:]], 1)  # the variances are those of the condition, as in pipelines

    def _scale(self, j: int, output: State, x: State) -> LinearMap:
        if self.schedule.learned and self.schedule.drawn[j]:
            return Diagonal(self.schedule.deviation(j, output, x).clamp_min(self.floor).flatten(1))
        return Isotropic(x.new_full((), max(self.schedule.deviations[j], self.floor)).expand(len(x)))


@checked
def chain_from_diffusers(
    source: Any,
    scheduler: Any = None,
    steps: int | None = None,
    *,
    eta: float | None = None,
    floor: float | None = None,
    guidance: Guidance | None = None,
    call: Call | None = None,
    null_class: int | None = None,
    event_shape: Sequence[int] | None = None,
) -> SchedulerChain:
    """The sampler of a diffusers pipeline as a chain: its steps have log-probabilities, and its draws true bounds.

    With the same seed, :meth:`Chain.sample_path` draws what the pipeline draws, up to rounding.

    Args:
        source: a network, a pipeline, a folder that ``save_pretrained`` wrote, a Hugging Face id, or a pair that
            :func:`girsanov.from_diffusers` returned.
        scheduler: draws noise at most once in each step and remembers no earlier one: DDPM, DDIM, Euler ancestral, flow
            matching, LCM, TCD or first-order SDE-DPM-Solver++; default the pipeline's own.
        steps: number of steps; default those for which its ``set_timesteps`` was called.
        eta: share of noise, 0 to 1, of DDIM and TCD; default the scheduler's.
        floor: least standard deviation of every step, in units of the rows: the sampler then draws that noise too. Most
            schedulers have a last step without any.
        guidance: of the network's output by its condition; see :class:`girsanov.pairs.Guidance`.
        call: ``(network, input, timestep, condition) -> output`` for networks that take more than one condition, as
            for :func:`girsanov.from_diffusers`.
        null_class: the label that stands for "no label"; labels below 0, and a condition that is left out, become it.
        event_shape: of one row, where the network's settings do not say it.

    Returns:
        The chain, in the scheduler's coordinates. Its parameters are the network's, which is put into evaluation mode.

    Raises:
        InputError: if diffusers is missing, for a scheduler that remembers earlier steps, and for steps without noise
            and no floor: the sentence says which.

    Example:
        >>> import girsanov as gv
        >>> chain = gv.chain_from_diffusers("google/ddpm-cifar10-32", steps=50, floor=0.01)  # doctest: +SKIP
        >>> path = chain.sample_path(8)  # doctest: +SKIP
        >>> chain.step_log_prob(path).shape  # doctest: +SKIP
        torch.Size([8, 50])
        >>> gv.chain_elbo(chain, images).mean()  # doctest: +SKIP
    """
    if floor is not None and not 0.0 < floor < math.inf:
        raise InputError(f"floor must be a standard deviation above 0; got {floor}: leave it out for none")
    network, found, shape = _found(source, scheduler, call, null_class)
    schedule = SchedulerSteps(found, steps, eta)
    given = {"guidance": guidance, "event_shape": event_shape or shape}
    return SchedulerChain(network.eval(), schedule, floor=floor or 0.0, **given)


def _found(
    source: Any, scheduler: Any, call: Call | None, null_class: int | None
) -> tuple[CalledNetwork, Any, Sequence[int] | None]:
    """Network, scheduler and shape of a row."""
    if isinstance(source, ScorePair):
        known = getattr(source.score, "network", None)
        if not isinstance(known, DiffusersNetwork) or (call, null_class) != (None, None):
            raise InputError(
                "Of pairs, those that from_diffusers returned are taken, with the call= and null_class= that they have"
            )
        parts = find_parts(known.network, known.scheduler if scheduler is None else scheduler)
        return known, parts.scheduler, source.event_shape
    parts = find_parts(source, scheduler)
    if told_guidance(parts.network) and call is None:
        raise InputError("This network takes its guidance scale as an input: pass call=, which gives it one")
    network = CalledNetwork(parts.network, call=call, null_class=null_class)
    return network, parts.scheduler, event_shape_of(parts.network)

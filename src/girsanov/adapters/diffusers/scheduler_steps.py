r"""Steps of a diffusers scheduler as Gaussian laws: the noise levels between which they lead, their means and scales.

A scheduler's ``step`` is called as it is, so that clipping, thresholding, learned variances and every prediction are
what its pipelines do; what it draws inside is answered by a number instead. Where a step is affine in state and output,
as all are without clipping, its coefficients are asked for once. Levels are in its own coordinates,
:math:`x_t = a x + s \varepsilon`:

=====================================  =====================================  =====================================
schedulers                             a                                      s
=====================================  =====================================  =====================================
DDPM, DDIM, LCM, TCD                   :math:`\sqrt{\bar\alpha}`              :math:`\sqrt{1 - \bar\alpha}`
Euler ancestral                        1                                      :math:`\sigma`
flow matching                          :math:`1 - \sigma`                     :math:`\sigma`
SDE-DPM-Solver++                       :math:`(1 + \sigma^2)^{-1/2}`          :math:`\sigma a`
=====================================  =====================================  =====================================
"""

__all__ = ["SchedulerSteps"]

import copy
import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from girsanov.adapters.diffusers.loading import quiet
from girsanov.types import InputError, State, require_count

Levels = tuple[Tensor, Tensor]
AFFINE = 1e-5  # relative, to which a step that is not clipped must be affine in state and output
LEAST = 1e-6  # deviation from which on a step's noise is more than rounding, in units of its state's
KNOWN = (
    "DDPM, DDIM with eta=1, Euler ancestral, flow matching with stochastic_sampling=True, LCM, TCD, or DPM-Solver with "
    'solver_order=1 and algorithm_type="sde-dpmsolver++"'
)


def _preserving(scheduler: Any) -> Levels:
    share = scheduler.alphas_cumprod[scheduler.timesteps.long()].double()
    return share.sqrt(), (1.0 - share).sqrt()


def _exploding(scheduler: Any) -> Levels:
    sigma = scheduler.sigmas[:-1].double()
    return torch.ones_like(sigma), sigma


def _straight(scheduler: Any) -> Levels:
    sigma = scheduler.sigmas[:-1].double()
    return 1.0 - sigma, sigma


def _of_solver(scheduler: Any) -> Levels:
    if scheduler.config.get("use_flow_sigmas"):
        return _straight(scheduler)
    sigma = scheduler.sigmas[:-1].double()
    signal = (1.0 + sigma.square()).rsqrt()
    return signal, sigma * signal


#: scheduler -> signal and noise before each of its steps, float64
LEVELS: dict[str, Callable[[Any], Levels]] = {
    **dict.fromkeys(("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler"), _preserving),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), _preserving),
    **dict.fromkeys(("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"), _of_solver),
    "EulerAncestralDiscreteScheduler": _exploding,
    "FlowMatchEulerDiscreteScheduler": _straight,
}


class _Answered(TorchFunctionMode):
    """What is drawn inside is a number: of this thread alone, with no generator read.

    Attributes:
        draws: how often something was.
    """

    def __init__(self, number: float) -> None:
        super().__init__()
        self.fill, self.draws = (torch.ones if number else torch.zeros), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        self.draws += 1
        return self.fill(*args, **{name: value for name, value in (kwargs or {}).items() if name != "generator"})


class SchedulerSteps:
    """A scheduler whose steps can be asked for in any order; the one given is left as it is.

    Args:
        scheduler: of diffusers.
        steps: number of steps; ``None`` for the timesteps that were set.
        eta: share of noise, for schedulers that take one.

    Attributes:
        name: of the scheduler's class.
        timesteps: one for each of N steps.
        signal: a of the states before each step and of the data, shape ``N + 1``, float64.
        noise: s of the same.
        start: standard deviation of the first state.
        deviations: of each step's noise, 0 where it draws none; where variances are learned, that of none.
        learned: whether the network says the variances.

    Raises:
        InputError: for a scheduler whose steps are not Gaussian given the state before, or which takes no such steps.
    """

    def __init__(self, scheduler: Any, steps: int | None = None, eta: float | None = None) -> None:
        self.name = type(scheduler).__name__
        levels = _levels_of(scheduler)
        own = _with_timesteps(copy.deepcopy(scheduler), steps)
        self.timesteps = list(own.timesteps)
        self.options = _options(own, eta)
        self.learned = str(own.config.get("variance_type")).startswith("learned")
        self.start = float(getattr(own, "init_noise_sigma", 1.0))
        # the last state is what is taken for data, whatever small level some schedulers have in mind for it
        ends = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
        self.signal, self.noise = (torch.cat([value.cpu(), end]) for value, end in zip(levels(own), ends, strict=True))
        if not bool((self.added().isfinite() & (self.added() > 0.0)).all()):
            raise InputError(f"Noise must fall from step to step of {self.name}: take fewer steps or another schedule")
        self._ready = [self._prepared(own, j) for j in range(len(self))]
        self.deviations, self.drawn = self._measured()
        self._affine = [self._coefficients(j) for j in range(len(self))]

    def __len__(self) -> int:
        return len(self.timesteps)

    def added(self) -> Tensor:
        """Standard deviations of what exact noising adds from each state to the one before it, ``N``, float64."""
        return (self.noise[:-1].square() - (self.kept() * self.noise[1:]).square()).sqrt()

    def kept(self) -> Tensor:
        """By what exact noising multiplies each state to the one before it, ``N``, float64."""
        return self.signal[:-1] / self.signal[1:]

    def shown(self, j: int, x: State) -> State:
        """What the network sees of states ``b *d`` at step j."""
        return _scaled(self._ready[j], x, self.timesteps[j])

    def shift(self, j: int, output: State, x: State) -> State:
        """Mean of step j less the states ``b *d`` that it leaves, by the network's output there."""
        coefficients = self._affine[j]
        if coefficients is None:
            return self._taken(j, output, x, 0.0)[0] - x
        return torch.add(coefficients[0] * x, output, alpha=coefficients[1])

    def deviation(self, j: int, output: State, x: State) -> State:
        """Standard deviation of step j by the variances that are the second half of an output, ``b *d``."""
        silent = torch.cat([torch.zeros_like(x), output[:, x.shape[1] :]], 1)
        return self._taken(j, silent, torch.zeros_like(x), 1.0)[0]

    def require_noise(self) -> None:
        """Refuse steps that have no density.

        Raises:
            InputError: which names them.
        """
        sizes = torch.maximum(self.signal, self.noise)[1:].tolist()
        silent = [
            j
            for j, size in enumerate(sizes)
            if not self.drawn[j] or not (self.learned or self.deviations[j] > LEAST * size)
        ]
        if not silent:
            return
        advice = "give floor=, a standard deviation that such steps then have, such as 0.01 of data in [-1, 1]"
        if len(silent) == len(self):
            raise InputError(f"{self.name} draws no noise in any step, so that none has a density: {self.hint}{advice}")
        named = ", ".join(map(str, silent[:4])) + (", ..." if len(silent) > 4 else "")
        raise InputError(
            f"{self.name} draws no noise in step {named} of 0 to {len(self) - 1}, which so has no density: {advice}"
        )

    @property
    def hint(self) -> str:
        """What makes this scheduler draw, for a sentence."""
        if "eta" in signature(self._ready[0].step).parameters:
            return "give eta=1, or "
        return "set its stochastic_sampling=True, or " if "stochastic_sampling" in self._ready[0].config else ""

    def _taken(self, j: int, output: State, x: State, noise: float) -> tuple[State, int]:
        """The scheduler's own step with a number for all noise, and how often it drew."""
        scheduler = copy.copy(self._ready[j])  # a step counts on
        if hasattr(scheduler, "model_outputs"):
            scheduler.model_outputs = list(scheduler.model_outputs)
        with _Answered(noise) as answered:
            after = scheduler.step(output, self.timesteps[j], x, return_dict=False, **self.options)[0]
        return after, answered.draws

    def _prepared(self, scheduler: Any, j: int) -> Any:
        """The scheduler as it is before step j."""
        found = copy.copy(scheduler)
        if hasattr(found, "set_begin_index"):
            found.set_begin_index(j)
        _scaled(found, torch.zeros(1, 1, 1), self.timesteps[j])  # some look up their step there, and want to be asked
        return found

    def _coefficients(self, j: int) -> tuple[float, float] | None:
        """By what the shift of step j multiplies states and outputs, where that is all: at a fraction of the cost."""
        if self.learned or self._ready[j].config.get("clip_sample") or self._ready[j].config.get("thresholding"):
            return None
        x, output = (torch.tensor(values)[:, None, None] for values in ([1.0, 0.0, 2.0], [0.0, 1.0, -3.0]))
        a, b, both = self._taken(j, output, x, 0.0)[0].flatten().double().tolist()
        wrong = abs(both - (2.0 * a - 3.0 * b)) > AFFINE * (abs(2.0 * a) + abs(3.0 * b))
        return None if wrong or not math.isfinite(both) else (a - 1.0, b)

    def _measured(self) -> tuple[list[float], list[bool]]:
        """Deviations of all steps, and whether they draw, at a state and an output of 0, whose mean is 0."""
        x, output = torch.zeros(1, 1, 1), torch.zeros(1, 2 if self.learned else 1, 1)
        found = [self._taken(j, output, x, 1.0) for j in range(len(self))]
        return [float(after) if draws else 0.0 for after, draws in found], [draws > 0 for _, draws in found]


def _scaled(scheduler: Any, x: State, timestep: Tensor) -> State:
    return scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x


def _levels_of(scheduler: Any) -> Callable[[Any], Levels]:
    name = next((kind.__name__ for kind in type(scheduler).__mro__ if kind.__name__ in LEVELS), "")
    config = scheduler.config
    remembers = config.get("solver_order", 1) > 1 or not str(config.get("algorithm_type", "sde")).startswith("sde")
    if not name or remembers:
        raise InputError(
            f"{type(scheduler).__name__} as it is set remembers earlier steps, or draws no noise in them, so that they "
            f"have no densities: take {KNOWN}"
        )
    return LEVELS[name]


def _with_timesteps(scheduler: Any, steps: int | None) -> Any:
    name = type(scheduler).__name__
    if steps is not None:
        try:
            with quiet():
                scheduler.set_timesteps(require_count("steps", steps))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{name} does not take {steps} steps ({error}): call its set_timesteps and leave steps= out"
            ) from error
    elif getattr(scheduler, "num_inference_steps", None) is None or getattr(scheduler, "step_index", None) is not None:
        raise InputError(f"The timesteps of this {name} are not set, or it is under way: pass steps=")
    return scheduler


def _options(scheduler: Any, eta: float | None) -> dict[str, float]:
    if eta is None:
        return {}
    if "eta" not in signature(scheduler.step).parameters:
        raise InputError(f"{type(scheduler).__name__} has no eta: leave it out")
    if not 0.0 <= eta <= 1.0:
        raise InputError(f"eta must be between 0, no noise, and 1; got {eta}")
    return {"eta": eta}

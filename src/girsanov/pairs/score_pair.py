r"""The plug-in pair of a score over a linear process: what people call a diffusion model.

A score alone says nothing about a row. With its forward process, the range of log-SNR on which it is known, a law at
the noise end of that range and a decoder at the data end it is a generative model, and every likelihood, sampler and
test is of that model. All of these facts are kept here, and answered once.

The score is read in variance-preserving coordinates :math:`z = x_t / \sqrt{\alpha^2 + \sigma^2}`, where only the
log-SNR matters, with times in float64 so that both ends of a schedule stay resolved. Data enter the pair at the high
end of the range by the exact kernel, and leave through the residual decoder
:math:`\mathcal{N}(\hat x(x_e), (\sigma_e/\alpha_e)^2 I)`,

.. math::
    R = \log p(x \mid x_e) - \log q(x_e \mid x) = d \log \alpha_e + \tfrac12 (\|\varepsilon\|^2
        - \|\varepsilon - \hat\varepsilon\|^2).
"""

__all__ = ["ScorePair"]

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows, gain
from girsanov.densities import BroadGaussian, Density, DensityScore, Gaussian, StandardNormal
from girsanov.inputs import ask, checked, like_rows
from girsanov.linear import Isotropic
from girsanov.pairs.family import FamilyPair, PlugIn
from girsanov.pairs.pair import Pair
from girsanov.pairs.score_model import HALF, ScoreModel, called
from girsanov.pairs.steps import GaussianKernel
from girsanov.processes import ROUNDING, LinearProcess
from girsanov.processes.base import require_range
from girsanov.rows import Calls, at_once
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, Score, State, Time


@final
class ScorePair(Pair):
    r"""A score, its forward process, and everything else that makes a model of them.

    Args:
        score: ``(t, x) -> grad log p_t(x)``, or ``(t, x, condition)``: a network's, a :class:`girsanov.ScoreModel` or a
            density's own.
        process: the forward process; default the score's ``process``.
        prior: law of the generative process at the noise end of the range. Default, made when it is first needed:
            N(0, I) at the horizon of a process that forgets the data, as far as the reference says that these are
            forgotten there, else the reference's law there.
        reference: Gaussian that the score is compared with: control variate of the bounds, whitening of the ODE, exact
            part of the sampler's steps. It changes no expectation of a bound, other than by being the prior where none
            is given and N(0, I) would not do. Default the decoder, else the score's own ``reference``.
        decoder: Gaussian whose posterior covariance the last decoder has; default isotropic. Where there is a
            reference too, both are the same.
        proposal: density in log-SNR from which evaluations are drawn, over the range; default from the reference's
            spectrum. :func:`girsanov.tune` fits one to rows, with its control variate.
        log_snr_range: where the score is known; default what the score declares, else the process's range.
        event_shape: shape of one row, for sampling where no law here has one.

    Raises:
        InputError: for a score without its process, a range that is none or that the process does not share, laws of
            rows of different shapes, a decoder beside another reference, or a proposal over another range.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> law = Gaussian(torch.ones(2), 0.5)
        >>> pair = ScorePair(law.score(VariancePreserving()))
        >>> pair.log_snr_range, type(pair.prior).__name__
        ((-10.04..., 15.0), 'StandardNormal')
        >>> pair.process.log_snr(pair.times(2)).round()
        tensor([ 15.,   2., -10.], dtype=torch.float64)
    """

    @checked
    def __init__(
        self,
        score: Score,
        process: LinearProcess | None = None,
        *,
        prior: Density | None = None,
        reference: Density | None = None,
        decoder: Gaussian | None = None,
        proposal: LogSNRDensity | None = None,
        log_snr_range: tuple[float, float] | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        process = process if process is not None else getattr(score, "process", None)
        if process is None:
            raise InputError("A plain score does not say its forward process: ScorePair(score, process)")
        super().__init__(process, PlugIn(process, score), None, event_shape=event_shape)
        self.score = score
        # laws are no submodules: a score's own reference is one of the score's already
        self._given = {"prior": prior, "reference": reference, "decoder": decoder, "proposal": proposal}
        self._given |= {"log_snr_range": log_snr_range, "event_shape": event_shape}
        self._made: dict[str, Density] = {}
        self._require_fit()

    @classmethod
    def around(cls, score: ScoreModel, *, broad: bool = False, **more: Any) -> "ScorePair":
        """The pair of a score model whose Gaussian reference is prior, decoder and control variate.

        Without its network's correction it is the Gaussian exactly.

        Args:
            score: with a reference.
            broad: whether the prior has a small share of a broad law, so that no row far away costs a number to rule
                all others.
            more: other arguments of the class.
        """
        law = score.reference
        if law is None:
            raise InputError("This score model has no Gaussian reference")
        end = cls(score).noised(law)
        prior = BroadGaussian(end) if broad and isinstance(end, Gaussian) else end
        return cls(score, prior=prior, reference=law, decoder=law, **more)

    def _facts(self) -> dict[str, Any]:
        return self._given | {name: getattr(self, name) for name in ("score", "process", "log_snr_range")}

    def replace(self, **changes: Any) -> "ScorePair":
        """The same pair with some of its arguments changed."""
        arguments = {"score": self.score, "process": self.process, **self._given, **changes}
        return ScorePair(arguments.pop("score"), arguments.pop("process"), **arguments)

    def family(self, lmbd: float, inference_score: Score | None = None) -> "FamilyPair":
        """The member ``lmbd`` of the family of pairs with these marginals, for path and chain weights.

        Args:
            lmbd: below 1: 0 is the reverse SDE; the ODE at 1 has no path weight.
            inference_score: the score of the inference drift; default the same.

        Raises:
            InputError: for ``lmbd`` of 1 or more.
        """
        return FamilyPair(self, PlugIn(self.process, self.score, lmbd), inference_score)

    @property
    def process(self) -> LinearProcess:
        """The forward process."""
        return self.inference  # type: ignore[return-value]

    @property
    def decoder(self) -> Gaussian | None:
        """The Gaussian whose posterior covariance the last decoder has; ``None`` for an isotropic one."""
        return self._given["decoder"]

    @property
    def proposal(self) -> LogSNRDensity | None:
        """The density in log-SNR that evaluations are drawn from; ``None`` for the reference's own."""
        return self._given["proposal"]

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The range of log-SNR on which the score is evaluated, ``(low, high)``.

        A score that declares none is known on the process's. One that does is known on its own, which ends at the
        process's horizon; a range that was given to the process cuts it, the process's default not its data end.
        """
        (low, high), own = self.process.log_snr_range, self._own_range
        if own is None:
            return low, high
        return max(low, own[0]), min(high, own[1]) if self.process.declares_range else own[1]

    @property
    def known_range(self) -> tuple[float, float]:
        """The score's own range, uncut: for what is about the whole line of log-SNR and no process."""
        return self._own_range or self.process.log_snr_range

    @property
    def declares_range(self) -> bool:
        """Whether the score itself says where it is known."""
        return self._own_range is not None

    @property
    def reference(self) -> Gaussian | None:
        """The Gaussian that the score is compared with."""
        law = self._law
        return law if isinstance(law, Gaussian) else None

    @property
    def prior(self) -> Density:
        """The law at the noise end of the range, in the process's coordinates.

        Raises:
            InputError: if the process remembers the data there and neither prior nor reference is known.
        """
        if self._given["prior"] is not None:
            return self._given["prior"]
        if "prior" not in self._made:
            self._made["prior"] = self.process.prior(self._law, log_snr=self.log_snr_range[0])
        return self._made["prior"]

    @property
    def endless(self) -> bool:
        """Whether the process goes on from the noise end to log-SNR -inf, with N(0, I) there."""
        if self._given["prior"] is not None or not isinstance(self.prior, StandardNormal):
            return False
        return self.log_snr_range[0] > self.process.end_log_snr + ROUNDING

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row; empty where nothing here knows it."""
        if self._event_shape is not None:
            return self._event_shape
        given = (self._given[name] for name in ("prior", "reference", "decoder"))
        laws = (*given, getattr(self.score, "density", None))
        known = next((law.event_shape for law in laws if law is not None and law.event_shape), None)
        return known or getattr(self._law, "event_shape", torch.Size())

    @property
    def device(self) -> torch.device:
        """Where the score computes."""
        tensor = next(self.score.buffers(), None) if isinstance(self.score, nn.Module) else None
        return tensor.device if tensor is not None else torch.device("cpu")

    @property
    def rounds(self) -> bool:
        """Whether the score computes in half precision, which no standard error knows of."""
        return isinstance(self.score, nn.Module) and any(p.dtype in HALF for p in self.score.parameters())

    def dtype(self, x: State) -> torch.dtype:
        """Dtype in which the score is evaluated: the parameters', else that of rows ``x``, single precision at least.

        A closed form has no parameters and resolves scales below single precision: it is evaluated in double precision.
        """
        if isinstance(self.score, DensityScore):
            return torch.float64
        parameter = next(self.score.parameters(), None) if isinstance(self.score, nn.Module) else None
        if parameter is not None:
            return torch.promote_types(parameter.dtype, torch.float32)
        return torch.promote_types(x.dtype, torch.float32) if x.dtype.is_floating_point else torch.float64

    def noise(self, log_snr: Tensor, z: State, condition: Tensor | None = None, *, calls: Calls | None = None) -> State:
        """Noise prediction at variance-preserving ``z`` ``b *d`` and float64 levels ``b``.

        Args:
            log_snr: levels.
            z: states.
            condition: leading dimension ``b``.
            calls: how a network sees the rows; default all at once.
        """
        if isinstance(self.score, ScoreModel):
            return like_rows(self.score.noise(log_snr, z, condition, calls=calls), z, "score model")
        return (calls or at_once)(self._plain_noise, log_snr, z, condition)

    def _plain_noise(self, log_snr: Tensor, z: State, condition: Tensor | None) -> State:
        """That of a score which is a function of time and state."""
        alpha, sigma = self.process.marginal_at(log_snr)
        x_t = expand_as_rows((alpha.square() + sigma.square()).sqrt(), z) * z
        time = self.process.time(log_snr)
        return -expand_as_rows(sigma, z) * ask(partial(called, self.score), time, x_t, condition)

    def deviation(
        self,
        log_snr: Tensor,
        z: State,
        condition: Tensor | None = None,
        *,
        reference: Gaussian | None = None,
        calls: Calls | None = None,
    ) -> tuple[State, State]:
        """A reference's noise prediction, and the score's deviation from it (without cancellation where it can be).

        Args:
            log_snr: levels ``b``, float64.
            z: variance-preserving states ``b *d``.
            condition: leading dimension ``b``.
            reference: default the pair's own.
            calls: how a network sees the rows; default all at once.
        """
        law = reference if reference is not None else self.reference
        assert law is not None
        noise = law.noise(log_snr, z)
        if isinstance(self.score, ScoreModel) and self.score.reference is law:
            delta = self.score.deviation(log_snr, z, condition, noise=noise, calls=calls)
            return noise, like_rows(delta, z, "score model")
        return noise, self.noise(log_snr, z, condition, calls=calls) - noise

    def noised(self, law: Density) -> Density:
        """A law of the data, noised to the noise end of the range."""
        low, _ = self.log_snr_range
        return law.diffused(*self.process.marginal_at(torch.tensor(low, dtype=torch.float64)))

    @property
    def prior_is_closed(self) -> bool:
        """Whether the expected log-density of the prior at noised rows is known in closed form."""
        return hasattr(self.prior, "expected_log_prob")

    def expected_log_prior(self, x: State, eps: State | None = None) -> Nats:
        r"""Expected log-density :math:`E[\log \pi(\alpha x + \sigma \varepsilon)]` of the prior at noised rows, ``b``.

        Args:
            x: rows ``b *d``.
            eps: draws of the noise, ``b m *d``, over which the mean is taken where the prior has no closed form.
        """
        low = torch.tensor(self.log_snr_range[0], dtype=torch.float64, device=x.device)
        alpha, sigma = self.process.marginal_at(low)
        expected = getattr(self.prior, "expected_log_prob", None)
        if expected is not None:
            return expected(alpha * x.double(), sigma.square())
        assert eps is not None
        ends = alpha * x.double()[:, None] + sigma * eps.double()
        return self.prior.log_prob(ends.flatten(0, 1)).reshape(eps.shape[:2]).mean(1)

    def times(self, steps: int) -> Tensor:
        """Times at ``steps + 1`` equally spaced log-SNRs of the range, float64."""
        low, high = self.log_snr_range
        return self.process.time(torch.linspace(high, low, steps + 1, dtype=torch.float64))

    def begin(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The noised data at the high end of the range, and the residual term R."""
        alpha, sigma = self._entry(x)
        x_e = expand_as_rows(alpha, x) * x + expand_as_rows(sigma, x) * eps
        predicted = self._noise_at_entry(x_e, condition)
        return x_e, gain(eps, predicted) + x[0].numel() * alpha.log()

    def finish(self, x: State, eps: State, condition: Tensor | None = None) -> tuple[State, Nats]:
        """The residual decoder's draw given the state at the high end of the range, and its term R."""
        kernel, (alpha, _) = self.exit(x, condition), self._entry(x)
        assert kernel.pull is not None
        return x + kernel.change(eps), x[0].numel() * alpha.log() - gain(eps, kernel.pull)

    has_exit = True

    def exit(self, x: State, condition: Tensor | None = None) -> GaussianKernel:
        """The residual decoder, whose pull is the noise prediction."""
        alpha, sigma = self._entry(x)
        predicted = self._noise_at_entry(x, condition)
        mean = (x - expand_as_rows(sigma, x) * predicted) / expand_as_rows(alpha, x)
        return GaussianKernel(mean - x, Isotropic((sigma / alpha).to(x.dtype)), sigma.new_zeros(()), predicted)

    def inference_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift f, shape ``b *d``; times stay in float64, where both ends of a schedule are resolved."""
        del condition
        return self.process.drift(t, x)

    def generative_drift(self, t: Time, x: State, condition: Tensor | None = None) -> State:
        """Drift f - g^2 s, shape ``b *d``."""
        return self.generative(t, x, condition)  # type: ignore[operator]

    @property
    def _own_range(self) -> tuple[float, float] | None:
        return self._given["log_snr_range"] or getattr(self.score, "log_snr_range", None)

    @property
    def _law(self) -> Density | None:
        """A law of the data; a closed form's own reference is computed when it is asked for."""
        given = self._given["reference"] if self._given["reference"] is not None else self.decoder
        return given if given is not None else getattr(self.score, "reference", None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScorePair":
        """Move or convert the laws too."""
        super()._apply(fn, recurse)
        for law in (*self._given.values(), *self._made.values(), getattr(self.proposal, "control", None)):
            if isinstance(law, nn.Module):
                law._apply(fn, recurse)
        return self

    def _level(self, x: State) -> Tensor:
        return torch.full((len(x),), self.log_snr_range[1], dtype=torch.float64, device=x.device)

    def _entry(self, x: State) -> tuple[Tensor, Tensor]:
        return self.process.marginal_at(self._level(x))

    def _noise_at_entry(self, x: State, condition: Tensor | None) -> State:
        alpha, sigma = self._entry(x)
        z = x / expand_as_rows((alpha.square() + sigma.square()).sqrt(), x)
        return self.noise(self._level(x), z, condition)

    def _require_fit(self) -> None:
        """A range, one reference, and all laws of rows of one shape."""
        for given in (self._given["log_snr_range"], getattr(self.score, "log_snr_range", None)):
            if given is not None:
                require_range(given)
        low, high = self.log_snr_range
        if not low < high:
            known, (first, last) = self.known_range, self.process.log_snr_range
            raise InputError(
                f"The score is known for log-SNR from {known[0]:.3g} to {known[1]:.3g}, the process goes from "
                f"{first:.3g} to {last:.3g}: they share no range, so give them one that both cover"
            )
        reference, decoder = self._given["reference"], self.decoder
        if None not in (reference, decoder) and reference is not decoder:
            raise InputError("decoder and reference must be the same Gaussian")
        shapes = {name: getattr(self._given[name], "event_shape", ()) for name in ("prior", "reference", "decoder")}
        own = getattr(self.score, "density" if hasattr(self.score, "density") else "reference", None)
        shapes |= {"score": getattr(own, "event_shape", ()), "event_shape": self._given["event_shape"] or ()}
        sizes = {name: math.prod(shape) for name, shape in shapes.items() if shape}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {tuple(shapes[name])}" for name in sizes)
            raise InputError(f"The laws of a pair are of rows of one shape; got {found}")
        if self.proposal is not None:
            low, high = self.log_snr_range
            if self.proposal.span != (low, high):
                raise InputError(
                    f"The proposal must span the log-SNR range [{low}, {high}]: fit it to this pair with girsanov.tune"
                )

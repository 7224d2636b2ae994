"""Networks whose prediction is exact, in every convention of diffusers, and the schedulers that say so.

The networks compute log-SNR, scale and prediction from the convention's definition, by numpy and the textbook formulas
that a training script would use, never with the code under test.
"""

import math
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")  # doctests are looked for here, too

import girsanov as gv
from girsanov.adapters.diffusers.loading import quiet
from girsanov.calculus import expand_as_rows
from girsanov.densities import Gaussian, GaussianMixture
from tests.seeds import seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers says about what it imports
    import diffusers
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.models.unets.unet_2d import UNet2DOutput
    from diffusers.schedulers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        EDMEulerScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        LCMScheduler,
        PNDMScheduler,
        ScoreSdeVeScheduler,
        TCDScheduler,
        UniPCMultistepScheduler,
    )

__all__ = ["SCHEDULERS", "SHAPE", "STEPS", "ExactNetwork", "GaussianNetwork", "diffusers", "law", "rows", "scheduled"]

SHAPE = (2, 3, 3)
CHANNELS, SIZE = SHAPE[0], SHAPE[1]


def law() -> GaussianMixture:
    """Two clusters of images with a non-trivial spectrum, about the scale of [-1, 1]."""
    generator = seeded(5)
    d = math.prod(SHAPE)
    means = 0.5 * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    factors = torch.randn(2, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    covariances = 0.12 * factors @ factors.mT + 0.05 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, covariances)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return law().sample(n, generator=seeded(seed))


def linear(steps=1000):
    return np.cumprod(1.0 - np.linspace(1e-4, 0.02, steps))


def scaled_linear(steps=1000):
    return np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, steps) ** 2)


def cosine(steps=1000):
    f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    betas = [min(1 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    return np.cumprod(1.0 - np.array(betas))


def zero_snr(table):
    roots = np.sqrt(table)
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


TABLES = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "linear-zero-snr": lambda: zero_snr(linear()),
}


class ExactNetwork(ModelMixin, ConfigMixin):
    """Looks like a ``UNet2DModel`` and returns the exact prediction for images of :func:`law`.

    Args:
        family: ``table``, ``flow``, ``edm`` or ``ve``: what timestep and input mean.
        predicts: ``epsilon``, ``sample``, ``v``, ``flow``, ``edm``, ``edm_v`` or ``score``.
        table: name of the alpha-bar table.
        sigma_data: of EDM.
        variances: whether to return as many channels again.
        labels: whether to insist on class labels, of which only the first is the law's.
    """

    @register_to_config
    def __init__(
        self,
        family: str = "table",
        predicts: str = "epsilon",
        table: str = "linear",
        sigma_data: float = 0.5,
        variances: bool = False,
        labels: bool = False,
        sample_size: int = SIZE,
        in_channels: int = CHANNELS,
    ) -> None:
        super().__init__()
        self.law = law()
        self.class_embedding = torch.nn.Identity() if labels else None
        self.seen = []

    def alpha_sigma(self, timestep):
        """The textbook scales of the network's own input before any preconditioning."""
        t = timestep.double()
        if self.config.family == "flow":
            return 1.0 - t / 1000.0, t / 1000.0
        if self.config.family == "edm":
            return torch.ones_like(t), torch.exp(4.0 * t)
        if self.config.family == "ve":
            return torch.ones_like(t), t
        table = TABLES[self.config.table]()
        table = table[:-1] if "zero" in self.config.table else table
        levels = np.log(table) - np.log1p(-table)
        level = torch.from_numpy(np.interp(t.numpy(), np.arange(len(levels)), levels))
        return torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        assert return_dict
        self.seen.append((timestep, class_labels))
        timestep = torch.as_tensor(timestep).reshape(-1).expand(len(sample))
        alpha, sigma = self.alpha_sigma(timestep)
        a, s = expand_as_rows(alpha, sample), expand_as_rows(sigma, sample)
        sd = self.config.sigma_data
        c_in = (s**2 + sd**2) ** -0.5 if self.config.family == "edm" else 1.0
        x_t = sample.double() / c_in
        score = self.law.diffused_score(alpha, sigma, x_t)
        eps = -s * score
        x = (x_t - s * eps) / a
        output = {
            "epsilon": lambda: eps,
            "sample": lambda: x,
            "v": lambda: a * eps - s * x,
            "flow": lambda: eps - x,
            "edm": lambda: (x - sd**2 / (s**2 + sd**2) * x_t) / (s * sd) * (s**2 + sd**2) ** 0.5,
            "edm_v": lambda: -(x - sd**2 / (s**2 + sd**2) * x_t) / (s * sd) * (s**2 + sd**2) ** 0.5,
            "score": lambda: score,
        }[self.config.predicts]()
        if self.class_embedding is not None:
            output = torch.where(expand_as_rows(class_labels, output) == 0, output, 0.0)
        if self.config.variances:
            output = torch.cat([output, torch.full_like(output, 7.0)], 1)
        return UNet2DOutput(sample=output.to(sample.dtype))


class GaussianNetwork(torch.nn.Module):
    """Exact predictions for rows of a Gaussian with independent entries, in float64, as a sampler's loop asks for them.

    Args:
        family: ``table``, whose steps are those of the linear table and whose prediction is the noise, or ``flow``.
        variances: whether to return as many channels again, that say learned variances.
    """

    def __init__(self, family: str = "table", *, variances: bool = False) -> None:
        super().__init__()
        self.law = Gaussian(torch.tensor([0.3, -0.5]).double(), torch.tensor([0.4, 0.2]).double())
        self.family, self.variances = family, variances
        self.move = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.register_buffer("table", torch.from_numpy(linear()))

    def forward(self, sample, timestep):
        t = timestep.double()
        if self.family == "flow":
            alpha, sigma = 1.0 - t / 1000.0, t / 1000.0
        else:
            share = self.table[t.long()].lerp(self.table[(t.long() + 1).clamp_max(999)], t - t.long())
            alpha, sigma = share.sqrt(), (1.0 - share).sqrt()
        centred = sample - alpha[:, None] * (self.law.mean + self.move)
        eps = sigma[:, None] * centred / (alpha[:, None].square() * self.law.spectrum() + sigma[:, None].square())
        if self.family == "flow":
            return (eps - (self.law.mean + self.move + self._data(alpha, sigma, centred)),)
        return (torch.cat([eps, torch.tanh(sample)], 1) if self.variances else eps,)

    def _data(self, alpha, sigma, centred):
        share = alpha[:, None] * self.law.spectrum()
        return share * centred / (alpha[:, None] * share + sigma[:, None].square())


#: samplers whose steps are Gaussian -> (scheduler, family of its network, options of the chain)
STEPS = {
    "DDPM": lambda: (DDPMScheduler(clip_sample=False), {}, {}),
    "DDPM, clipped": lambda: (DDPMScheduler(clip_sample_range=0.7, variance_type="fixed_large"), {}, {}),
    "DDPM, learned variances": lambda: (
        DDPMScheduler(clip_sample=False, variance_type="learned_range"),
        {"variances": True},
        {},
    ),
    "DDIM": lambda: (DDIMScheduler(clip_sample=False), {}, {"eta": 0.8}),
    "Euler ancestral": lambda: (EulerAncestralDiscreteScheduler(timestep_spacing="leading"), {}, {}),
    "flow matching": lambda: (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), {"family": "flow"}, {}),
    "LCM": lambda: (LCMScheduler(), {}, {}),
    "SDE-DPM-Solver++": lambda: (
        DPMSolverMultistepScheduler(solver_order=1, algorithm_type="sde-dpmsolver++"),
        {},
        {},
    ),
    "SDE-DPM-Solver++, single": lambda: (
        DPMSolverSinglestepScheduler(solver_order=1, algorithm_type="sde-dpmsolver++"),
        {},
        {},
    ),
    "TCD": lambda: (TCDScheduler(), {}, {"eta": 0.5}),
}


def scheduled(name: str, steps: int = 3, floor: float = 0.2, **options):
    """A chain of one of :data:`STEPS`, and the shape of its rows."""
    with quiet():
        scheduler, settings, own = STEPS[name]()
    network = GaussianNetwork(**settings)
    given = {"floor": floor, "event_shape": (2,), **own, **options}
    return gv.chain_from_diffusers(network, scheduler, steps, **given), (2,)


#: name -> (scheduler, settings of the network that it describes)
SCHEDULERS = {
    "DDPM-epsilon": lambda: (DDPMScheduler(), {}),
    "DDPM-sample": lambda: (DDPMScheduler(prediction_type="sample"), {"predicts": "sample"}),
    "DDPM-learned-variance": lambda: (
        DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2"),
        {"variances": True, "table": "cosine"},
    ),
    "DDIM-v-zero-snr": lambda: (
        DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        {"predicts": "v", "table": "linear-zero-snr"},
    ),
    "PNDM-epsilon": lambda: (PNDMScheduler(skip_prk_steps=True), {}),
    "Euler-epsilon": lambda: (
        EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        {"table": "scaled_linear"},
    ),
    "Euler-v-zero-snr": lambda: (
        EulerDiscreteScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        {"predicts": "v", "table": "linear-zero-snr"},
    ),
    "FlowMatchEuler": lambda: (FlowMatchEulerDiscreteScheduler(shift=3.0), {"family": "flow", "predicts": "flow"}),
    "DPMSolver-flow": lambda: (
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        {"family": "flow", "predicts": "flow"},
    ),
    "UniPC-epsilon": lambda: (UniPCMultistepScheduler(), {}),
    "EDMEuler": lambda: (EDMEulerScheduler(), {"family": "edm", "predicts": "edm"}),
    "EDMEuler-v": lambda: (
        EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0),
        {"family": "edm", "predicts": "edm_v", "sigma_data": 1.0},
    ),
    "Euler-continuous-v": lambda: (
        EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_type="continuous", sigma_min=0.002, sigma_max=700.0
        ),
        {"family": "edm", "predicts": "edm_v", "sigma_data": 1.0},
    ),
    "ScoreSdeVe": lambda: (ScoreSdeVeScheduler(sigma_max=50.0), {"family": "ve", "predicts": "score"}),
}

"""Objects of other packages that state their convention: recognised by the names of their classes, none imported."""

__all__ = ["Known", "known"]

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.adapters.paths import COUPLED, Path, is_kin
from girsanov.processes import StraightPath
from girsanov.types import InputError

LUCID, RECTIFIED = "denoising_diffusion_pytorch", "rectified_flow_pytorch"
OBJECTIVES = {"pred_noise": "noise", "pred_x0": "denoised", "pred_v": "v"}


@dataclass(frozen=True)
class Known:
    """A network as an adapter calls it, with what its object says about it.

    Attributes:
        net: the network.
        adapter: whose convention it is.
        order: of its two arguments, where it is known.
        process: what its noise is made of.
        alphas_cumprod: of its steps.
        sigma_range: of its noise.
        predicts: what it predicts.
        notes: what is left out.
    """

    net: Callable[..., Any]
    adapter: str
    order: str | None = None
    process: Any = None
    alphas_cumprod: Tensor | None = None
    sigma_range: tuple[float, float] | None = None
    predicts: str | None = None
    notes: tuple[str, ...] = ()


class Called(nn.Module):
    """A module of another package, called as ``(x, t)`` or ``(x, t, condition)``."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Any:
        """What ``call`` makes of it."""
        return self.call(x, t) if condition is None else self.call(x, t, condition)


def known(net: Any, adapter: str) -> Known:
    """What a network's object says about it; of a plain network nothing.

    Args:
        net: what the caller passed.
        adapter: to which function.

    Raises:
        InputError: for an object of another adapter, for guidance, and for what is no score.

    Example:
        >>> known(torch.nn.Identity(), "from_denoiser").order is None
        True
    """
    if not isinstance(net, nn.Module):
        return Known(net, adapter)
    _require_unguided(net)
    found = next((read(net) for (package, name), read in READ.items() if is_kin(net, package, name)), None)
    if found is None:
        told = _told_to_keep(net)
        return Known(net, adapter) if told is None else Known(told, adapter, "x, t")
    if found.adapter != adapter:
        what = "" if found.predicts is None else f" that predicts {found.predicts}"
        raise InputError(f"This is a {type(net).__name__}{what}: pass it to {found.adapter}")
    return found


def _require_unguided(net: nn.Module) -> None:
    """A guided field is the score of no law; as a function it is taken for what it is."""
    parameters = _parameters(net)
    needed = any(name in parameters and parameters[name].default is inspect.Parameter.empty for name in GUIDANCE)
    if needed or "CFG" in type(net).__name__ or type(net).__module__.startswith("azula.guidance"):
        raise InputError(
            f"{type(net).__name__} is guided, and a guided field has no density of its own: pass the network inside of "
            "it, or, to take the field for a model on purpose, a function that calls it"
        )


#: arguments that a guided network needs
GUIDANCE = ("cond_scale", "guidance", "guidance_scale", "cfg_scale")


def _parameters(net: nn.Module) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(net.forward).parameters)
    except (TypeError, ValueError):  # compiled code
        return {}


def _told_to_keep(net: nn.Module) -> nn.Module | None:
    """A network that drops its condition at random unless it is told not to; without a condition it drops it."""
    parameters = _parameters(net)
    if "cond_drop_prob" not in parameters:
        return None
    inputs = [name for name in parameters if name not in ("self", "cond_drop_prob")][2:]
    name = inputs[0] if inputs and parameters[inputs[0]].default is inspect.Parameter.empty else None

    def call(x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            return net(x, t, condition, cond_drop_prob=0.0)
        blank = {} if name is None else {name: torch.zeros(len(x), dtype=torch.int64, device=x.device)}
        return net(x, t, **blank, cond_drop_prob=1.0)

    return Called(net, call)


# --- azula, k-diffusion, torchcfm, flow_matching


def _azula(denoiser: Any) -> Known:
    net = Called(denoiser, lambda x, t: denoiser(x, t).mean)
    return Known(net, "from_denoiser", "x, t", process=denoiser.schedule)


def _k_diffusion(denoiser: Any) -> Known:
    ends = (float(denoiser.sigmas[0]), float(denoiser.sigmas[-1]))
    rounded = ("Noise levels are rounded to whole steps.",) if denoiser.quantize else ()
    return Known(denoiser, "from_denoiser", "x, t", sigma_range=ends, notes=rounded)


def _joined(network: Any) -> Known:
    """Torchcfm's networks of rows and times side by side."""
    net = Called(network, lambda x, t: network(torch.cat([x, t.to(x)[:, None]], 1)))
    return Known(net, "from_velocity", "x, t")


def _transformed(model: Any) -> Known:
    """The model that was trained, on its own path: a density does not depend on the schedule of its sampler."""
    return Known(model.model, "from_velocity", "x, t", process=model.original_scheduler)


# --- lucidrains


def _diffusion(diffusion: Any) -> Known:
    """Steps of a ``GaussianDiffusion``, whose images are those of [-1, 1]."""
    _require_plain(diffusion)
    model = diffusion.model
    net = _told_to_keep(model) or Called(model, lambda x, t: model(x, t))
    if is_kin(diffusion, LUCID, "LearnedGaussianDiffusion"):  # the rest are variances
        net = Called(model, lambda x, t: model(x, t).chunk(2, 1)[0])
    left = ("Self-conditioning is left out.",) if getattr(diffusion, "self_condition", False) else ()
    return Known(
        net,
        "from_noise_prediction",
        "x, t",
        alphas_cumprod=torch.cumprod(1.0 - diffusion.betas.double(), 0),
        predicts=OBJECTIVES[diffusion.objective],
        notes=left,
    )


def _require_plain(diffusion: Any) -> None:
    name = type(diffusion).__name__
    if getattr(diffusion, "immiscible", False):
        raise InputError(COUPLED % f"This immiscible {name}")
    if getattr(diffusion, "offset_noise_strength", 0.0):
        raise InputError(f"This {name} was trained with offset noise, which is not that of its table: it is no score")
    if getattr(diffusion, "use_consistency", False):
        raise InputError(f"This {name} was trained to be consistent, so that its velocity does not tell the score")


def _elucidated(diffusion: Any) -> Known:
    ends = (float(diffusion.sigma_min), float(diffusion.sigma_max))
    left = ("Self-conditioning is left out.",) if getattr(diffusion, "self_condition", False) else ()
    net = Called(diffusion, lambda x, sigma: diffusion.preconditioned_network_forward(x, sigma))
    return Known(net, "from_denoiser", "x, t", sigma_range=ends, notes=left)


def _continuous(predicts: str) -> Callable[[Any], Known]:
    """Of a network that is told the log-SNR of a time in [0, 1]."""

    def read(diffusion: Any) -> Known:
        clock, model = diffusion.log_snr, diffusion.model
        net = Called(diffusion, lambda x, t: model(x, clock(t)))
        scales = lambda t: (torch.sigmoid(clock(t)).sqrt(), torch.sigmoid(-clock(t)).sqrt())  # noqa: E731
        return Known(net, "from_noise_prediction", "x, t", process=scales, predicts=predicts)

    return read


def _rectified(flow: Any) -> Known:
    """Lucidrains' flows, with noise at time 0; the last times are left out of some of their training."""
    _require_plain(flow)
    name = getattr(flow, "time_cond_kwarg", getattr(flow, "times_cond_kwarg", None))
    if name is None:
        raise InputError(f"This {type(flow).__name__} does not tell its network the time, which its score depends on")
    predicts = getattr(flow, "predict", "clean" if getattr(flow, "predict_clean", False) else "flow")
    cut = predicts == "clean" or is_kin(flow, RECTIFIED, "NanoFlow")
    span = (-LIMIT, min(LIMIT, 2.0 * math.log(flow.max_timesteps - 1))) if cut else None

    def call(x: Tensor, t: Tensor) -> Tensor:
        found = flow.model(x, **{name: t})
        return found[0] if getattr(flow, "mean_variance_net", False) else found

    adapter, kind = FLOWS[predicts]
    return Known(Called(flow.model, call), adapter, "x, t", process=Path(StraightPath(span), 1), predicts=kind)


LIMIT = 15.0  # |log-SNR| to which a flow that knows all times goes
FLOWS = {
    "flow": ("from_velocity", None),
    "noise": ("from_noise_prediction", "noise"),
    "clean": ("from_noise_prediction", "denoised"),
}


def _refused(sentence: str) -> Callable[[Any], Known]:
    def read(given: Any) -> Known:
        raise InputError(sentence % type(given).__name__)

    return read


#: (package, class) -> how its objects are read; the first that fits
READ: dict[tuple[str, str], Callable[[Any], Known]] = {
    ("azula", "Denoiser"): _azula,
    ("k_diffusion", "DiscreteSchedule"): _k_diffusion,
    ("torchcfm", "torch_wrapper"): lambda wrapper: _joined(wrapper.model),
    ("torchcfm", "MLP"): _joined,
    ("flow_matching", "ScheduleTransformedModel"): _transformed,
    (LUCID, "WeightedObjectiveGaussianDiffusion"): _refused("%s mixes two predictions, and is neither"),
    (LUCID, "GaussianDiffusion"): _diffusion,
    (LUCID, "GaussianDiffusion1D"): _diffusion,
    (LUCID, "ElucidatedDiffusion"): _elucidated,
    (LUCID, "ContinuousTimeGaussianDiffusion"): _continuous("noise"),
    (LUCID, "VParamContinuousTimeGaussianDiffusion"): _continuous("v"),
    (RECTIFIED, "Reflow"): _refused(COUPLED),
    (RECTIFIED, "RectifiedFlow"): _rectified,
    (RECTIFIED, "NanoFlow"): _rectified,
}

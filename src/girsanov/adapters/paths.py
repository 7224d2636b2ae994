"""What a network's noise is made of: a process, or the Gaussian path of another package, in the network's own time."""

__all__ = ["Path", "as_path", "is_kin"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.processes import GaussianPath, LinearProcess
from girsanov.types import InputError

COUPLED = (
    "%s pairs noise and data, so that its velocity does not tell the score: leave it out, and check= too, and use "
    "ode_log_prob alone, which is that of the network's own ODE"
)


@dataclass(frozen=True)
class Path:
    """A process, and the time at which a network has the data.

    Attributes:
        process: data at t = 0.
        data_at: 0, or 1 where the network's time runs from noise to data.
    """

    process: LinearProcess
    data_at: int = 0

    def time(self, log_snr: Tensor) -> Tensor:
        """The network's time at levels ``b``."""
        time = self.process.time(log_snr)
        return self.process.horizon - time if self.data_at else time


def is_kin(given: Any, package: str, name: str) -> bool:
    """Whether an object is of a class of another package, or of one made from it, by names alone."""
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(given).__mro__)


def as_path(given: Any) -> Path:
    r"""The path of a process, or of what another package calls one.

    Args:
        given: a process of girsanov; a function of times in [0, 1] to ``(alpha_t, sigma_t)``, such as a schedule of
            azula; a scheduler or an ``AffineProbPath`` of flow_matching; a flow matcher of torchcfm that draws noise
            and data independently. Its data are at the end of time where the ratio of the two is larger.

    Raises:
        InputError: for anything else, and for paths whose velocity does not tell the score.

    Example:
        >>> as_path(lambda t: (t, 1 - t)).data_at, as_path(lambda t: (1 - t, t)).data_at
        (1, 0)
    """
    if isinstance(given, Path):
        return given
    if isinstance(given, LinearProcess):
        return Path(given)
    scales = _scales(given)
    times = torch.tensor([0.25, 0.75], dtype=torch.float64)
    try:
        with torch.no_grad():
            alpha, sigma = (torch.as_tensor(part).expand_as(times) for part in scales(times))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"process must take times of shape (b,) to (alpha_t, sigma_t): {reason}") from error
    if bool(alpha[1] / sigma[1] > alpha[0] / sigma[0]):
        return Path(GaussianPath(lambda t: scales(1.0 - t)), 1)
    return Path(GaussianPath(scales))


def _scales(given: Any) -> Callable[[Tensor], tuple[Any, Any]]:
    """Signal and noise as functions of the given object's own time."""
    name = type(given).__name__
    if hasattr(given, "ot_sampler"):
        raise InputError(COUPLED % name)
    if hasattr(given, "compute_mu_t") and hasattr(given, "compute_sigma_t"):
        return lambda t: _matched(given, t)
    if is_kin(given, "flow_matching", "ProbPath") and not is_kin(given, "flow_matching", "AffineProbPath"):
        raise InputError(f"{name} adds no Gaussian noise to rows of numbers: its models have no density here")
    scheduler = getattr(given, "scheduler", given)
    if not callable(scheduler):
        raise InputError(
            "process must be a process such as VariancePreserving(), a function of times to (alpha_t, sigma_t), or a "
            f"path of torchcfm or flow_matching; got {name}"
        )
    return lambda t: _pair(scheduler(t))


def _pair(found: Any) -> tuple[Any, Any]:
    """Two scales, by their names where there are more."""
    if hasattr(found, "alpha_t") and hasattr(found, "sigma_t"):
        return found.alpha_t, found.sigma_t
    alpha, sigma = found
    return alpha, sigma


def _matched(matcher: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Those of a flow matcher, whose noise is what it starts from and what it adds."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    start, added = matcher.compute_mu_t(one, zero, t), torch.as_tensor(matcher.compute_sigma_t(t), dtype=t.dtype)
    return matcher.compute_mu_t(zero, one, t), (start.square() + added.square()).sqrt()

r"""Is all well on this machine? Likelihoods against a closed form, threads, and a checkpoint written and read again.

The closed form is a mixture of Gaussians with covariances of its own in three dimensions, whose score is known at every
noise level: the bound, the density formula and the ODE's likelihood must all return its log-density, each as well as it
promises. It takes seconds.
"""

__all__ = ["Check", "check_likelihoods", "check_storage", "check_threads", "self_test"]

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from girsanov.densities import GaussianMixture
from girsanov.environment import processors
from girsanov.likelihoods import density, elbo, ode_log_prob
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.training import checkpoints
from girsanov.types import Estimate, InputError

ROWS, SAMPLES = 256, 512
TOLERANCE = 1e-3  # nats, of the ODE's default solver; and what the bound's ends of the range may cost
STANDARD_ERRORS = 5.0  # a false alarm in three million, and none on a machine that computes as others do


@final
@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found.

    Attributes:
        name: a word or two.
        status: ``ok``, ``warning`` for what is slow, or ``failed``.
        sentence: what was found; unless it is ok, what to do.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    sentence: str


def self_test(folder: Path, *, device: str | torch.device = "cpu") -> Iterator[Check]:
    """All checks, one after the other.

    Args:
        folder: where runs would be written; the folder of temporary files is tried too.
        device: where likelihoods are computed.

    Example:
        >>> {check.status for check in self_test(Path(tempfile.gettempdir())) if check.name != "threads"}
        {'ok'}
    """
    yield check_threads(torch.get_num_threads(), processors(), os.environ.get("OMP_WAIT_POLICY", ""))
    yield from check_likelihoods(device)
    for place in dict.fromkeys((folder.resolve(), Path(tempfile.gettempdir()).resolve())):
        yield check_storage(place)


def check_threads(threads: int, available: int, wait_policy: str) -> Check:
    """Settings that are known to be slow.

    Args:
        threads: of PyTorch.
        available: processors that this process may use.
        wait_policy: the environment variable ``OMP_WAIT_POLICY``.

    Example:
        >>> check_threads(8, 2, "PASSIVE").sentence
        '8 threads on 2 processors wait for each other: give --threads 2, or set OMP_NUM_THREADS=2'
    """
    if threads > available:
        advice = f"give --threads {available}, or set OMP_NUM_THREADS={available}"
        return Check("threads", "warning", f"{threads} threads on {_counted(available)} wait for each other: {advice}")
    if wait_policy.upper() == "ACTIVE":
        sentence = "threads that wait take processors from others (OMP_WAIT_POLICY=ACTIVE): unset that variable"
        return Check("threads", "warning", sentence)
    return Check("threads", "ok", f"{threads} of {_counted(available)}")


def _counted(processors: int) -> str:
    return f"{processors} processor" + ("s" if processors > 1 else "")


def check_likelihoods(device: str | torch.device = "cpu") -> Iterator[Check]:
    """The three likelihoods of a known law, each with the error that it has."""
    law, process = _law(), VariancePreserving()
    x = law.sample(ROWS, generator=torch.Generator().manual_seed(0))
    exact, rows = law.log_prob(x), x.to(device)
    pair = ScorePair(law.score(process), prior=law.marginal(process, 1.0), reference=law.moment_match()).to(device)
    yield _compared("elbo", elbo(pair, rows, samples=SAMPLES), exact)
    yield _compared("density", density(pair, rows, exact=True, samples=SAMPLES), exact)
    yield _compared("ode", ode_log_prob(pair, rows), exact)


def _law() -> GaussianMixture:
    """Two components in three dimensions, neither of them along the axes."""
    tilted = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
    means = torch.tensor([[-1.5, 0.0, 1.0], [1.5, 1.0, 0.0]])
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.stack([tilted, tilted.flip(0, 1)]))


def _compared(name: str, estimate: Estimate, exact: Tensor) -> Check:
    """A likelihood beside the closed form: in the mean where it is sampled, else row by row."""
    error = estimate.value.double().cpu() - exact
    stderr = estimate.mean().stderr if estimate.model != "ode" else 0.0
    off = float(error.mean() if stderr else error.abs().max())
    told = f"{abs(off):.1g} nats off the closed form in three dimensions" + (f" (± {stderr:.1g})" if stderr else "")
    if math.isfinite(off) and abs(off) <= STANDARD_ERRORS * stderr + TOLERANCE:
        return Check(name, "ok", told)
    return Check(name, "failed", f"{told}, too much: report this with the versions above")


def check_storage(folder: Path) -> Check:
    """A checkpoint, written and read again in a folder, of which nothing is left.

    Example:
        >>> check_storage(Path(tempfile.gettempdir())).status
        'ok'
    """
    name, content = f"files in {folder}", {"model": {"weight": torch.arange(6.0).reshape(2, 3)}}
    try:
        with tempfile.TemporaryDirectory(prefix=".girsanov-", dir=folder) as place:
            checkpoints.save(place, 1, content, {})
            found = checkpoints.load_latest(place)
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        return Check(
            name, "failed", f"no checkpoint can be kept there ({reason}): free some space or use another folder"
        )
    if found is None or not found.tensors["model"]["weight"].equal(content["model"]["weight"]):
        return Check(name, "failed", "a checkpoint reads otherwise than it was written: use another folder")
    return Check(name, "ok", "a checkpoint was written and read again")

"""``from_noise_prediction``: networks of DDPM's kind as a pair, in discrete or continuous time."""

__all__ = ["from_noise_prediction"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from girsanov.adapters.assembly import Facts, pair_around
from girsanov.adapters.continuous import clocks, coordinates
from girsanov.adapters.conventions import KINDS, SHOWN, Choice, predictions
from girsanov.adapters.packages import known
from girsanov.adapters.paths import as_path
from girsanov.adapters.schedules import BETAS, TableSchedule
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import Cosine
from girsanov.types import InputError

#: schedules of betas that a table could be of, with their usual ends
SCHEDULES = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (0.0, 0.0)}
APART = 0.1  # log-SNR from which on two tables are two


@checked
def from_noise_prediction(
    net: Callable[..., Any],
    process: Any = None,
    *,
    alphas_cumprod: Any = None,
    predicts: str | None = None,
    fractional: bool = True,
    order: str | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    r"""A network that predicts the noise, or the clean rows, or v, as a pair.

    With a table ``alphas_cumprod`` the network is told the index k of the step 0, 1, ..., T-1 and shown
    :math:`x_k = \sqrt{\bar\alpha_k}\, x + \sqrt{1 - \bar\alpha_k}\, \varepsilon`, as in DDPM and guided-diffusion;
    between the steps, k is interpolated in log-SNR. With a process it is told the time t, 0 at the data, and shown
    :math:`\alpha_t x + \sigma_t \varepsilon`. Predictions that were combined by guidance have no density of their own:
    a pair of them is a model that they are taken to define.

    Args:
        net: ``(x, t)`` or ``(t, x)``, in order of the names of its arguments, with times ``b`` and rows ``b *d``; a
            condition, where one is given, is its third argument.
        process: of continuous time, or a path of another package (:func:`girsanov.from_velocity`); one of ``process``
            and ``alphas_cumprod`` is needed, unless the network is a ``GaussianDiffusion`` of lucidrains, which says
            all itself (its images are those of [-1, 1]).
        alphas_cumprod: falling products of 1 - beta, shape ``T``; steps without any signal at its end are left out.
        predicts: ``noise``, ``denoised`` (the clean rows) or ``v`` (alpha eps - sigma x); default the network's own
            statement, else ``noise``.
        fractional: whether k may lie between the steps; else it is rounded, for embeddings that are tables.
        order: ``"x, t"`` or ``"t, x"``, where the names do not tell.
        prior: law at the noise end of the range; default N(0, I), where the data are forgotten there.
        reference: Gaussian of the data; default fitted to the rows of ``check``.
        check: 64 rows of data or more, ``n *d``, in the network's scale, for the self-test: strongly recommended.
        condition: of these rows, leading dimension ``n`` or 1.

    Returns:
        The pair; of a table its process is variance preserving, on the log-SNR of the first to the last step.
        ``pair.score.network.notes`` says what is approximate or undecided.

    Raises:
        InputError: for no schedule or two, a table that does not fall, data that are not forgotten at its end,
            arguments in an order that nothing tells, or a self-test that another convention wins: the sentence names
            it.

    Source:
        Ho et al., Denoising diffusion probabilistic models, NeurIPS 2020; conversions, note of paper 2, section 2.2.

    Example:
        >>> from girsanov.likelihoods import ode_log_prob
        >>> table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        >>> net = lambda x, t: (1 - table[t]).sqrt()[:, None] * x  # of data N(0, I)
        >>> pair = from_noise_prediction(net, alphas_cumprod=table, fractional=False)
        >>> pair.log_snr_range
        (-10.1..., 9.21...)
        >>> ode_log_prob(pair, torch.zeros(1, 2).double()).value.round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
    """
    given = known(net, "from_noise_prediction")
    predicts = predicts or given.predicts or KINDS[0]
    if predicts not in KINDS:
        raise InputError(f"predicts must be one of {', '.join(KINDS)}; got {predicts!r}")
    if process is None and alphas_cumprod is None:
        process, alphas_cumprod = given.process, given.alphas_cumprod
    if (process is None) == (alphas_cumprod is None):
        raise InputError("Give one schedule: alphas_cumprod= of discrete steps, or a process of continuous time")
    facts = Facts(prior, reference, check, condition, given.notes)
    order = given.order or order
    if process is not None:
        path = as_path(process)
        conventions = predictions(clocks(path), coordinates(path.process), predicts)
        return pair_around(given.net, path.process, conventions, facts, order=order)
    schedule = TableSchedule(torch.logit(_table(alphas_cumprod)))
    conventions = predictions(_steps(schedule), _table_coordinates(), predicts)
    process = Cosine(log_snr_range=schedule.log_snr_range)
    try:
        pair = pair_around(given.net, process, conventions, facts, order=order, whole=not fractional)
    except InputError as error:
        if fractional and "indices" in str(error):  # an embedding or a table
            raise InputError(f"{error}: pass fractional=False, which rounds steps to whole ones") from error
        raise
    if not fractional:
        pair.score.network.notes += ("Steps are rounded to whole ones.",)  # type: ignore[attr-defined]
    return pair


def _table(alphas_cumprod: Any) -> Tensor:
    """The table in float64, without steps that have no signal."""
    try:
        table = torch.as_tensor(alphas_cumprod).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"alphas_cumprod must be numbers; got {type(alphas_cumprod).__name__}") from error
    table = table[: int((table > 0).sum())] if table.ndim == 1 else table
    falling = table.ndim == 1 and len(table) > 1 and bool((table.diff() < 0).all())
    if falling and bool(((table > 0) & (table < 1)).all()):
        return table
    raise InputError(
        "alphas_cumprod must fall from step to step, between 1 and 0, one value for each of 2 steps or more: pass "
        "torch.cumprod(1 - betas, 0)"
    )


def _steps(schedule: TableSchedule) -> list[Choice]:
    """What a network of steps could be told."""
    last = len(schedule.rising) - 1
    found = [
        Choice(schedule.timestep),
        Choice(lambda level: last - schedule.timestep(level), f"{last} - t"),
        Choice(lambda level: schedule.timestep(level) / (last + 1), f"t / {last + 1}"),
    ]
    own = schedule.rising.flip(0)
    for name, (start, end) in SCHEDULES.items():
        other = torch.logit(torch.cumprod(1.0 - BETAS[name](last + 1, start, end), 0))
        falling = bool(other.isfinite().all() and (other.diff() < 0).all())
        if falling and float((other - own).abs().max()) > APART:
            found.append(Choice(TableSchedule(other).timestep, keyword=f"alphas_cumprod= of the schedule {name}"))
    return found


def _table_coordinates() -> list[Choice]:
    return [
        Choice(SHOWN["preserving"]),
        Choice(SHOWN["exploding"], "x / alphas_cumprod[t].sqrt()"),
    ]

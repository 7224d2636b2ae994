"""``from_score``: networks of score_sde's kind as a pair."""

__all__ = ["from_score"]

from collections.abc import Callable
from typing import Any

from girsanov.adapters.assembly import Facts, pair_around
from girsanov.adapters.continuous import clocks, coordinates
from girsanov.adapters.conventions import Choice, Convention, reading, signs, size_of
from girsanov.adapters.packages import known
from girsanov.adapters.paths import as_path
from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.pairs.score_pair import ScorePair


@checked
def from_score(
    fn: Callable[..., Any],
    process: Any,
    *,
    order: str | None = None,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    check: Any = None,
    condition: Any = None,
) -> ScorePair:
    r"""A function that returns the score :math:`\nabla \log p_t(x)` as a pair, such as score_sde's ``score_fn(x, t)``.

    Where the training left out times near the data, give the process the range that it knew:
    ``VariancePreserving(log_snr_range=(-10, 11))``. score_sde's variance-exploding scale is
    :math:`\sigma_{min} (\sigma_{max} / \sigma_{min})^t` with no offset, so that its t is not that of
    :class:`girsanov.VarianceExploding` near the data: with ``sigma_t = process.marginal(t)[1]``, tell it
    ``log(sigma_t / sigma_min) / log(sigma_max / sigma_min)`` in place of t, on a range that ends at ``sigma_min``.

    Args:
        fn: ``(x, t)`` or ``(t, x)``, in order of the names of its arguments, with times ``b``, 0 at the data, and rows
            ``b *d`` in the process's coordinates; a condition, where one is given, is its third argument.
        process: the forward process, or a path of another package: see :func:`girsanov.from_velocity`.
        order: ``"x, t"`` or ``"t, x"``, where the names do not tell.
        prior: law at the noise end of the process's range; default N(0, I), where the data are forgotten there.
        reference: Gaussian of the data; default fitted to the rows of ``check``.
        check: 64 rows of data or more, ``n *d``, in the network's scale, for the self-test: strongly recommended.
        condition: of these rows, leading dimension ``n`` or 1.

    Returns:
        The pair, on the process's log-SNR range. ``pair.score.network.notes`` says what is undecided.

    Raises:
        InputError: for data that are not forgotten at the end of the range, arguments in an order that nothing tells,
            or a self-test that another convention wins: the sentence names it.

    Source:
        Song et al., Score-based generative modeling through stochastic differential equations, ICLR 2021.

    Example:
        >>> import torch
        >>> from girsanov.likelihoods import ode_log_prob
        >>> from girsanov.processes import VariancePreserving
        >>> pair = from_score(lambda x, t: -x, VariancePreserving())  # of data N(0, I)
        >>> ode_log_prob(pair, torch.zeros(1, 2).double()).value.round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
    """
    given, path = known(fn, "from_score"), as_path(process)
    told, shown = clocks(path), coordinates(path.process)
    conventions = [Convention(a, b, c) for a in told for b in shown for c in _reads(b, shown[0])]
    facts = Facts(prior, reference, check, condition, given.notes)
    return pair_around(given.net, path.process, conventions, facts, order=given.order or order)


def _reads(shown: Choice, own: Choice) -> list[Choice]:
    """What a function could return: a score and v also of the input that it is shown."""
    texts = {"noise": "-%s / sigma_t", "denoised": "(alpha_t * %s - x) / sigma_t**2"}
    reads = [Choice(reading(name, shown.function), text) for name, text in texts.items()]
    size, v = size_of(shown), 'it to from_noise_prediction(net, process, predicts="v")'
    score = Choice(reading("score", shown.function), f"%s / {size}" if size else "")
    other = [Choice(reading("v", shown.function), f"{size} * %s", v)] if size else []
    return signs([score, *reads, Choice(reading("v", own.function), "", v), *other])

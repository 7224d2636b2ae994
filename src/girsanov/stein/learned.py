r"""Learned diffusion matrices: a flow fitted to the data, and a flow tuned for the power of a test.

A flow that makes the data about standard normal gives a near-best matrix for score matching without choosing anything
(note of paper 4, section 3.1), and it must be fitted by likelihood: the score-matching loss is no criterion for its own
matrix (section 2.2). For a test, what counts is the power: with h(x, x') the Stein kernel,

.. math:: \mathrm{power} \approx \Phi\big(\sqrt n\, U / \sigma\big), \qquad \sigma^2 = 4 \mathrm{Var}_x E_{x'} h(x, x'),

is raised on one part of the rows, and the test then made on the others.
"""

__all__ = ["fit_flow", "tune_flow"]

import torch
from torch import Tensor, nn

from girsanov.inputs import checked
from girsanov.linear.inverse_jacobian import FlowMatrix, flow_map
from girsanov.randomness import seed_of
from girsanov.stein.gram import gram_features, kernel_tile
from girsanov.stein.johnson import JohnsonFlow
from girsanov.stein.kernels import RadialKernel, resolve_kernel
from girsanov.stein.matrices import score_rows
from girsanov.stein.points import ScoreLike, SteinPoints
from girsanov.transforms import SplineFlow
from girsanov.types import InputError, State

HELD_OUT = 0.2  # share of the rows by which the flow's stopping point is chosen
CHECK = 25  # steps between two looks at the held-out rows


@checked
def fit_flow(
    x: State,
    *,
    transforms: int = 3,
    width: int = 32,
    steps: int = 500,
    learning_rate: float = 5e-3,
    generator: torch.Generator | None = None,
) -> FlowMatrix:
    """Fit a flow to rows by maximum likelihood: a spline per column first, then autoregressive splines.

    The spline per column takes skewness and heavy tails, the autoregressive flow the dependence between columns; in
    one dimension there is none, and the first is all. A fifth of the rows decides when to stop, and whether the
    second helps.

    Args:
        x: rows ``n d`` of continuous data, 100 or more.
        transforms: autoregressive layers; 0 for the columns alone.
        width: units of the two hidden layers of each.
        steps: steps of AdamW with all training rows, at most 1000 at a time.
        learning_rate: peak learning rate, with a cosine.
        generator: decides the split, the initial weights and the batches; ``None`` means seed 0.

    Returns:
        The flow's matrix, without trainable parameters.

    Raises:
        InputError: for too few rows or rows that are not vectors.

    Example:
        >>> x = torch.randn(500, 2, dtype=torch.float64).exp()
        >>> y = fit_flow(x, steps=50).map(x)
        >>> bool(y.mean().abs() < 0.1), bool((y.std() - 1.0).abs() < 0.1)
        (True, True)
    """
    if x.ndim != 2 or len(x) < 100:
        raise InputError(f"A flow is fitted to 100 rows of shape (d,) or more; got shape {tuple(x.shape)}")
    seed = seed_of(generator)
    rows = x.detach().double()[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    held_out, training = rows.split([int(HELD_OUT * len(x)), len(x) - int(HELD_OUT * len(x))])
    if x.shape[1] == 1 or transforms == 0:
        return FlowMatrix(JohnsonFlow.fit(rows))
    columns = JohnsonFlow.fit(training)
    inner, outer = columns(training), columns(held_out)
    flow = _autoregressive(x.shape[1], transforms, width, seed).to(rows)
    alone = float(torch.distributions.Normal(0.0, 1.0).log_prob(outer).sum(1).mean())
    if _train(flow, inner, outer, steps, learning_rate, seed) <= alone:
        return FlowMatrix(JohnsonFlow.fit(rows))
    return FlowMatrix(_Chain(columns, flow).requires_grad_(False))


@checked
def tune_flow(
    x: State,
    score: ScoreLike,
    *,
    flow: nn.Module | None = None,
    kernel: str | RadialKernel | None = None,
    steps: int = 150,
    learning_rate: float = 2e-2,
    generator: torch.Generator | None = None,
) -> FlowMatrix:
    """Tune a flow on some rows so that a Stein test with its matrix would reject the model on others.

    The rows must not be used for the test: split them first.

    Args:
        x: rows ``n d``, a few hundred: memory is n squared.
        score: of the model, ``State -> State``, or the scores at ``x``.
        flow: a module from rows to rows (or to rows and log-determinants), trained in place; by default Johnson's map
            of each column fitted to ``x`` and one layer of autoregressive splines that starts close to the identity.
        kernel: as in :func:`girsanov.stein.kernel_stein_discrepancy`; its bandwidth is taken from the rows once.
        steps: steps of Adam, each with all rows.
        learning_rate: of Adam.
        generator: decides the initial weights of the default flow; ``None`` means seed 0.

    Returns:
        The tuned flow's matrix, without trainable parameters.

    Example:
        >>> x = torch.randn(100, 1, dtype=torch.float64)
        >>> matrix = tune_flow(x, -0.7 * x, steps=2)
        >>> matrix.matrix(x).requires_grad
        False
    """
    rows = x.detach().double()
    s = score_rows(rows, score).detach().reshape(rows.shape)
    module = _tunable(rows, seed_of(generator)) if flow is None else flow
    matrix = FlowMatrix(module)
    resolved = resolve_kernel(kernel, rows.flatten(1), "A flow is tuned")
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        loss = -signal_to_noise(SteinPoints.at(rows, s, matrix, attached=True), resolved)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.requires_grad_(False)
    return matrix


def signal_to_noise(points: SteinPoints, kernel: RadialKernel) -> Tensor:
    """The U-statistic over its standard deviation times the square root of n, a differentiable scalar.

    A small multiple of the statistic's scale under the model is added to the standard deviation, which could vanish.
    """
    features, n = gram_features(points), len(points)
    (gram,) = kernel_tile([kernel], features, features, same=True)
    rows = gram.sum(1) / (n - 1)
    null = gram.square().sum().sqrt() / (n - 1)
    return rows.mean() / (2.0 * rows.std() + 0.1 * null.detach() / n**0.5)


class _Chain(nn.Module):
    """Johnson's map of the columns, then zuko's flow."""

    def __init__(self, columns: JohnsonFlow, flow: nn.Module) -> None:
        super().__init__()
        self.columns, self.flow = columns, flow

    def forward(self, x: State) -> State:
        """The image of rows ``n d``."""
        return flow_map(self.flow)(self.columns(x))


def _autoregressive(columns: int, transforms: int, width: int, seed: int) -> nn.Module:
    """A smooth flow with initial weights from the seed, the caller's global generator left alone."""
    from zuko.flows import MAF

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"hidden_features": (width, width), "activation": nn.Tanh}
        return MAF(columns, transforms=transforms, **options).double()


def _tunable(rows: State, seed: int) -> _Chain:
    """Splines have the freedom that a test needs; those of zuko start close to the identity with small weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = SplineFlow(rows.shape[1], transforms=1, width=16).double().flow
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.1)
    return _Chain(JohnsonFlow.fit(rows), flow.to(rows))


def _train(flow: nn.Module, training: Tensor, held_out: Tensor, steps: int, learning_rate: float, seed: int) -> float:
    """Maximise the likelihood; end with the weights that the held-out rows prefer, and return their value."""
    optimiser = torch.optim.AdamW(flow.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    source = torch.Generator().manual_seed(seed + 1)
    best, kept = -torch.inf, {name: value.clone() for name, value in flow.state_dict().items()}
    for step in range(steps):
        batch = training[torch.randperm(len(training), generator=source)[:1000]]
        loss = -flow().log_prob(batch).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % CHECK == 0 or step + 1 == steps:
            with torch.no_grad():
                value = float(flow().log_prob(held_out).mean())
            if value > best:
                best, kept = value, {name: value.clone() for name, value in flow.state_dict().items()}
    flow.load_state_dict(kept)
    return best

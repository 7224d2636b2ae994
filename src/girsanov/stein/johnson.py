r"""Johnson's map of each column to about a standard normal: smooth, heavy-tailed, four numbers a column.

.. math:: y_j = \gamma_j + \delta_j \operatorname{asinh}\big((x_j - \xi_j) / \lambda_j\big)

fitted by maximum likelihood. As a flow it gives the diagonal matrix :math:`m_j = \sqrt{\lambda_j^2 + (x_j - \xi_j)^2} /
\delta_j`: the matrix for heavy tails with centre, scale and tail weight learned. A matrix for score matching must be
smooth, since its derivative enters: splines with a knot at every quantile cost more variance than they save.
"""

__all__ = ["JohnsonFlow"]

import torch
from torch import Tensor, nn

from girsanov.types import InputError, State

ITERATIONS = 300
RIDGE = 1e-3  # nats: keeps the scale finite where the column is normal or lighter


class JohnsonFlow(nn.Module):
    """One map per column; made by :meth:`fit`.

    Args:
        location: xi, shape ``d``.
        scale: lambda > 0, shape ``d``.
        shift: gamma, shape ``d``.
        sharpness: delta > 0, shape ``d``.

    Example:
        >>> x = torch.distributions.StudentT(3.0).sample((2000, 1)).double()
        >>> y = JohnsonFlow.fit(x)(x)
        >>> bool(y.mean().abs() < 0.01), bool((y.std() - 1.0).abs() < 0.02), bool(y.abs().max() < 5.0)
        (True, True, True)
    """

    location: Tensor
    scale: Tensor
    shift: Tensor
    sharpness: Tensor

    def __init__(self, location: Tensor, scale: Tensor, shift: Tensor, sharpness: Tensor) -> None:
        super().__init__()
        values = {"location": location, "scale": scale, "shift": shift, "sharpness": sharpness}
        for name, value in values.items():
            self.register_buffer(name, value.detach().clone())

    @classmethod
    def fit(cls, x: State) -> "JohnsonFlow":
        """Fit to rows ``n d`` by maximum likelihood, all columns at once.

        Raises:
            InputError: if a column is constant in its middle half, or rows are not vectors.
        """
        if x.ndim != 2:
            raise InputError(f"Column-wise Gaussianisation needs rows of shape (n, d); got {tuple(x.shape)}")
        rows = x.detach().double()
        low, middle, high = rows.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=rows.dtype, device=rows.device), dim=0)
        if not bool((high > low).all()):
            raise InputError("The middle half of a column is one value: there is no density to fit")
        unit = (high - low) / 1.349
        z = (rows - middle) / unit
        parameters = z.new_zeros(4, x.shape[1])  # location, log-scale, shift, log-sharpness
        parameters[1] = parameters[3] = 0.7
        parameters.requires_grad_()
        options = {"max_iter": ITERATIONS, "tolerance_grad": 1e-9, "tolerance_change": 1e-13}
        optimiser = torch.optim.LBFGS([parameters], line_search_fn="strong_wolfe", **options)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = RIDGE * parameters[1].square().sum() / len(z) ** 0.5 - _log_density(z, parameters).mean(0).sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimiser.step(closure)  # pyright: ignore[reportArgumentType]  (a closure that returns a tensor)
        location, log_scale, shift, log_sharpness = parameters.detach()
        return cls(middle + unit * location, unit * log_scale.exp(), shift, log_sharpness.exp())

    def forward(self, x: State) -> State:
        """Map rows ``n d``."""
        z = (x - self.location.to(x)) / self.scale.to(x)
        return self.shift.to(x) + self.sharpness.to(x) * torch.asinh(z)

    def log_prob(self, x: State) -> Tensor:
        """Log-density of rows when the image is standard normal, shape ``n``."""
        parameters = torch.stack([self.location, self.scale.log(), self.shift, self.sharpness.log()])
        return _log_density(x, parameters).sum(1)


def _log_density(z: Tensor, parameters: Tensor) -> Tensor:
    """By column, ``n d``."""
    location, log_scale, shift, log_sharpness = parameters
    u = (z - location) / log_scale.exp()
    y = shift + log_sharpness.exp() * torch.asinh(u)
    log_slope = log_sharpness - log_scale - 0.5 * torch.log1p(u.square())
    return log_slope - 0.5 * (y.square() + torch.tensor(2.0 * torch.pi, dtype=z.dtype).log())

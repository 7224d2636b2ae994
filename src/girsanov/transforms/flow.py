r"""A normalizing flow as a map of data space: any zuko flow between the data and the diffusion.

The diffusion then models :math:`y = T(x)`, and :math:`\log p(x) = \log p_Y(T(x)) + \log|\det \nabla T(x)|`. Untrained,
it is the Gaussian reference of the flow's output; it learns what the flow leaves over. Score matching in these
coordinates is score matching in the data's with diffusion matrix :math:`(\nabla T)^{-1}` (Gong and Li 2021).
"""

__all__ = ["SplineFlow"]

from typing import Any

import torch
from torch import Tensor

from girsanov.transforms.base import Transform
from girsanov.types import State


class SplineFlow(Transform):
    """zuko's neural spline flow on vectors.

    Args:
        columns: number of columns d.
        transforms: number of autoregressive layers.
        width: units of the two hidden layers of each.
        bins: spline bins.

    Example:
        >>> flow = SplineFlow(2, transforms=1, width=8)
        >>> x = torch.randn(5, 2)
        >>> y, log_det = flow(x)
        >>> torch.allclose(flow.inverse(y), x, atol=1e-4), log_det.shape
        (True, torch.Size([5]))
    """

    def __init__(self, columns: int, *, transforms: int = 3, width: int = 64, bins: int = 8) -> None:
        super().__init__()
        from zuko.flows import NSF

        self.options = {"columns": columns, "transforms": transforms, "width": width, "bins": bins}
        self.flow = NSF(columns, transforms=transforms, hidden_features=(width, width), bins=bins)

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """Apply the flow in its own dtype; results in the dtype of ``x`` and float64."""
        y, log_det = self.flow().transform.call_and_ladj(x.to(self._dtype))
        return y.to(x.dtype), log_det.double()

    def inverse(self, y: State) -> State:
        return self.flow().transform.inv(y.to(self._dtype)).to(y.dtype)

    def log_prob(self, x: State) -> Tensor:
        """Log-density of the flow itself, with its N(0, I) base, shape ``n``."""
        return self.flow().log_prob(x.to(self._dtype))

    def config(self) -> dict[str, Any]:
        return dict(self.options)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.flow.parameters()).dtype

r"""Gaussians in spectral form, in any event shape, with full or low-rank covariance.

The covariance is :math:`S = V \mathrm{diag}(\lambda) V^\top + \lambda_0 (I - V V^\top)` with orthonormal V of
r columns; r = d is a full covariance, r = 0 an isotropic one, and a diagonal one needs no V. Everything a diffusion
model asks of its Gaussian reference is a function of that spectrum. With
:math:`p_i = \mathrm{sigmoid}(l + \log \lambda_i)`:

- whitened input :math:`w = V [V^\top (z - \alpha m) / \sqrt{\alpha^2 \lambda + \sigma^2}]`, unit covariance at every l;
- exact noise prediction :math:`\hat\varepsilon_G = V [\sqrt{1 - p}\; V^\top w]`;
- :math:`E[(\varepsilon - \hat\varepsilon_G)_i^2 \mid x] = p_i^2 + p_i (1 - p_i) y_i^2 / \lambda_i`, y = V^T(x - m),
  whose integral over log-SNR is closed form.
"""

__all__ = ["Gaussian", "StandardNormal", "draw_rows"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities.base import Density
from girsanov.inputs import checked
from girsanov.randomness import source_of
from girsanov.types import InputError, Nats, State

LOG_2PI = math.log(2.0 * math.pi)


class Gaussian(Density):
    """A Gaussian with mean of any event shape and covariance over the flattened event.

    Args:
        mean: shape ``event_shape``.
        covariance: ``(d, d)`` for the flattened event, or variances of ``event_shape``, or a scalar variance.

    Raises:
        InputError: if the covariance has another shape or is not positive definite.

    Example:
        >>> gaussian = Gaussian(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
        >>> gaussian.log_prob(torch.zeros(1, 2))
        tensor([-2.1177], dtype=torch.float64)
    """

    mean: Tensor
    basis: Tensor | None
    eigenvalues: Tensor
    remainder: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor | float) -> None:
        super().__init__()
        mean = torch.as_tensor(mean)
        mean = mean if mean.is_floating_point() else mean.double()
        covariance = torch.as_tensor(covariance, dtype=mean.dtype)
        d = mean.numel()
        if covariance.ndim == 0:
            basis, eigenvalues, remainder = mean.new_zeros(d, 0), mean.new_zeros(0), covariance
        elif covariance.shape == (d, d) and covariance.shape != mean.shape:
            values, vectors = torch.linalg.eigh(covariance.double())
            basis, eigenvalues, remainder = vectors, values, mean.new_ones(())
        elif covariance.shape == mean.shape:
            basis, eigenvalues, remainder = None, covariance.flatten(), mean.new_ones(())
        else:
            raise InputError(
                f"Expected covariance.shape ({d}, {d}), {tuple(mean.shape)} or (); got {tuple(covariance.shape)}"
            )
        self._set(mean, basis, eigenvalues, remainder)

    @classmethod
    def from_spectrum(
        cls, mean: Tensor, basis: Tensor | None, eigenvalues: Tensor, remainder: Tensor | float = 1.0
    ) -> "Gaussian":
        """Build from orthonormal ``basis`` ``(d, r)``, its variances ``(r,)`` and the variance of the complement.

        Without a basis, ``None``, the variances are those of the d coordinates.
        """
        gaussian = cls.__new__(cls)
        Density.__init__(gaussian)
        gaussian._set(mean, basis, eigenvalues, torch.as_tensor(remainder))
        return gaussian

    @classmethod
    @checked
    def fit(cls, x: State, *, rank: int | None = None, floor: float = 0.0) -> "Gaussian":
        """Fit mean and Ledoit-Wolf shrunk covariance to rows ``n *d``.

        Args:
            x: at least two rows.
            rank: number of principal components kept; the others share their mean variance. Default all.
            floor: least standard deviation of a column, for columns that may be constant in these rows.
        """
        if len(x) < 2:
            raise InputError(f"A Gaussian needs at least 2 rows to be fitted; got {len(x)}")
        from sklearn.covariance import ledoit_wolf_shrinkage

        flat = x.double().flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        # Columns of very different scales must not be shrunk towards one common variance: shrink correlations.
        own = centred.square().mean(0).sqrt()
        scale = own.clamp_min(max(floor, torch.finfo(torch.float64).tiny))
        unit = centred / scale
        shrinkage = float(ledoit_wolf_shrinkage(unit.cpu().numpy(), assume_centered=True))
        correlation = (1.0 - shrinkage) * unit.T @ unit / len(x)
        correlation.diagonal().add_(shrinkage)
        correlation.diagonal()[own < floor] = 1.0
        values, vectors = torch.linalg.eigh(scale[:, None] * correlation * scale)
        keep = len(values) if rank is None else min(rank, len(values))
        rest = values[: len(values) - keep]
        remainder = rest.mean() if len(rest) else torch.ones((), dtype=torch.float64)
        return cls.from_spectrum(
            mean.reshape(x.shape[1:]), vectors[:, len(values) - keep :], values[len(values) - keep :], remainder
        )

    def _set(self, mean: Tensor, basis: Tensor | None, eigenvalues: Tensor, remainder: Tensor) -> None:
        smallest = torch.cat([eigenvalues.flatten(), remainder.reshape(1).to(eigenvalues)]).min()
        if not smallest > 0:
            raise InputError("The covariance is not positive definite: drop collinear columns, or add noise")
        if not bool(mean.isfinite().all()):
            raise InputError("The mean of a Gaussian must be finite: impute what is missing")
        self.event_shape = mean.shape
        self.register_buffer("mean", mean.double().contiguous())
        # contiguous, as loading makes it: a saved and a fresh Gaussian then multiply to the same bits
        self.register_buffer("basis", None if basis is None else basis.double().contiguous())
        self.register_buffer("eigenvalues", eigenvalues.double())
        self.register_buffer("remainder", remainder.double().to(mean.device))
        self._rounded: tuple[Tensor, int, Tensor] | None = None

    def rounded_basis(self, dtype: torch.dtype) -> Tensor:
        """The basis in a number format, which is made again only where the buffer has changed."""
        basis = self.basis
        assert basis is not None
        if dtype == basis.dtype or torch.compiler.is_compiling():
            return basis.to(dtype)
        kept, version = self._rounded, basis._version
        if kept is None or kept[0] is not basis or kept[1] != version or kept[2].dtype != dtype:
            kept = self._rounded = (basis, version, basis.to(dtype))
        return kept[2]

    @property
    def event_dim(self) -> int:
        """Number of dimensions d."""
        return self.mean.numel()

    @property
    def covariance(self) -> Tensor:
        """Covariance over the flattened event, ``(d, d)``."""
        return self.spectral(torch.eye(self.event_dim).to(self.mean), lambda v: v)

    def variance_range(self) -> tuple[float, float]:
        return float(self.spectrum().min()), float(self.spectrum().max())

    def spectrum(self) -> Tensor:
        """All d variances, shape ``(d,)``."""
        rest = self.remainder.expand(self.event_dim - len(self.eigenvalues))
        return torch.cat([self.eigenvalues, rest])

    def marginal_variance(self) -> Tensor:
        """Variance of each coordinate, shape ``event_shape``."""
        return self._diagonal(self.eigenvalues, self.remainder).reshape(self.event_shape)

    def marginal_precision(self, r: Tensor) -> Tensor:
        """Diagonal of the inverse of ``S + r^2 I`` for each ``r`` of shape ``b``: shape ``b *event_shape``."""
        squared = r.double()[:, None].square()
        diagonal = self._diagonal(1.0 / (self.eigenvalues + squared), 1.0 / (self.remainder + squared))
        return diagonal.reshape(len(r), *self.event_shape)

    @checked
    def log_prob(self, x: State) -> Nats:
        y = x.double() - self.mean
        quadratic = sum_event(y * self.spectral(y, torch.reciprocal))
        return -0.5 * (quadratic + self.spectrum().log().sum() + self.event_dim * LOG_2PI)

    @checked
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> State:
        noise = torch.randn(n, *self.event_shape, dtype=self.mean.dtype, generator=source_of(generator))
        return self.mean + self.spectral(noise.to(self.mean.device), torch.sqrt)

    def diffused(self, alpha: float | Tensor, sigma: float | Tensor) -> "Gaussian":
        alpha, sigma = torch.as_tensor(alpha).to(self.mean), torch.as_tensor(sigma).to(self.mean)
        noised = [alpha.square() * v + sigma.square() for v in (self.eigenvalues, self.remainder)]
        return Gaussian.from_spectrum(alpha * self.mean, self.basis, noised[0], noised[1])

    def diffused_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        y = x - expand_as_rows(alpha, x) * self.mean.to(x.dtype)
        return -self.spectral(y, lambda v: 1.0 / (alpha[:, None].square() * v + sigma[:, None].square()))

    def moment_match(self) -> "Gaussian":
        """Itself."""
        return self

    def expected_log_prob(self, mean: State, variance: Tensor) -> Nats:
        r"""Closed form of :math:`E[\log p(Y)]` for :math:`Y \sim \mathcal{N}(\mathrm{mean}, \mathrm{variance}\, I)`."""
        return self.log_prob(mean) - 0.5 * variance * self.spectrum().reciprocal().sum()

    def whiten(self, log_snr: Tensor, z: State) -> State:
        """Map variance-preserving ``z`` at ``log_snr`` to unit covariance, in data coordinates."""
        alpha = torch.sigmoid(log_snr).sqrt()
        y = z - expand_as_rows(alpha, z) * self.mean.to(z.dtype)
        return self.function_at(log_snr, y, lambda alpha2, sigma2, v: (alpha2 * v + sigma2).rsqrt())

    def unwhiten(self, log_snr: Tensor, w: State) -> State:
        """Inverse of :meth:`whiten`."""
        alpha = torch.sigmoid(log_snr).sqrt()
        y = self.function_at(log_snr, w, lambda alpha2, sigma2, v: (alpha2 * v + sigma2).sqrt())
        return y + expand_as_rows(alpha, w) * self.mean.to(w.dtype)

    def whitened_noise(self, log_snr: Tensor, w: State) -> State:
        """Noise prediction at the ``z`` whose whitened state is ``w``."""
        return self.function_at(log_snr, w, lambda alpha2, sigma2, v: (sigma2 / (alpha2 * v + sigma2)).sqrt())

    def function_at(self, log_snr: Tensor, y: State, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> State:
        r"""Apply :math:`V\, \mathrm{function}(\alpha^2, \sigma^2, \lambda)\, V^\top` with VP alpha, sigma per row."""
        alpha2, sigma2 = torch.sigmoid(log_snr)[:, None], torch.sigmoid(-log_snr)[:, None]
        return self.spectral(y, lambda v: function(alpha2, sigma2, v))

    def squared_error(self, x: State, log_snr: float) -> Nats:
        r""":math:`E[\|\varepsilon - \hat\varepsilon_G\|^2 \mid x]` at one log-SNR, closed form per row."""
        y2 = self._coordinates(x.double() - self.mean).square()
        p = torch.sigmoid(log_snr + self.spectrum().log())
        return (p.square() + p * (1.0 - p) * y2 / self.spectrum()).sum(1)

    def squared_error_excess(self, x: State, log_snr: Tensor, eps: State) -> Nats:
        r""":math:`\|\varepsilon - \hat\varepsilon_G\|^2` minus its mean given x: zero on average over the noise.

        With :math:`e = V^\top \varepsilon` it is :math:`\sum_i p_i^2 (e_i^2 - 1) - 2 p_i \sqrt{p_i (1 - p_i) /
        \lambda_i}\, e_i y_i`.

        Args:
            x: rows ``b *d``.
            log_snr: k levels of each row, ``b k``.
            eps: their noise, ``b k *d``.

        Returns:
            Shape ``b k``.
        """
        noise, centred = eps.flatten(2), (x - self.mean.to(x.dtype)).flatten(1).to(eps.dtype)[:, None]
        rest = torch.zeros((), dtype=torch.float64)
        if self.basis is not None:
            basis = self.rounded_basis(eps.dtype)
            e, y = noise @ basis, centred @ basis
            if self.basis.shape[1] < self.event_dim:
                squares = (noise.square().sum(2) - e.square().sum(2)).double()
                products = ((noise * centred).sum(2) - (e * y).sum(2)).double()
                count = self.event_dim - self.basis.shape[1]
                rest = self._excess(log_snr, squares - count, products, self.remainder)
        else:
            e, y = noise, centred
        inside = self._excess(log_snr[..., None].to(eps.dtype), e.square() - 1.0, e * y, self.eigenvalues.to(eps.dtype))
        return inside.sum(2, dtype=torch.float64) + rest

    @staticmethod
    def _excess(log_snr: Tensor, squares: Tensor, products: Tensor, variances: Tensor) -> Tensor:
        p = torch.sigmoid(log_snr + variances.log())
        return p.square() * squares - 2.0 * p * (p * (1.0 - p) / variances).sqrt() * products

    def squared_error_integral(self, x: State, low: float, high: float) -> Nats:
        r""":math:`\int E[\|\varepsilon - \hat\varepsilon_G\|^2 \mid x]\, dl` over [low, high], closed form per row.

        With :math:`\int p^2 dl = \mathrm{softplus} - p` and :math:`\int p (1 - p)\, dl = p`.
        """
        y2 = self._coordinates(x.double() - self.mean).square()
        shift = self.spectrum().log()
        p_high, p_low = torch.sigmoid(high + shift), torch.sigmoid(low + shift)
        squares = softplus(high + shift) - softplus(low + shift) - (p_high - p_low)
        return (squares + (p_high - p_low) * y2 / self.spectrum()).sum(1)

    def posterior_quadratic(self, log_snr: float, x: State) -> Nats:
        """Closed form of the mean of :meth:`posterior_form` at the Gaussian's own noise prediction, given ``x``."""
        y2 = self._coordinates(x.double() - self.mean).square()
        p = torch.sigmoid(log_snr + self.spectrum().log())
        return (p + (1.0 - p) * y2 / self.spectrum()).sum(1)

    def posterior_log_det(self, log_snr: float) -> Tensor:
        """Log-determinant of the posterior covariance of x given its noised version at ``log_snr``."""
        return (torch.sigmoid(-(log_snr + self.spectrum().log())).log() + self.spectrum().log()).sum()

    def posterior_form(self, log_snr: Tensor, error: State) -> State:
        r"""The vector :math:`(I + e^{-l} S^{-1})\, \mathrm{error}`: precision of the posterior in noise units.

        The posterior covariance C of x given z obeys :math:`(\sigma/\alpha)^2 C^{-1} = I + e^{-l} S^{-1}`, and
        :math:`x - \hat x = -(\sigma/\alpha)(\varepsilon - \hat\varepsilon)`.
        """
        return self.function_at(log_snr, error, lambda alpha2, sigma2, v: 1.0 + sigma2 / (alpha2 * v))

    def _diagonal(self, values: Tensor, rest: Tensor) -> Tensor:
        """Diagonal of the spectral function with ``values`` on the basis and ``rest`` on its complement."""
        if self.basis is None:
            return values
        inside = values @ self.basis.square().T
        return inside if len(self.eigenvalues) == self.event_dim else inside + rest * (1.0 - self.basis.square().sum(1))

    def _coordinates(self, y: Tensor) -> Tensor:
        """Coordinates in the eigenbasis, ``n d``; isotropic complement directions carry an arbitrary basis' squares."""
        flat = y.flatten(1)
        if self.basis is None:
            return flat
        inside = flat @ self.basis
        if inside.shape[1] == self.event_dim:
            return inside
        # Only sums of squares over the complement are ever used: spread them evenly.
        rest = (flat.square().sum(1) - inside.square().sum(1)).clamp_min(0.0)
        count = self.event_dim - inside.shape[1]
        return torch.cat([inside, (rest / count).sqrt()[:, None].expand(-1, count)], 1)

    def spectral(self, y: State, function: Callable[[Tensor], Tensor]) -> State:
        """Apply the spectral function f(S) to rows; ``function`` may return one value per row and eigenvalue."""
        flat = y.flatten(1)
        if self.basis is None:
            return (function(self.eigenvalues).to(y.dtype) * flat).reshape(y.shape)
        rank = len(self.eigenvalues)
        rest = function(self.remainder).to(y.dtype)
        if rank == 0:
            return (rest * flat).reshape(y.shape)
        basis = self.rounded_basis(y.dtype)
        inside = flat @ basis
        values = function(self.eigenvalues).to(y.dtype)
        if rank == self.event_dim:
            return ((values * inside) @ basis.T).reshape(y.shape)
        return (rest * flat + ((values - rest) * inside) @ basis.T).reshape(y.shape)


class StandardNormal(Density):
    """N(0, I) in whatever event shape its rows have: the prior of processes that forget the data.

    Example:
        >>> StandardNormal().log_prob(torch.zeros(1, 2, 2))
        tensor([-3.6758], dtype=torch.float64)
    """

    event_shape = torch.Size()

    @checked
    def log_prob(self, x: State) -> Nats:
        return -0.5 * (sum_event(x.double().square()) + x[0].numel() * LOG_2PI)

    def expected_log_prob(self, mean: State, variance: Tensor) -> Nats:
        r"""Closed form of :math:`E[\log p(Y)]` for :math:`Y \sim \mathcal{N}(\mathrm{mean}, \mathrm{variance}\, I)`."""
        return self.log_prob(mean) - 0.5 * variance * mean[0].numel()

    @checked
    def sample(self, n: int, *, generator: torch.Generator | None = None, event_shape: Sequence[int] = ()) -> State:
        """Draw ``n`` rows of ``event_shape``, float64; ``None`` means seed 0."""
        return torch.randn(n, *event_shape, dtype=torch.float64, generator=source_of(generator))

    def diffused(self, alpha: float | Tensor, sigma: float | Tensor) -> Density:
        """Refused: without an event shape there is no mean to scale; use ``Gaussian(torch.zeros(shape), 1.0)``."""
        raise InputError("StandardNormal has no event shape to diffuse: use Gaussian(torch.zeros(shape), 1.0)")

    def diffused_score(self, alpha: Tensor, sigma: Tensor, x: State) -> State:
        return -x / expand_as_rows(alpha.square() + sigma.square(), x)


def draw_rows(
    law: Density, n: int, *, event_shape: Sequence[int] = (), generator: torch.Generator | None = None
) -> State:
    """Draw ``n`` rows of a law, or of N(0, I) in a given shape.

    Args:
        law: what is drawn from.
        n: number of rows.
        event_shape: shape of one row, where the law has none of its own.
        generator: source of the draws; ``None`` means seed 0.

    Raises:
        InputError: if nobody knows the shape of a row.

    Example:
        >>> draw_rows(StandardNormal(), 5, event_shape=(2,)).shape, draw_rows(Gaussian(torch.zeros(3), 1.0), 5).shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """
    if not isinstance(law, StandardNormal):
        return law.sample(n, generator=generator)
    if not event_shape:
        raise InputError("The shape of a row is not known here: pass event_shape=")
    return law.sample(n, generator=generator, event_shape=event_shape)

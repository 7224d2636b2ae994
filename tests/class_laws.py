"""Class-conditional oracles: closed-form laws of each class, and the exact conditional and unconditional scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.processes import LinearProcess, VariancePreserving
from tests.seeds import seeded


@dataclass(frozen=True)
class ClassLaws:
    """Gaussian mixtures, one per class, and the process that noises them.

    Attributes:
        laws: class densities.
        process: the forward process.
    """

    laws: list[GaussianMixture]
    process: LinearProcess

    def __call__(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The exact score of each row's class, or of the equal mixture of all."""
        if condition is None:
            return self.marginal().score(self.process)(t, x)
        scores = torch.stack([law.score(self.process)(t, x) for law in self.laws], 1)
        return scores[torch.arange(len(x)), condition.expand(len(x))]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-densities of all classes, ``n C``."""
        return torch.stack([law.log_prob(x) for law in self.laws], 1)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows and classes in equal shares, ``n *d`` and ``n``."""
        label = torch.arange(n) % len(self.laws)
        drawn = torch.stack([law.sample(n, generator=generator) for law in self.laws], 1)
        return drawn[torch.arange(n), label], label

    def marginal(self) -> GaussianMixture:
        """The equal mixture of all classes."""
        weights = torch.cat([law.weights for law in self.laws])
        means, variances = (torch.cat([getattr(law, name) for law in self.laws]) for name in ("means", "variances"))
        if self.laws[0].bases is None:
            return GaussianMixture(weights, means, variances.reshape(means.shape))
        bases = torch.cat([law.bases for law in self.laws if law.bases is not None])
        return GaussianMixture(weights, means, bases @ torch.diag_embed(variances) @ bases.mT)

    def reference(self) -> Gaussian:
        """The Gaussian with the moments of all classes together."""
        return self.marginal().moment_match()


def class_laws(
    shape: tuple[int, ...], *, classes: int = 3, components: int = 2, distance: float = 1.0, seed: int = 0
) -> ClassLaws:
    """Random class-conditional mixtures with diagonal covariances of a falling spectrum."""
    generator = seeded(seed)
    d = torch.Size(shape).numel()
    spectrum = (torch.arange(1, d + 1, dtype=torch.float64) ** -0.5).reshape(shape)
    laws = []
    for _ in range(classes):
        means = distance * torch.randn(components, *shape, generator=generator, dtype=torch.float64) * spectrum.sqrt()
        spread = 0.5 + torch.rand(components, *shape, generator=generator, dtype=torch.float64)
        laws.append(GaussianMixture(torch.ones(components), means, spread * spectrum))
    return ClassLaws(laws, VariancePreserving())

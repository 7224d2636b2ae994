r"""A model that is a mixture of its diffusion and of closed forms, so that it is not behind these.

With weights w and :math:`a(x) = \log \sum_j w_j p_j(x)` of the closed forms, the mixture's log-density is
:math:`\log(e^{a} + w_0 e^{b})`, b being the diffusion's. That is the ODE's value where b is known. Of a bound it is
known with noise, :math:`E \hat b \le b`, and the logarithm of a noisy sum is no bound. By Jensen's inequality, for any
r in (0, 1),

.. math::
    \log(e^{a} + w_0 e^{b}) \ge (1 - r) (a - \log(1 - r)) + r (\log w_0 + b - \log r) ,

which is linear in b: with an r that does not depend on the noise of :math:`\hat b`, the right-hand side keeps its mean
and stays a bound. The best r is the diffusion's share in the row, :math:`w_0 e^b / (e^a + w_0 e^b)`; every replicate
gets it from the mean of the others (Jordan et al., An introduction to variational methods for graphical models, 1999,
for the bound). Dequantised rows are points of all densities at once: the closed forms see the noise that the diffusion
sees, and a bound on a log-mass stays one.
"""

__all__ = ["Companion", "Mixed", "twins"]

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from girsanov.datasets import Schema
from girsanov.densities import GaussianMixture
from girsanov.density_model.drawing import Draw
from girsanov.encoding import Encoding
from girsanov.likelihoods import RandomisedRows
from girsanov.likelihoods.discrete import log_mean_exp
from girsanov.likelihoods.estimator import keeps_graph
from girsanov.randomness import source_of
from girsanov.rows import by_blocks, condition_at
from girsanov.transforms import TRANSFORMS
from girsanov.types import Estimate, InputError, State

BLOCK = 128  # rows at once
COMPUTED = ("value", "stderr", "replicates", "terms")  # from replicates
UNDERFLOW = -1e9  # of a closed form far from all of its components, in nats


class Companion(nn.Module):
    """A closed form beside a diffusion.

    Args:
        name: ``start`` or ``mixture``.
        law: in the space that rows are encoded to.
        encoding: to that space; by default the model's own.
    """

    def __init__(self, name: str, law: GaussianMixture, encoding: Encoding | None = None) -> None:
        super().__init__()
        self.name = name
        self.law = law
        self.encoding = encoding

    def log_prob(self, encoded: State, encoding: Encoding, draws: int, seed: int) -> Tensor:
        """Log-densities in data units at the dequantisation draws of encoded rows, shape ``draws b``."""
        view = (self.encoding or encoding).view(encoded, draws, seed)
        if view.x.stride(1) == 0:
            return (self.law.log_prob(view.x[:, 0]) + view.log_det[:, 0]).expand(draws, -1)
        return (self.law.log_prob(view.x.flatten(0, 1)).reshape(len(encoded), draws) + view.log_det).T

    def sample(self, n: int, encoding: Encoding, generator: torch.Generator) -> State:
        """Draws in data units, shape ``n *event_shape``, not yet rounded to a lattice."""
        law = copy.deepcopy(self.law).cpu()  # where the generator is
        return (self.encoding or encoding).inverse(law.sample(n, generator=generator).to(self.law.means.device))


class Mixed(nn.Module):
    """Closed forms beside a diffusion, and the weights of all.

    Args:
        weights: of the diffusion and of every closed form, positive, sum one.
        companions: the closed forms.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, companions: Sequence[Companion]) -> None:
        super().__init__()
        self.register_buffer("weights", weights.double())
        self.companions = nn.ModuleList(companions)

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each part by its name, the diffusion's first."""
        names = ["diffusion", *(companion.name for companion in self._companions())]
        return dict(zip(names, self.weights.tolist(), strict=True))

    def bound(
        self, found: Estimate, rows: RandomisedRows, encoding: Encoding, seed: int, *, draws: int = 1
    ) -> Estimate:
        """The mixture's bound from the diffusion's.

        Args:
            found: bounds of the diffusion, in two replicates or more.
            rows: whose bounds these are.
            encoding: the model's.
            seed: of the dequantisation draws.
            draws: of each replicate, whose densities are averaged.

        Raises:
            InputError: for a single replicate.
        """
        replicates = found.replicates
        if replicates is None or len(replicates) < 2:
            raise InputError(
                "A mixture's bound needs two independent values of its diffusion or more: raise samples (of an ODE "
                "with probes, draws or probes)"
            )

        def evaluate(index: Tensor) -> Tensor:
            own, beside = self._parts(replicates[:, index], rows.rows[index], encoding, seed, draws)
            gap = (own - beside).detach().T.contiguous()
            logit = ((gap.sum(1, keepdim=True) - gap) / (len(own) - 1)).T  # of r, from the other replicates
            return logit.sigmoid() * (own - logsigmoid(logit)) + (-logit).sigmoid() * (beside - logsigmoid(-logit))

        with torch.set_grad_enabled(keeps_graph(replicates) or keeps_graph(rows.rows)):
            whole = _described(found, by_blocks(evaluate, len(rows), BLOCK, rows.rows.device))
        # after a pilot its own standard error is the promise, which that of a share of the diffusion does not exceed
        stderr = whole.stderr if found.met is None else found.stderr
        return replace(whole, stderr=stderr, kind="lower_bound" if found.kind == "unbiased" else found.kind)

    def exact(self, found: Estimate, rows: RandomisedRows, encoding: Encoding, seed: int) -> Estimate:
        """The mixture's values from exact ones of the diffusion; arguments as of :meth:`bound`."""
        values = found.value[None] if found.replicates is None else found.replicates

        def evaluate(index: Tensor) -> Tensor:
            return torch.logaddexp(*self._parts(values[:, index], rows.rows[index], encoding, seed))

        with torch.set_grad_enabled(keeps_graph(values) or keeps_graph(rows.rows)):
            mixed = by_blocks(evaluate, len(rows), BLOCK, rows.rows.device)
        if found.replicates is not None:
            return _described(found, mixed)
        terms = {**found.terms, "companions": mixed[0] - found.value}
        return replace(found, value=mixed[0], terms=terms)

    def drawing(self, diffusion: Draw, encoding: Encoding) -> Draw:
        """Draws from the mixture, given what draws from its diffusion."""

        def draw(count: int, given: Tensor | None, source: torch.Generator) -> State:
            part = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=source)
            rows = [(part == k).nonzero().flatten() for k in range(len(self.weights))]
            drawn = [
                companion.sample(len(index), encoding, source)
                for index, companion in zip(rows[1:], self._companions(), strict=True)
                if len(index)
            ]
            if len(rows[0]):
                drawn.insert(0, diffusion(len(rows[0]), condition_at(given, rows[0]), source).double())
            return torch.cat(drawn)[torch.cat(rows).argsort().to(drawn[0].device)]

        return draw

    def describe(self) -> list[dict[str, Any]]:
        """Everything but the tensors, as JSON."""
        return [
            {
                "name": companion.name,
                "components": len(companion.law.weights),
                "transforms": None if companion.encoding is None else describe_transforms(companion.encoding),
            }
            for companion in self._companions()
        ]

    @classmethod
    def build(cls, description: Sequence[dict[str, Any]], schema: Schema) -> "Mixed":
        """What :meth:`describe` tells of, before its tensors are filled in."""
        d, found = schema.event_shape[0], []
        for entry in description:
            count, transforms = entry["components"], entry["transforms"]
            law = GaussianMixture(torch.ones(count), torch.zeros(count, d), torch.eye(d).expand(count, d, d))
            encoding = None if transforms is None else Encoding(schema, build_transforms(transforms))
            found.append(Companion(entry["name"], law, encoding))
        return cls(torch.ones(len(found) + 1), found)

    def _companions(self) -> list[Companion]:
        return [companion for companion in self.companions if isinstance(companion, Companion)]

    def _parts(
        self, values: Tensor, encoded: State, encoding: Encoding, seed: int, draws: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Weighted log-densities of the diffusion and of all closed forms, each ``r b``."""
        log_weights, count = self.weights.log(), draws * len(values)
        each = [companion.log_prob(encoded, encoding, count, seed) for companion in self._companions()]
        beside = (torch.stack(each, -1) + log_weights[1:]).logsumexp(-1).clamp_min(UNDERFLOW)
        return log_weights[0] + values, log_mean_exp(beside.unflatten(0, (-1, draws)))


def describe_transforms(encoding: Encoding) -> list[dict[str, Any]]:
    """The transforms of an encoding but their tensors, as JSON."""
    names = {kind: name for name, kind in TRANSFORMS.items()}
    return [{"name": names[type(member)], "config": member.config()} for member in encoding.transforms.members]


def build_transforms(description: Sequence[dict[str, Any]]) -> list[Any]:
    """What :func:`describe_transforms` tells of, before the tensors are filled in."""
    return [TRANSFORMS[entry["name"]](**entry["config"]) for entry in description]


def twins(generator: torch.Generator | None) -> tuple[torch.Generator, torch.Generator]:
    """A generator, or that of seed 0, and another one that reads the same numbers next."""
    source = source_of(generator)
    return source, torch.Generator(source.device).set_state(source.get_state())


def _described(found: Estimate, values: Tensor) -> Estimate:
    """An estimate whose replicates have become others."""
    kept = {field.name: getattr(found, field.name) for field in fields(found) if field.name not in COMPUTED}
    whole = Estimate.from_replicates(values, **kept)
    return replace(whole, terms={**found.terms, "companions": whole.value - found.value})

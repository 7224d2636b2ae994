r"""A fitted density: the encoding of a user's rows, and a score model with its Gaussian reference.

The reference serves throughout: prior = its law at the noise end, last decoder = its posterior, control variate =
its exact denoiser. An untrained model therefore is the Gaussian: every likelihood returns
:math:`\log \mathcal{N}(x; m, S)` with standard error 0, unless a row is far from the training rows, where every fitted
diffusion gives way to the flat law of its broad share (:class:`girsanov.pairs.ScoreModel`).
"""

__all__ = ["DensityModel"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from girsanov.calculus import Divergence
from girsanov.datasets import Schema
from girsanov.densities import Gaussian
from girsanov.density_model import storage, told
from girsanov.density_model.averaging import averaged
from girsanov.density_model.conditions import Conditioning
from girsanov.density_model.drawing import draw_rows
from girsanov.density_model.lattice import lattice_points
from girsanov.density_model.mixed import Mixed, twins
from girsanov.density_model.networks import Architecture
from girsanov.display import Shown, Summary
from girsanov.encoding import Encoding
from girsanov.hub import Card, Download, Pretrained
from girsanov.likelihoods import (
    RandomisedRows,
    ScoreTest,
    Target,
    categorical_elbo,
    density,
    difference,
    difference_curve,
    elbo,
    ode_log_prob,
    pointwise_information,
    score_test,
)
from girsanov.likelihoods.differences import Condition, DifferenceCurve, PointwiseInformation
from girsanov.likelihoods.discrete import LatticePoints
from girsanov.likelihoods.estimator import keeps_graph
from girsanov.likelihoods.score_test import LEVELS
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.randomness import apart, seed_of
from girsanov.samplers import sample
from girsanov.saved import fill
from girsanov.solvers import Adaptive, FixedGrid, LogSNRDensity
from girsanov.types import Estimate, InputError, State, require_count


class DensityModel(Shown, Pretrained, nn.Module):
    """A density on data of one schema; made by :func:`girsanov.fit` or :meth:`from_pretrained`.

    Args:
        encoding: from a user's rows to the model's space and back.
        score: the score model, with a Gaussian reference.
        proposal: density in log-SNR for the likelihoods' grids; default from the reference's spectrum.
        conditioning: what the network is conditioned on; default nothing.
        architecture: how the score model was built, which saving needs.
        record: the model's history, as JSON: settings, splits, training, versions. It decides nothing.
        mixed: closed forms that the diffusion is mixed with, and the weights; default none.

    All likelihoods take rows as the user had them, arrays or tensors of shape ``n *d`` in data units with the
    columns that the model was fitted to, and return nats in those units.
    """

    def __init__(
        self,
        encoding: Encoding,
        score: ScoreModel,
        *,
        proposal: LogSNRDensity | None = None,
        conditioning: Conditioning | None = None,
        architecture: Architecture | None = None,
        record: dict[str, Any] | None = None,
        mixed: Mixed | None = None,
    ) -> None:
        super().__init__()
        if score.reference is None:
            raise InputError("A density model needs a score model with a Gaussian reference")
        self.encoding = encoding
        self.score = score
        self.proposal = proposal
        self.conditioning = conditioning or Conditioning()
        self.architecture = architecture
        self.record = dict(record or {})
        self.mixed = mixed

    def replace(self, **changes: Any) -> "DensityModel":
        """The same model with some of its arguments changed."""
        return DensityModel(**self._parts() | changes)

    def _parts(self) -> dict[str, Any]:
        names = ("encoding", "score", "proposal", "conditioning", "architecture", "record", "mixed")
        return {name: getattr(self, name) for name in names}

    def _summary(self) -> Summary:
        hint = "model.elbo(x) scores rows, with error bars; model.sample(n) draws some; model.save_pretrained(folder)"
        return Summary(told.title(self.record), told.facts(**self._parts()), hint=hint)

    @property
    def diffusion(self) -> "DensityModel":
        """The model without the closed forms that it is mixed with: itself where there are none."""
        return self if self.mixed is None else self.replace(mixed=None)

    @property
    def reference(self) -> Gaussian:
        """The Gaussian reference, in the model's space."""
        assert self.score.reference is not None
        return self.score.reference

    @property
    def is_flow(self) -> bool:
        """Whether this is a continuous flow, trained as an ODE."""
        return self.architecture is not None and self.architecture.model == "cnf"

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.reference.mean.device

    @property
    def schema(self) -> Schema:
        """How raw rows are encoded."""
        return self.encoding.schema

    @property
    def pair(self) -> ScorePair:
        """The diffusion model in the model's space: the reference is prior, decoder and control variate.

        Of a mixture it is the diffusion alone.
        The prior has a broad share where nothing else keeps far rows from ruling: other models have one in their
        scores, and scales with tails.
        """
        broad = self.is_flow or self.lattice is not None
        return ScorePair.around(self.score, broad=broad, proposal=self.proposal)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that a conditional model knows, in the order of their labels; else none."""
        return self.conditioning.classes

    @property
    def class_values(self) -> tuple[Any, ...]:
        """The classes as the labels of the fit gave them; nothing where they came by name."""
        return self.conditioning.values

    @property
    def lattice(self) -> LatticePoints | None:
        """The points that a model with the categorical decoder decodes; ``None`` for models of a density."""
        return lattice_points(self.encoding)

    def encode(self, x: Any) -> RandomisedRows:
        """Rows as the user has them, encoded, as the bounds of :attr:`pair` take them; see :meth:`Encoding.encode`."""
        return self.encoding.encode(x)

    def encode_condition(self, condition: Any, rows: int) -> Tensor | None:
        """A ``condition`` of so many rows as the network takes it, or an :class:`InputError`: all doors lead here."""
        return self.conditioning.encode(condition, rows, self.device)

    def elbo(
        self,
        x: Any,
        *,
        samples: int = 32,
        condition: Any = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Lower bound on the log-density (log-mass of discrete columns) of the reverse-SDE model.

        Args:
            x: rows in data units.
            samples: network evaluations per row.
            condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
            generator: read once for a seed; ``None`` means seed 0.
        """
        rows, (source, again) = self.encode(x), twins(generator)
        options = {"samples": samples, "generator": source}
        options["condition"] = self.encode_condition(condition, len(rows))
        if self.lattice is not None:
            y, _ = self.encoding.transforms(rows.rows)
            return categorical_elbo(self.pair, y, lattice=self.lattice, **options)
        found = elbo(self.pair, rows, **options)
        return found if self.mixed is None else self.mixed.bound(found, rows, self.encoding, seed_of(again))

    def density(
        self,
        x: Any,
        *,
        samples: int = 32,
        target: Target | float | None = None,
        condition: Any = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """The density formula: a lower bound for the hybrid that uses the reference outside the learned range.

        Args:
            x: rows in data units.
            samples: network evaluations per row and round.
            target: keep drawing until every row's standard error is below this, in nats; see :func:`girsanov.density`.
            condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
            generator: read once for a seed; ``None`` means seed 0.
        """
        self._require_density()
        rows, (source, again) = self.encode(x), twins(generator)
        given = self.encode_condition(condition, len(rows))
        found = density(self.pair, rows, samples=samples, target=target, condition=given, generator=source)
        return found if self.mixed is None else self.mixed.bound(found, rows, self.encoding, seed_of(again))

    def log_prob(
        self,
        x: Any,
        *,
        draws: int = 1,
        divergence: Divergence | None = None,
        solver: Adaptive | FixedGrid | None = None,
        condition: Any = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Log-density of the probability-flow ODE model: another model than the SDE's, in another column.

        Args:
            x: rows in data units.
            draws: dequantisation draws per row where columns are discrete; the value is then a lower bound on a
                log-mass, and two or more draws give its standard error.
            divergence: see :func:`girsanov.ode_log_prob`.
            solver: see :func:`girsanov.ode_log_prob`.
            condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
            generator: read once for a seed; ``None`` means seed 0.
        """
        self._require_density()
        rows, seed = self.encode(x), seed_of(generator)
        options = {"divergence": divergence, "solver": solver}
        options["condition"] = self.encode_condition(condition, len(rows))
        draws = require_count("draws", draws) if rows.measure != "density" else 1
        with torch.set_grad_enabled(keeps_graph(rows.rows)):
            view = rows.view(draws, seed)
        estimates = [
            ode_log_prob(self.pair, view.x[:, j], generator=torch.Generator().manual_seed(seed), **options)
            for j in range(draws)
        ]
        found = averaged(estimates, view.log_det, rows.measure)
        if self.mixed is None:
            return found
        known = divergence is None or not divergence.probes
        return (self.mixed.exact if known else self.mixed.bound)(found, rows, self.encoding, seed)

    def difference(
        self, x: Any, c1: Condition, c2: Condition, *, samples: int = 32, generator: torch.Generator | None = None
    ) -> Estimate:
        """Estimate of ``log p(x | c1) - log p(x | c2)`` with everything random shared; bounds subtracted bound nothing.

        Args:
            x: rows in data units.
            c1: labels ``n`` or 1, one label for all rows, or ``None`` for no label.
            c2: the same.
            samples: evaluation points per row; two evaluations each.
            generator: read once for a seed; ``None`` means seed 0.
        """
        return difference(*self._contrast(x, c1, c2), samples=samples, generator=generator)

    def pointwise_information(
        self, x: Any, c: Condition, *, samples: int = 32, generator: torch.Generator | None = None
    ) -> PointwiseInformation:
        """What label ``c`` tells about each row and each dimension, in nats; arguments as :meth:`difference`."""
        pair, rows, condition, _ = self._contrast(x, c, None)
        return pointwise_information(pair, rows, condition, samples=samples, generator=generator)

    def difference_curve(
        self,
        x: Any,
        c1: Condition,
        c2: Condition,
        *,
        levels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DifferenceCurve:
        """Integrand of :meth:`difference` over log-SNR, at ``levels`` of shape ``k``."""
        return difference_curve(*self._contrast(x, c1, c2), levels=levels, generator=generator)

    def sample(
        self,
        n: int,
        *,
        steps: int = 128,
        order: int = 2,
        lmbd: float | None = None,
        condition: Any = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Draw ``n`` rows as the data had them: in their units, with their columns in their order.

        Constant and copied columns are there, discrete ones are on their lattice and in the range that the fit has
        seen, and every category is one of its levels; see :mod:`girsanov.density_model.drawing`. Of the draws, those
        beyond are moved or drawn again, which only adds to the mass of the rows that can be drawn: bounds on their
        likelihood hold for what is drawn too.

        Args:
            n: number of rows.
            steps: steps of the sampler.
            order: of a step, 1, 2 or 3; see :func:`girsanov.sample`.
            lmbd: 0 the reverse SDE, 1 the probability-flow ODE; see :func:`girsanov.sample`. Default 0, and 1 for a
                continuous flow, which is nothing but its ODE.
            condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
            generator: source of all draws; ``None`` means seed 0.

        Returns:
            A data frame where the model was fitted to named columns (a data frame, a file with a header) or to text:
            under their names, in their order, whole numbers as integers. A float64 tensor where it was fitted to an
            array, a tensor or a file without a header: ``n columns`` of tables, ``n *event_shape`` of images. Either is
            what every likelihood takes. Columns that were dropped on request are missing.
        """
        options = {"lmbd": float(self.is_flow) if lmbd is None else lmbd, "steps": steps, "order": order}

        def draw(count: int, given: Tensor | None, source: torch.Generator) -> State:
            return self.encoding.inverse(sample(self.pair, count, condition=given, generator=source, **options))

        whole = draw if self.mixed is None else self.mixed.drawing(draw, self.encoding)
        rows = draw_rows(whole, self.schema, n, condition=self.encode_condition(condition, n), generator=generator)
        return self.encoding.decode(rows)

    def score_test(
        self,
        x: Any,
        levels: Sequence[float] = LEVELS,
        *,
        condition: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> ScoreTest:
        """Stein tests of the score against held-out rows, one per noise level; see :func:`girsanov.score_test`.

        Args:
            x: rows in data units that the model was not fitted to; rows that it drew test its sampler (of a mixture,
                rows that its diffusion drew).
            levels: log-SNRs at which rows are noised and compared with the score.
            condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
            generator: read once for a seed; ``None`` means seed 0.
            **options: ``kernel``, ``diffusion`` and ``method`` of that function.

        Raises:
            InputError: for a continuous flow, which has no such score, and what that function refuses.
        """
        if self.is_flow:
            raise InputError("A continuous flow has no score at noise levels to test: fit a diffusion model")
        rows, seed = self.encode(x), seed_of(generator)
        options["condition"] = self.encode_condition(condition, len(rows))
        # copies of a row are rows of their own, which one dequantisation would make identical points
        y = self.encoding.view(rows.rows, 1, seed, keys=apart(rows.rows)).x[:, 0].detach()
        return score_test(self.pair, y, levels, generator=torch.Generator().manual_seed(seed), **options)

    def _write(self, folder: Path, card: str) -> None:
        write = storage.MODEL.write_into if folder.exists() else storage.MODEL.write
        write(folder, storage.describe(**self._parts()), storage.own_tensors(self), card=card)

    def _card(self) -> Card:
        return told.card(**self._parts())

    def _public(self) -> "DensityModel":
        return self.replace(record=told.public(self.record))

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, *, network: Any = None, process: Any = None, **download: Unpack[Download]
    ) -> "DensityModel":
        """Read what :meth:`save_pretrained` wrote, or a Hugging Face repository that holds it.

        Args:
            folder_or_hub_id: where; a folder of that name goes before a repository.
            network: of a model that was fitted with a network of one's own, that again, or what makes it.
            process: likewise its process.
            **download: ``revision``, ``token`` and more of :class:`girsanov.hub.Download`.

        Raises:
            InputError: if the folder is missing, damaged, or written by a later format, or something is to be given.
        """
        folder = storage.model_folder(folder_or_hub_id, **download)
        description, tensors = storage.MODEL.read(folder)
        with storage.MODEL.described(folder):
            model = cls(**storage.build(description, network, process))
            fill(storage.own_tensors(model), tensors)
        model.record |= storage.measured(folder)
        return model.eval()

    def _contrast(self, x: Any, c1: Condition, c2: Condition) -> tuple[ScorePair, RandomisedRows, Condition, Condition]:
        rows = self.encode(x)
        first, second = (self.encode_condition(c, len(rows)) for c in (c1, c2))
        return self.pair, rows, first, second

    def _require_density(self) -> None:
        if self.lattice is not None:
            raise InputError("This model decodes cells and has no density: use its elbo, or fit another dequantise")

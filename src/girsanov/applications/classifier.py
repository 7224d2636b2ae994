r"""Classification by a class-conditional diffusion model, with as few network evaluations as an answer needs.

Bayes' rule on the density formula (note of paper 2, sections 2.6 and 2.7):
:math:`p(c \mid x) = \mathrm{softmax}_c(\log p(c) + D_c)`, where differences of the evidence
:math:`D_c = \int w(l)\, E[g_c]\, dl` are log-likelihood ratios for :math:`w = 1`. All classes see the same levels and
noise, so that differences have little variance; classes that fall behind with confidence cost nothing more. A screen
leaves most classes out before the network is asked at all.
"""

__all__ = ["Classification", "DiffusionClassifier", "class_names"]

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from girsanov.applications.elimination import NoiseModel, looks, spending, survivors
from girsanov.applications.evidence import ClassConditional, Evidence, Levels
from girsanov.applications.level_weights import LevelWeights, explored_sizes, fit_on, fit_temperature, spectral_sizes
from girsanov.applications.screen import Screen, Screened
from girsanov.datasets.labels import label_array, label_name
from girsanov.datasets.refusals import Given
from girsanov.display import Shown, Summary, in_words
from girsanov.randomness import seed_of
from girsanov.types import InputError, State, require_count

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 64  # rows that are classified together
UNCALIBRATED_PAIRS = 8  # at the first look, where nothing is known of the noise beforehand
EXPLORE, CHECK = -1, -2  # rounds of draws that calibration has to itself


@dataclass(frozen=True, repr=False)
class Classification(Shown):
    """What was found out about each row.

    Attributes:
        index: position of the chosen class in ``classes_``, shape ``n``.
        log_odds: calibrated evidence relative to the chosen class, log-prior included, shape ``n C``; of a class that
            was eliminated, as of when it left, and of one that was never evaluated, by the screen.
        probabilities: their softmax, shape ``n C``.
        nfe: network evaluations spent, shape ``n``.
        decided: whether one class alone remained, shape ``n``; always true where no confidence was asked for.
    """

    index: Tensor
    log_odds: Tensor
    probabilities: Tensor
    nfe: Tensor
    decided: Tensor

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each row: the chosen class's position, its probability, evaluations, and whether it is decided."""
        import pandas as pd

        names = ("index", "nfe", "decided")
        found = pd.DataFrame({name: getattr(self, name).cpu().numpy() for name in names})
        found.insert(1, "probability", self.probabilities.amax(1).cpu().numpy())
        return found


class DiffusionClassifier(Shown):
    """Classify rows by which class's score denoises them best.

    Args:
        model: a fitted conditional :class:`girsanov.DensityModel`, or the :class:`girsanov.ScorePair` of any score
            ``(t, x, condition)``, whose reference lowers rounding errors and cancels in the evidence.
        classes: names of the classes, in the order of the model's labels 0, 1, ..., default the model's own; or a dict
            from names to conditions as the score knows them, each ``*c``.
        prior: probabilities of the classes, shape ``C``; default uniform.
        weights: which levels count: ``likelihood`` (Bayes' rule for an exact score), ``uniform`` (in the process's
            time), ``fitted`` (by :meth:`calibrate`) or a function of log-SNR ``k -> k``.
        samples: network evaluations per class without elimination, an even number.
        max_samples: network evaluations per class after which elimination gives up.
        screen: cheap log-scores ``rows n *e -> n C`` of encoded rows, such as a :class:`GaussianScreen`. With it,
            elimination leaves out the classes that lag too far, never the best two; :meth:`calibrate` learns how far.
        generator: read once for a seed; ``None`` means seed 0.

    Attributes:
        classes_: array of the classes; names that are whole numbers become numbers.

    Raises:
        InputError: one sentence, for what cannot work together.

    Example:
        >>> import girsanov as gv
        >>> process, means = gv.VariancePreserving(), torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
        >>> def score(t, x, c):
        ...     alpha, _ = process.marginal(t)
        ...     return alpha[:, None] * means[c] - x
        >>> classifier = DiffusionClassifier(gv.ScorePair(score, process), classes=["left", "right"])
        >>> classifier.predict(torch.tensor([[1.5, 0.3], [-2.0, 1.0]])).tolist()
        ['right', 'left']
    """

    def __init__(
        self,
        model: Any,
        *,
        classes: Sequence[Any] | Mapping[Any, Tensor] | None = None,
        prior: Tensor | None = None,
        weights: str | Callable[[Tensor], Tensor] = "likelihood",
        samples: int = 32,
        max_samples: int = 128,
        screen: Screen | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        own = getattr(model, "class_values", ()) if classes is None else ()
        names = getattr(model, "classes", ()) if classes is None else classes
        self.classes_ = np.array(own) if len(own) > 1 else class_names(names)
        count = len(self.classes_)
        conditions = torch.arange(count)
        if isinstance(classes, Mapping):
            conditions = torch.stack([torch.as_tensor(condition) for condition in classes.values()])
        if prior is not None and len(prior) != count:
            raise InputError(f"There are {count} classes: the prior needs as many entries")
        self.model = ClassConditional.of(model, conditions)
        self.weights = weights
        # two are one antithetic pair
        self.samples, self.max_samples = (
            require_count("samples", samples, 2),
            require_count("max_samples", max_samples, 2),
        )
        self.seed = seed_of(generator)
        self.screen = screen
        self._log_prior = _log_prior(prior, count)
        self._noise = NoiseModel()
        self._screened: Screened | None = None
        self._levels = None if weights == "fitted" else self._named(weights)

    def _summary(self) -> Summary:
        calibrated = "on held-out rows" if self._noise.degrees else "not yet: classifier.calibrate(x, y)"
        facts = {
            "classes": in_words(list(map(str, self.classes_))),
            "evaluations": f"{self.samples} per row and class, {self.max_samples} at most",
            "weights": in_words(self.weights if isinstance(self.weights, str) else "a function of log-SNR"),
            "screen": "" if self.screen is None else type(self.screen).__name__,
            "calibrated": calibrated,
        }
        return Summary(f"DiffusionClassifier of {len(self.classes_)} classes", facts, hint="classifier.predict(x)")

    @property
    def level_weights(self) -> LevelWeights:
        """Weights over log-SNR, temperature included.

        Raises:
            InputError: where they are to be fitted and :meth:`calibrate` was not called.
        """
        return self._known_levels().weights

    def predict(self, x: Any, *, confidence: float | None = None) -> np.ndarray:
        """The class of each row, shape ``n``.

        Args:
            x: rows as the model takes them, ``n *d``.
            confidence: eliminate classes one after the other, and with this probability or more return what unlimited
                evaluations would (where :meth:`classify` says ``decided``). Default: ``samples`` for every class. Of
                the error, a screen takes one half, for rows of the calibration rows' law, and elimination the other.

        Raises:
            InputError: for rows that do not fit, a confidence outside (0, 1), or a screen without calibration.
        """
        return self.classes_[self.classify(x, confidence=confidence).index.cpu().numpy()]

    def predict_proba(self, x: Any) -> np.ndarray:
        """Probabilities of the classes, shape ``n C``; calibrated after :meth:`calibrate`."""
        return self.classify(x).probabilities.cpu().numpy()

    def score(self, x: Any, y: Any) -> float:
        """Share of rows whose predicted class is ``y``."""
        right = self._index_of(y)
        return float((self.classify(x).index.cpu() == right).double().mean())

    def classify(self, x: Any, *, confidence: float | None = None) -> Classification:
        """:meth:`predict` with everything that was found out; arguments as there."""
        if confidence is not None and not 0.0 < confidence < 1.0:
            raise InputError(f"confidence must lie between 0 and 1; got {confidence}")
        rows, levels = self.model.encode(x), self._known_levels()
        if self.screen is not None and self._screened is None:
            raise InputError("A screen needs held-out rows to be trusted: call calibrate(x, y) first")
        parts = [self._block(rows[first : first + BLOCK], levels, confidence) for first in range(0, len(rows), BLOCK)]
        return Classification(*(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Classification)))

    def calibrate(self, x: Any, y: Any, *, samples: int = 64) -> "DiffusionClassifier":
        """Learn on held-out rows where classes differ, the weights if they are to be fitted, temperature and noise.

        Args:
            x: rows that the model was not fitted to, ``n *d``; some hundred suffice.
            y: their classes, of ``classes_``, shape ``n``.
            samples: network evaluations per row and class to explore with; the classifier's own ``samples`` follow,
                under the levels that were chosen, for temperature and noise.

        Returns:
            The classifier itself.

        Raises:
            InputError: for unknown classes, or fewer rows than classes.
        """
        rows, label = self.model.encode(x), self._index_of(y)
        if len(label) != len(rows) or len(rows) < len(self.classes_):
            raise InputError(f"Calibration needs a class for every row, and {len(self.classes_)} rows or more")
        fitted = self.weights == "fitted"
        start = self._named("likelihood" if fitted else self.weights)
        ones = Levels(LevelWeights(start.weights.edges, torch.ones_like(start.weights.values)), start.proposal)
        explored = self._everything(rows, ones, max(samples // 2, 2), EXPLORE)
        span, gaps = self.model.pair.log_snr_range, (explored.values, explored.levels)
        weights = fit_on(*gaps, label, self._log_prior, *span) if fitted else start.weights
        levels = Levels(weights, weights.proposal(*explored_sizes(*gaps, explored.density, *span)))
        checked = self._everything(rows, levels, self.samples // 2, CHECK)
        factor = fit_temperature(checked.values.mean(2), label, self._log_prior)
        self._noise = _noise(checked)
        self._levels = Levels(LevelWeights(weights.edges, factor * weights.values), levels.proposal)
        if self.screen is not None:
            winner = (factor * checked.values.mean(2) + self._log_prior.to(rows.device)).argmax(1)
            self._screened = Screened.of(self._scores(rows).cpu(), winner.cpu(), label, self._log_prior)
        return self

    def _block(self, rows: State, levels: Levels, confidence: float | None) -> Classification:
        """Classify some rows: looks at growing numbers of pairs, until every row has one class left."""
        schedule, errors = self._schedule(confidence)
        alive = torch.ones(len(rows), len(self.classes_), dtype=torch.bool, device=rows.device)
        screened = None
        if self.screen is not None and self._screened is not None and confidence is not None:
            scores = self._scores(rows)
            screened = self._screened.factor * scores
            alive = self._screened.kept(scores, 0.5 * (1.0 - confidence))
        others = (alive.sum(1) - 1).clamp_min(1)
        values = torch.zeros(*alive.shape, 0, dtype=torch.float64, device=rows.device)
        seen = torch.zeros_like(alive, dtype=torch.int64)
        for k, pairs in enumerate(schedule):
            open_ = alive.sum(1) > 1
            if not bool(open_.any()):
                break
            asked, new = alive & open_[:, None], pairs - values.shape[2]
            found = self._look(rows, open_, asked, values, levels, new, k)
            values = torch.cat([values, found.values], 2)
            seen[asked] = pairs
            if confidence is not None:
                evidence = values + self._log_prior.to(values)[:, None]
                left = survivors(evidence, found.spread, asked, self._noise, errors[k] / others)
                alive = torch.where(open_[:, None], left, alive)
        found = _summarise(values, seen, alive, self._log_prior.to(values), complete=confidence is None)
        return found if screened is None else _with_screen(found, screened + self._log_prior.to(values), seen == 0)

    def _look(
        self, rows: State, open_: Tensor, asked: Tensor, values: Tensor, levels: Levels, new: int, round_: int
    ) -> Evidence:
        """New pairs for the rows that are still open, 0 elsewhere."""
        start = values.sum(2) + (values.shape[2] + new) * self._log_prior.to(values)
        found = self.model.look(
            rows[open_], asked[open_], start[open_], levels, pairs=new, seed=self.seed, round_=round_
        )
        index = open_.nonzero().flatten()
        return Evidence(*(part.new_zeros(len(rows), *part.shape[1:]).index_copy(0, index, part) for part in found))

    def _schedule(self, confidence: float | None) -> tuple[list[int], list[float]]:
        """Numbers of pairs after which to look, and the error probability of each look."""
        if confidence is None:
            return [self.samples // 2], [0.0]
        first = 1 if self._noise.degrees > 0 else UNCALIBRATED_PAIRS
        schedule = looks(first, self.max_samples // 2)
        allowed = (1.0 - confidence) * (1.0 if self.screen is None else 0.5)
        return schedule, [allowed * share for share in spending(len(schedule))]

    def _scores(self, rows: State) -> Tensor:
        assert self.screen is not None
        scores = self.screen(rows).double()
        if scores.shape != (len(rows), len(self.classes_)) or bool(scores.isnan().any()):
            raise InputError(f"The screen must return {len(self.classes_)} numbers for every row")
        return scores

    def _everything(self, rows: State, levels: Levels, pairs: int, round_: int) -> Evidence:
        """All classes of all rows, with noise of its own for every copy of a row: what is fitted looks at it."""
        parts, position = [], torch.arange(len(rows), device=rows.device)[:, None]
        keys = torch.cat([rows.flatten(1), position.to(rows)], 1)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            alive = torch.ones(len(block), len(self.classes_), dtype=torch.bool, device=rows.device)
            start = pairs * self._log_prior.to(rows.device).expand(alive.shape)
            noise = {"seed": self.seed, "round_": round_, "keys": keys[first : first + BLOCK]}
            parts.append(self.model.look(block, alive, start, levels, pairs=pairs, **noise))
        return Evidence.joined(parts)

    def _named(self, weights: str | Callable[[Tensor], Tensor]) -> Levels:
        """Levels before anything is known of where classes differ: as the reference's own denoising noise."""
        low, high = self.model.pair.log_snr_range
        chosen = LevelWeights.of(weights, self.model.pair.process, low, high)
        return Levels(chosen, chosen.proposal(*spectral_sizes(self.model.pair.reference, low, high)))

    def _known_levels(self) -> Levels:
        if self._levels is None:
            raise InputError("Fitted weights need held-out rows: call calibrate(x, y) first")
        return self._levels

    def _index_of(self, y: Any) -> Tensor:
        position = {label_name(name): k for k, name in enumerate(self.classes_.tolist())}
        labels = label_array(y, None, Given("y", None)).tolist()
        unknown = [label for label in labels if label_name(label) not in position]
        if unknown:
            raise InputError(f"Unknown class {unknown[0]!r}: the classes are {', '.join(map(str, self.classes_))}")
        return torch.tensor([position[label_name(label)] for label in labels], dtype=torch.int64)


def _with_screen(found: Classification, evidence: Tensor, unseen: Tensor) -> Classification:
    """Log-odds of classes that were never evaluated are the screen's."""
    chosen = evidence.gather(1, found.index[:, None])
    log_odds = torch.where(unseen, evidence - chosen, found.log_odds)
    return replace(found, log_odds=log_odds, probabilities=log_odds.softmax(1))


def _summarise(values: Tensor, seen: Tensor, alive: Tensor, log_prior: Tensor, *, complete: bool) -> Classification:
    """From every pair's evidence and how many pairs each class had."""
    rows = torch.arange(len(values), device=values.device)
    used = torch.arange(values.shape[2], device=values.device) < seen[:, :, None]
    count = seen.clamp_min(1)
    mean = (values * used).sum(2) / count + log_prior
    index = torch.where(alive, mean, -torch.inf).argmax(1)
    differences = ((values - values[rows, index][:, None]) * used).sum(2) / count
    log_odds = differences + log_prior - log_prior[index][:, None]
    decided = torch.ones_like(index, dtype=torch.bool) if complete else alive.sum(1) == 1
    return Classification(index, log_odds, log_odds.softmax(1), 2 * seen.sum(1), decided)


def _noise(checked: Evidence) -> NoiseModel:
    """How noisy differences to the leader are, in every row and class but the leader's."""
    pairs = checked.values.shape[2]
    if pairs < 4:
        raise InputError("Calibration of the noise needs samples of 8 or more")
    leader = checked.values.mean(2).argmax(1)
    rows = torch.arange(len(leader), device=leader.device)
    differences = checked.values[rows, leader][:, None] - checked.values
    others = torch.ones_like(checked.spread, dtype=torch.bool)
    others[rows, leader] = False
    return NoiseModel.fit(differences.var(2)[others], checked.spread[others], pairs - 1)


def class_names(classes: Iterable[Any]) -> np.ndarray:
    """Classes as an array, names that are whole numbers as numbers.

    Raises:
        InputError: for fewer than two, or the same one twice.

    Example:
        >>> class_names(["0", "1", "2"])
        array([0, 1, 2])
    """
    names = list(classes)
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError("Two or more different classes are needed: pass classes=, or a model fitted with labels")
    if all(isinstance(name, str) and name.isdecimal() for name in names):
        names = [int(name) for name in names]
    return np.array(names)


def _log_prior(prior: Tensor | None, count: int) -> Tensor:
    weights = torch.ones(count) if prior is None else torch.as_tensor(prior)
    if not bool((weights > 0).all()):
        raise InputError("Prior probabilities must be positive: leave classes that cannot occur out")
    return (weights.double() / weights.double().sum()).log()

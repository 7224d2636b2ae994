"""What a run's measures say, in sentences with their intervals, and what to try where one of them is no good news.

A finding is made of recorded numbers by one function of :data:`FINDERS`; what to try is a line of :data:`ADVICE`, which
the finding names.
"""

__all__ = [
    "ADVICE",
    "FINDERS",
    "Evidence",
    "Finding",
    "ScoreTests",
    "advice",
    "composition",
    "conclusions",
    "findings",
    "headline",
    "shortened",
]

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from girsanov.evaluation import Difference
from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.score_test import ALPHA
from girsanov.reports.lead import Lead
from girsanov.reports.numbers import plus_minus, sensible, signs
from girsanov.reports.tables import CODECS, NAMES, Record, bits_error, differences
from girsanov.types import FEWEST

#: what to try, by the name that findings give it; in backquotes what is typed
ADVICE: dict[str, str] = {
    "longer": "Train longer: more `--time-budget`, or more `--steps`.",
    "few rows": "Rows are few: give more, or leave columns out (`--drop`), or take a smaller network (`--width`).",
    "larger": "Try a larger network (`--width`, `--blocks`), and look at the notes on how its columns were read.",
    "held-out rows": "Give more rows: a fifth of them is held out, and only those can tell the models apart.",
    "peers": "Leave out `--no-peers`: models that are quickly fitted to the same rows say what a number is worth.",
    "fine noise": "Fine noise is where rounded or repeated values show: read such columns as a lattice ("
    "`--lattice COL=STEP`), and train longer, since the finest noise is learned last.",
    "coarse noise": "Coarse noise is where the broad shape of the data shows: look at the least likely rows for "
    "outliers and units that differ, and try a larger network.",
    "sampler": "Draw with more steps (`girsanov sample --steps`), and compare the columns of samples and data below.",
    "evaluations": "Evaluate more often in each row (`--samples`): that error then falls below the rows' own.",
    "time": "Give a larger `--time-budget`: what was left out or made smaller is then whole.",
    "bridge rows": "Give more rows of both ends: distances between so few say little.",
    "bridge longer": "Train longer (`--time-budget`, `--rounds`, `--steps`), or take a larger network (`--width`).",
    "bridge start": "The closed form that training starts from may be all that these rows need; if moved rows look "
    "wrong all the same, change `--sigma` or the start (`--start mixture`).",
}

Verdict = Literal["good", "open", "bad"]

FEW = 2000  # training rows below which a network has little to learn from
SURE = 2.0  # standard errors from which a gain is one
UNFINISHED = 0.05  # of the whole gain of a training, in its last quarter
FINE = 3.0  # log-SNR from which noise is a fifth of the data's scale or less
LATE = 0.25  # of the steps: the last ones, in which a training that has converged gains nothing
PARTS = {
    "diffusion": "its diffusion",
    "start": "the closed form that its training started from",
    "mixture": "a mixture of Gaussians",
}


@dataclass(frozen=True)
class ScoreTests:
    """Both tests of one model's score; in the place of one that could not be made, why.

    Attributes:
        held_out: rows that took no part in the fit against the score.
        drawn: rows that the sampler drew against the score that it followed.
    """

    held_out: ScoreTest | str
    drawn: ScoreTest | str


@dataclass(frozen=True)
class Evidence:
    """What findings are made of.

    Attributes:
        metrics: what ``metrics.json`` holds.
        history: the lines of ``train.jsonl``.
        tests: of the score.
    """

    metrics: Record
    history: Sequence[Mapping[str, float | None]] = ()
    tests: ScoreTests | None = None

    @property
    def entry(self) -> Record:
        """The likelihood that the run is about: the bound, where it is there."""
        test: Record = self.metrics.get("test") or {}
        return test.get("elbo") or next(iter(test.values()), {})

    @property
    def training(self) -> Record:
        """How the training went."""
        return self.metrics.get("training") or {}

    def remedy(self) -> str:
        """The advice to a fit that ended behind, by how its training stopped."""
        rows = self.metrics.get("rows", {}).get("train", 0)
        if self.training.get("stopped", "") != "patience" and self.training.get("steps"):
            return "longer"
        return "few rows" if rows and rows < FEW else "larger"


@dataclass(frozen=True)
class Finding:
    """One thing that is known about a run.

    Attributes:
        text: a sentence or two, with the numbers.
        verdict: ``good``, ``bad``, or ``open`` where the numbers do not decide.
        headline: the same in a few words, where it may stand at the top.
        advice: a name of :data:`ADVICE`, or nothing.
    """

    text: str
    verdict: Verdict
    headline: str = ""
    advice: str = ""


def findings(evidence: Evidence) -> list[Finding]:
    """Everything that a run's numbers say, the most important first.

    Example:
        >>> gap = {"nats": 4.3, "low": 4.0, "high": 4.6, "rows": 200}
        >>> (found,) = findings(Evidence({"peers": {"gaussian": {"difference": gap}}}))
        >>> found.text.partition("(")[0]
        'Held-out rows are 74 times likelier than under the next best model, the Gaussian '
    """
    found = (find(evidence) for find in FINDERS.values())
    return [finding for finding in found if finding is not None]


def headline(found: Iterable[Finding]) -> str:
    """The first finding that fits in a few words."""
    return next((finding.headline for finding in found if finding.headline), "")


def advice(found: Iterable[Finding]) -> list[str]:
    """What to try because of some findings, each once."""
    return [ADVICE[name] for name in dict.fromkeys(finding.advice for finding in found) if name]


def conclusions(metrics: Record) -> list[str]:
    """What a terminal prints of a run's numbers: how the model is made up, what is found, and what to try."""
    found = findings(Evidence(metrics))
    return [
        *filter(None, [composition(metrics)]),
        *(finding.text for finding in found),
        *(sentence.replace("`", "") for sentence in advice(found)),
    ]


def composition(metrics: Record) -> str:
    """Of a mixture of a diffusion with closed forms, the weights in a sentence; else nothing.

    Example:
        >>> composition({"mixed": {"diffusion": 0.7, "mixture": 0.3}})
        'The model is a mixture, as validation rows weigh it: 70 % its diffusion and 30 % a mixture of Gaussians.'
    """
    parts = [f"{share:.0%} {PARTS[name]}".replace("%", " %") for name, share in (metrics.get("mixed") or {}).items()]
    if not parts:
        return ""
    return f"The model is a mixture, as validation rows weigh it: {', '.join(parts[:-1])} and {parts[-1]}."


def _code(evidence: Evidence) -> Finding | None:
    """Of images, how much smaller the model makes them than codecs that everybody knows."""
    entry, codecs = evidence.entry, evidence.metrics.get("codecs") or {}
    bits = entry.get("bits_per_dim")
    if not codecs or not bits or bits <= 0.0:
        return None
    margin = bits_error(entry)
    ratios = {CODECS[name]: codec["bits_per_dim"] / bits for name, codec in codecs.items()}
    compared = [_size(ratio, name) for name, ratio in ratios.items()]
    sure = "at most so many bits, " if entry["kind"] == "lower_bound" else ""
    of = f"{entry['rows']:,} held-out images" + (", ± their standard error" if margin else "")
    text = (
        f"As a lossless code these images take {plus_minus(bits, margin)} bits per dimension: {', '.join(compared)} "
        f"({of}; {sure}with an ideal entropy coder; the model itself is not counted)."
    )
    worst = min(ratios, key=ratios.__getitem__)
    headline = f"As a lossless code, {_size(ratios[worst], worst)}"
    if ratios[worst] > 1.0:
        return Finding(text, "good", headline)
    return Finding(text, "bad", headline, evidence.remedy())


def _size(ratio: float, name: str) -> str:
    shown = f"{max(ratio, 1.0 / ratio):.3g}"
    if shown == "1":
        return f"as large as {name}"
    return f"{shown} times {'smaller' if ratio > 1.0 else 'larger'} than {name}"


def _peers(evidence: Evidence) -> Finding | None:
    """The paired difference to the model that is farthest ahead, or the least behind."""
    gaps = differences(evidence.metrics)
    if not gaps:
        return _no_peers(evidence)
    name, gap = min(gaps.items(), key=lambda item: item[1].nats)
    lead = _lead(evidence, name, gap)
    if gap.low > 0.0:
        text = f"{_subject(lead)} {lead.size} than under the next best model"
        return Finding(f"{text}, the {lead.name} ({lead.sure()}).", "good", text)
    return _behind(evidence, lead, gaps) if gap.high < 0.0 else _undecided(lead)


def _lead(evidence: Evidence, name: str, gap: Difference) -> Lead:
    theirs = {NAMES.get(key, key): entry.get("kind", "") for key, entry in evidence.metrics["peers"].items()}
    dims = evidence.entry.get("event_dim") if evidence.metrics.get("codecs") else None
    return Lead(_short(name), gap, (evidence.entry.get("kind", ""), theirs[name]), dims)


def _behind(evidence: Evidence, lead: Lead, gaps: Mapping[str, Difference]) -> Finding:
    others = [_short(name) for name, gap in gaps.items() if gap.high < 0.0 and _short(name) != lead.name]
    also = f" Ahead too: {', '.join(others)}." if others else ""
    text = (
        f"{_subject(lead)} {lead.size} than under the {lead.name} fitted to the same rows ({lead.sure()}): until "
        f"this model is ahead, trust that one more.{also}"
    )
    return Finding(text, "bad", f"Behind the {lead.name}", evidence.remedy())


def _subject(lead: Lead) -> str:
    return "Held-out images take" if lead.dims else "Held-out rows are"


def _undecided(lead: Lead) -> Finding:
    needed = lead.rows_needed()
    text = (
        f"{lead.gap.rows:,} held-out rows do not tell this model from the {lead.name}, the best of the others "
        f"({lead.range()}, in nats per row); some {sensible(needed, 0.1 * needed)} would tell a difference as large as "
        "the one seen."
    )
    return Finding(text, "open", f"As good as the {lead.name}, as far as these rows tell", "held-out rows")


def _no_peers(evidence: Evidence) -> Finding | None:
    peers = evidence.metrics.get("peers")
    if peers:
        rows = evidence.entry.get("rows", 0)
        text = f"{rows} held-out rows are too few to compare models by: {FEWEST} or more give an interval."
        return Finding(text, "open", advice="held-out rows")
    if peers is None or evidence.metrics.get("failed"):
        return None
    text = "No other model was fitted to the same rows, so nothing says what the number is worth."
    return Finding(text, "open", advice="peers")


def _start(evidence: Evidence) -> Finding | None:
    """What the network has added to the closed forms that it corrects."""
    training = evidence.training
    before, after = training.get("validation_before"), training.get("validation")
    if before is None or after is None:
        return None
    if after <= before:
        text = f"Training ended no better than its start ({before:.4g} nats per row on validation rows)."
        return Finding(signs(text), "bad", advice=evidence.remedy())
    last = training.get("validation_stderr") or 0.0
    # the two bounds share their noise, so that this is no less than the error of their difference
    error = math.hypot(training.get("validation_before_stderr") or last, last)
    gain = plus_minus(after - before, error)
    ends = f"from {sensible(before, error)} to {sensible(after, error)} on validation rows"
    if after - before > SURE * error:
        return Finding(f"Training improved on its start by {gain} nats per row ({ends}).", "good")
    text = f"Training gained {gain} nats per row on its start ({ends}): less than twice its error."
    return Finding(text, "open", advice=evidence.remedy())


def _unfinished(evidence: Evidence) -> Finding | None:
    """Whether the bound was still rising when training stopped for another reason than that."""
    found = [
        (line["step"] or 0, value, line.get("validation_stderr") or 0.0)
        for line in evidence.history
        if (value := line.get("validation")) is not None
    ]
    steps = evidence.training.get("steps") or 0
    early = [line for line in found if line[0] <= (1.0 - LATE) * steps]
    if evidence.training.get("stopped", "patience") == "patience" or not early or len(found) - len(early) < 2:
        return None
    (_, first, before), (_, last, after) = found[0], found[-1]
    gain, whole, error = last - early[-1][1], last - first, math.hypot(before, after)
    if gain <= UNFINISHED * whole or whole <= SURE * error:
        return None
    text = (
        f"The bound was still rising when training stopped: its last quarter of {steps:,} steps brought "
        f"{gain / whole:.0%} of all that was gained."
    )
    return Finding(text.replace("%", " %"), "open", advice="longer")


def _score(evidence: Evidence) -> Finding | None:
    """The score against rows that took no part in the fit."""
    test = evidence.tests and evidence.tests.held_out
    if not isinstance(test, ScoreTest):
        return None
    if test.pvalue > ALPHA:
        return Finding(f"The score test finds no error of the model in {_blind(test)}.", "good")
    name = "fine noise" if test.worst.log_snr >= FINE else "coarse noise"
    text = f"The score test rejects the model: {test.n:,} held-out rows differ from it, {_where(test)}."
    return Finding(text, "bad", advice=name)


def _sampler(evidence: Evidence) -> Finding | None:
    """The model's own samples against its score."""
    test = evidence.tests and evidence.tests.drawn
    if not isinstance(test, ScoreTest):
        return None
    if test.pvalue > ALPHA:
        return Finding(f"The samples follow the score, as far as can be seen in {_blind(test)}.", "good")
    return Finding(f"{test.n:,} samples do not follow the score, {_where(test)}.", "bad", advice="sampler")


def _blind(test: ScoreTest) -> str:
    least = 5.0 / test.n
    return f"{test.n:,} rows (p = {test.pvalue:.2g} over all noise levels; effects below {least:.2g} would hardly show)"


def _where(test: ScoreTest) -> str:
    worst = test.worst
    place = (
        f"most clearly at log-SNR {worst.log_snr:g} (noise of {math.exp(-0.5 * worst.log_snr):.2g} of the data's scale"
    )
    return signs(f"{place}; p = {test.pvalue:.2g} over all levels, effect {worst.result.effect_size:.2g})")


def _evaluations(evidence: Evidence) -> Finding | None:
    """Whether the number's error comes from too few evaluations rather than too few rows."""
    entry = evidence.entry
    estimator, rows = entry.get("stderr"), entry.get("rows_stderr")
    if not estimator or not rows or estimator <= rows:
        return None
    text = (
        f"Most of the number's error is the estimator's: {sensible(estimator, estimator)} nats, beside "
        f"{sensible(rows, rows)} from the rows."
    )
    return Finding(text, "open", advice="evaluations")


def shortened(metrics: Record) -> Finding | None:
    """What a time budget has cut."""
    cut = metrics.get("shortened") or {}
    if not cut:
        return None
    text = f"Time was short: {'; '.join(f'{what}, {size}' for what, size in cut.items())}."
    return Finding(text, "open", advice="time")


def _short(name: str) -> str:
    return name.removesuffix(", full covariance")


#: every finding about a density model, in the order of a report; each is ``None`` where there is nothing to say
FINDERS: dict[str, Callable[[Evidence], Finding | None]] = {
    "code": _code,
    "peers": _peers,
    "start": _start,
    "unfinished": _unfinished,
    "score": _score,
    "sampler": _sampler,
    "evaluations": _evaluations,
    "shortened": lambda evidence: shortened(evidence.metrics),
}

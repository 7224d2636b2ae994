"""Odd inputs at every door: served as what they mean, or refused in one sentence; never NaN, never another's error."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import girsanov as gv
from girsanov.inputs import as_rows, ask
from tests.doors import DOORS, LAW, MANY, MIXTURE, ORACLE as SCORED, PROCESS, REFUSED, SCORE, SERVED, Door, X, model

EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
DETACHED = (
    "ode_log_prob",
    "distribution",
    "distribution-labels",
    "path_log_weight",
    "feynman_kac",
    "score_matching",
)  # they differentiate the score: no array will do
TAILED = (
    *("model.elbo", "model.density", "model.log_prob", "model.score_test"),
    *("compare", "certify", "denoising_curve"),
)
OF_USERS = (*TAILED, "Novelty.score")
#: a model's tails hold any finite row, what takes a user's rows reads sparse ones, PyTorch's laws take one row or none
FACES = ("distribution", "distribution-labels")
OF_NETWORKS = ("from_noise_prediction", "from_score", "from_velocity")  # which may come without rows
MEANT = {"1e200": OF_USERS, "sparse": OF_USERS, "no rows": FACES, "none": OF_NETWORKS}


def oddities(table: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Every door with every argument of its that has an odd value."""
    return [
        (name, argument, oddity)
        for name, make in DOORS.items()
        for argument in accepted(make())
        for oddity in table.get(argument, ())
    ]


def refused() -> list[tuple[str, str, str]]:
    return [case for case in oddities(REFUSED) if case[0] not in MEANT.get(case[2], ())]


def accepted(door: Door) -> set[str]:
    names = set(inspect.signature(door.call).parameters)
    return set(door.given) | ({"generator"} & names)


def numbers(result: Any) -> Iterator[np.ndarray]:
    """Everything in a result that may not be NaN or infinite; the spread of a single replicate may."""
    if isinstance(result, gv.Estimate):
        yield result.value.detach().cpu().numpy()
    elif isinstance(result, torch.Tensor | np.ndarray | float):
        yield np.asarray(torch.as_tensor(result).detach().cpu())
    elif isinstance(result, tuple | list):
        for part in result:
            yield from numbers(part)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            if "stderr" not in field.name:
                yield from numbers(getattr(result, field.name))


def changed(door: Door, table: Mapping[str, Mapping[str, Any]], argument: str, oddity: str) -> dict[str, Any]:
    return {**door.given, argument: table[argument][oddity](door.given.get(argument))}


def require_refusal(name: str, argument: str, oddity: str) -> None:
    door = DOORS[name]()
    with pytest.raises(gv.InputError) as caught:
        door.call(**changed(door, REFUSED, argument, oddity))
    sentence = str(caught.value)
    assert 10 < len(sentence) < 420, sentence
    assert "\n" not in sentence, sentence


def require_service(name: str, argument: str, oddity: str) -> None:
    door = DOORS[name]()
    plain, odd = door.call(**door.given), door.call(**changed(door, SERVED, argument, oddity))
    pairs = list(zip(numbers(plain), numbers(odd), strict=True))
    for expected, found in pairs:
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def served() -> list[tuple[str, str, str]]:
    return [case for case in oddities(SERVED) if not (case[1] == "score" and case[0] in DETACHED)]


@EXAMPLES
@given(st.data())
def test_odd_inputs_are_refused_in_one_sentence(data):
    require_refusal(*data.draw(st.sampled_from(refused())))


@EXAMPLES
@given(st.data())
def test_inputs_of_other_types_are_served_as_what_they_mean(data):
    require_service(*data.draw(st.sampled_from(served())))


@pytest.mark.slow
def test_every_odd_input_is_refused_or_served():
    failures = []
    for require, cases in ((require_refusal, refused()), (require_service, served())):
        for case in cases:
            try:
                require(*case)
            except (Exception, pytest.fail.Exception) as error:
                failures.append(f"{case}: {type(error).__name__} {str(error)[:160]!r}")
    assert not failures, "\n".join(failures)


SEEDED = [name for name, make in DOORS.items() if "generator" in inspect.signature(make().call).parameters]


@pytest.mark.parametrize("name", SEEDED)
def test_no_generator_means_seed_0(name):
    """The same draws twice, whatever the global generator has done."""
    door, found = DOORS[name](), []
    for number in (1, 2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        found.append(list(numbers(door.call(**door.given))))
        assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(gv.__all__))
def test_docstrings_say_what_no_generator_means(name):
    member = getattr(gv, name)
    methods = [value for value in vars(member).values() if callable(value)] if inspect.isclass(member) else []
    for function in (member, *methods):
        if not callable(function) or "generator:" not in (inspect.getdoc(function) or ""):
            continue
        line = next(line for line in inspect.getdoc(function).splitlines() if "generator:" in line)
        assert "None" in line or "see " in line, f"{function.__qualname__}: {line}"


WIDE = {
    "elbo": lambda x: gv.elbo(gv.ScorePair(SCORED, PROCESS), x),
    "prior": lambda x: gv.elbo(gv.ScorePair(SCORE, PROCESS, prior=LAW), x),
    "density": lambda x: gv.density(gv.ScorePair(SCORE, PROCESS, reference=LAW), x),
    "ode": lambda x: gv.ode_log_prob(gv.ScorePair(SCORED, PROCESS), x),
    "chain": lambda x: gv.chain_elbo(gv.ScorePair(SCORED, PROCESS, event_shape=(2,)), x, steps=4),
    "law": lambda x: LAW.log_prob(x),
    "mixture": lambda x: MIXTURE.log_prob(x),
    "model": lambda x: model().elbo(x),
    "score": lambda x: gv.elbo(gv.ScorePair(lambda t, x: x @ torch.eye(2).double(), PROCESS), x),
}


@pytest.mark.parametrize("call", WIDE.values(), ids=WIDE)
def test_rows_of_another_width_are_refused(call):
    with pytest.raises(gv.InputError, match=r"shape|columns"):
        call(torch.zeros(3, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: gv.elbo(gv.ScorePair(PROCESS, SCORED), X),
        lambda: gv.elbo(X, gv.ScorePair(SCORED, PROCESS)),
        lambda: gv.elbo(gv.ScorePair(lambda x, t: -x / (1.0 + t), PROCESS), X),
        lambda: gv.elbo(gv.ScorePair(lambda x, t: -x, PROCESS), X),
        lambda: gv.sample(gv.ScorePair(lambda x, t: -x, PROCESS, event_shape=(2,)), 3),
        lambda: gv.goodness_of_fit(lambda x: -x, MANY),
        lambda: gv.chain_elbo(X, gv.ScorePair(SCORED, PROCESS), steps=4),
        lambda: gv.score_test(gv.ScorePair(PROCESS, SCORED), MANY),
    ],
)
def test_swapped_arguments_are_told_from_right_ones(call):
    with pytest.raises(gv.InputError):
        call()


@pytest.mark.parametrize("silence", [lambda x: x.detach(), lambda x: torch.tensor(x.detach().numpy())])
def test_a_score_outside_the_graph_is_refused_where_its_derivative_counts(silence):
    """A divergence of zero in its place would be a wrong number."""
    for name in DETACHED:
        door = DOORS[name]()
        score = (lambda x: -silence(x)) if name == "score_matching" else (lambda t, x, *_: -silence(x))
        given = {"pair": gv.ScorePair(score, PROCESS, event_shape=(2,))} if "pair" in door.given else {"score": score}
        with pytest.raises(gv.InputError, match="do not follow its rows in PyTorch's graph"):
            door.call(**(door.given | given))


def test_a_constant_score_needs_no_graph():
    """Its divergence is zero indeed: the exponential's, here on both sides of the loss."""
    loss = gv.stein.score_matching(X, lambda x: torch.ones(x.shape, dtype=x.dtype))
    torch.testing.assert_close(loss.rows, torch.ones(3, dtype=torch.float64))


def test_what_a_failing_score_says_is_passed_on():
    def score(t, x):
        raise ValueError("the checkpoint is for 3 channels\nnot 2")

    with pytest.raises(gv.InputError, match=r"fails when it is called as score\(t, x\) .*3 channels not 2$") as caught:
        gv.elbo(gv.ScorePair(score, PROCESS), X)
    assert isinstance(caught.value.__cause__, ValueError)
    out_of_memory = torch.cuda.OutOfMemoryError("no memory")

    def large(t, x):
        raise out_of_memory

    with pytest.raises(torch.cuda.OutOfMemoryError):
        ask(large, torch.zeros(3), X)


def test_rows_keep_their_gradients_and_their_type():
    x = X.float().requires_grad_()
    assert as_rows(x) is x
    assert as_rows(np.zeros((2, 2), dtype=np.float32)).dtype == torch.float32
    assert as_rows(pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}).astype(object)).dtype == torch.float64
    with pytest.raises(gv.InputError, match=r"x\[1\] has missing"):
        as_rows(np.ma.masked_array([[1, 2], [3, 4]], mask=[[0, 0], [0, 1]]))
    with pytest.raises(gv.InputError, match=r"as large as 1e\+30, whose squares overflow in torch.float32"):
        as_rows(torch.full((1, 2), 1e30))

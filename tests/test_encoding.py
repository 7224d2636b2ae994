"""The encoding: raw and encoded rows are not taken for each other, the way back leads home, noise is keyed or fresh."""

import numpy as np
import pandas as pd
import pytest
import torch

from girsanov.datasets import Data, from_array
from girsanov.densities import Gaussian
from girsanov.encoding import Encoding
from girsanov.likelihoods import RandomisedRows, ode_log_prob
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.transforms import Dequantise, OnLattice, Standardise, TruncatedNormalDequantise
from girsanov.types import InputError
from tests.seeds import seeded


def mixed(n=80):
    """A discrete, a continuous and a constant column."""
    generator = seeded(1)
    dice = torch.randint(6, (n,), generator=generator).double()
    return torch.stack([dice, torch.randn(n, generator=generator, dtype=torch.float64), torch.full((n,), 3.0)], 1)


def encoded(x, kind=Dequantise, **options):
    """The encoding of a table, standardised."""
    data = from_array(x)
    found = Encoding(data.schema)
    if data.schema.discrete:
        found = found.then(kind(data.schema.event_shape, data.schema.bin_width, data.schema.offset, **options))
    return found.then(Standardise.fit(data.x)), data


def test_encoded_rows_stay_as_they_are_and_bare_tensors_are_raw():
    encoding, data = encoded(mixed())
    rows = encoding.encode(mixed())
    assert isinstance(rows, RandomisedRows)
    assert torch.equal(rows.rows, data.x)
    assert encoding.encode(rows) is rows
    assert torch.equal(encoding.encode(data).rows, data.x)
    lines = encoding.encode(np.asarray(mixed()[:4])).rows
    assert lines.shape == (4, 2)
    with pytest.raises(InputError, match="has 2 columns"):  # a tensor by itself has the user's columns, or is refused
        encoding.encode(lines)


def test_rows_for_bounds_are_no_rows_of_an_ode():
    process = VariancePreserving()
    pair = ScorePair(Gaussian(torch.zeros(3).double(), 1.0).score(process))
    with pytest.raises(InputError, match=r"ode_log_prob takes plain rows, .* such as model\.log_prob\(x\)$"):
        ode_log_prob(pair, encoded(mixed())[0].encode(mixed()))


def test_rows_of_another_encoding_are_refused():
    (first, _), (second, _) = encoded(mixed()), encoded(mixed())
    with pytest.raises(InputError, match="encoded for another model"):
        second.encode(first.encode(mixed()))


def test_data_of_another_schema_are_encoded_again():
    encoding, _ = encoded(mixed())
    few = mixed()[mixed()[:, 0] < 3.0]
    data = from_array(few)
    assert data.schema.rules != encoding.schema.rules
    assert torch.equal(encoding.encode(data).rows, few[:, :2])


@pytest.mark.parametrize("kind", [Dequantise, TruncatedNormalDequantise])
def test_the_way_back_leads_to_what_was_given(kind):
    encoding, _ = encoded(mixed(), kind)
    view = encoding.encode(mixed()).view(3, seed=4)
    for j in range(3):
        back = encoding.decode(encoding.inverse(view.x[:, j]))
        torch.testing.assert_close(back, mixed(), rtol=0, atol=1e-12)
        assert torch.equal(back[:, [0, 2]], mixed()[:, [0, 2]])


def test_text_comes_back_as_a_frame():
    frame = pd.DataFrame({"colour": ["red", "green", "blue"] * 8, "size": np.linspace(0.0, 1.0, 24) ** 2})
    data = from_array(frame, categorical=True)
    encoding = Encoding(data.schema, [Dequantise(data.schema.event_shape, data.schema.bin_width, data.schema.offset)])
    pd.testing.assert_frame_equal(encoding.decode(encoding.encode(frame).rows), frame, check_dtype=False)


def test_named_columns_come_back_as_a_frame_and_whole_numbers_as_integers():
    """A lattice of whole numbers, a constant, a copy, a sum and one of halves; arrays come back as tensors."""
    dice = np.arange(60) % 6
    week = np.arange(60) // 7
    columns = {"dice": dice, "one": np.ones(60, dtype=int), "twice": 2 * dice, "half": dice[::-1] / 2, "week": week}
    frame = pd.DataFrame(columns | {"sum": dice + week, "x": np.linspace(0.0, 1.0, 60) ** 2})
    encoding = Encoding(from_array(frame).schema)
    back = encoding.decode(encoding.encode(frame).rows)
    pd.testing.assert_frame_equal(back, frame, rtol=1e-12)
    unnamed = Encoding(from_array(frame.to_numpy()).schema)
    assert torch.equal(unnamed.decode(unnamed.encode(frame).rows), torch.tensor(frame.to_numpy()))
    named = Encoding(from_array(frame.to_numpy(), names=tuple(frame)).schema)
    assert list(named.decode(named.encode(frame).rows)) == list(frame)


@pytest.mark.parametrize(
    ("columns", "measure"), [([0, 1], "mixed"), ([0], "mass"), ([1], "density")], ids=["mixed", "mass", "density"]
)
def test_the_measure_says_which_columns_are_dequantised(columns, measure):
    encoding, _ = encoded(mixed()[:, columns])
    rows = encoding.encode(mixed()[:, columns])
    assert encoding.measure == rows.measure == measure
    assert encoding.draws == (measure != "density")


def test_keyed_noise_is_the_rows_own_and_fresh_noise_the_copys():
    encoding, data = encoded(mixed())
    alone, together = (encoding.encode(mixed()[:n]).view(2, seed=7).x[:1] for n in (1, 80))
    assert torch.equal(alone, together)
    twice = torch.cat([data.x[:1], data.x[:1]])
    keyed = encoding.view(twice, 1, 7).x
    fresh, _ = encoding.spread(twice, seeded(2), copies=1)
    assert torch.equal(keyed[0], keyed[1])
    assert not torch.equal(fresh[0], fresh[1])
    assert not torch.equal(encoding.view(twice, 1, 7, purpose="another").x, keyed)


def test_continuous_rows_are_transformed_once():
    encoding, data = encoded(mixed()[:, [1]])
    view = encoding.view(data.x, 5, 0)
    assert view.x.stride(1) == 0
    assert len(encoding.spread(data.x, seeded(0), copies=4)[0]) == len(data.x)


def test_another_dequantiser_takes_the_place_of_the_first():
    encoding, data = encoded(mixed()[:, [0]])
    points = OnLattice((1,), data.schema.bin_width, data.schema.offset, count=6)
    found = encoding.with_dequantiser(points)
    assert found.dequantiser is points
    assert [type(member).__name__ for member in found.transforms.members] == ["OnLattice", "Standardise"]
    assert not found.draws
    assert isinstance(encoding.dequantiser, Dequantise)


def test_gradients_reach_the_rows():
    encoding, _ = encoded(mixed()[:, [1]])
    x = mixed()[:5, [1]].requires_grad_()
    encoding.encode(x).view(1, seed=0).x.sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all())


def test_data_are_rows_of_their_schema():
    encoding, data = encoded(mixed())
    with pytest.raises(InputError, match="lattice"):
        encoding.encode(Data(data.x + 0.25, None, None, from_array(mixed() + 0.25).schema, "shifted", None))

"""A section of a process is the process, given its state at the section's start."""

import pytest
import torch

from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck, Section, VarianceExploding, VariancePreserving
from girsanov.types import InputError

pytestmark = pytest.mark.usefixtures("float64")

WHOLE = {
    "BrownianMotion": lambda: BrownianMotion(sigma=1.5),
    "OrnsteinUhlenbeck": lambda: OrnsteinUhlenbeck(beta=2.0),
    "VarianceExploding": lambda: VarianceExploding(sigma_min=0.1, sigma_max=3.0),
    "VariancePreserving": lambda: VariancePreserving(beta_min=0.1, beta_max=3.0),
}
each_whole = pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)


@each_whole
def test_two_sections_compose_to_the_process(make):
    whole = make()
    first, second = Section(whole, 0.0, 0.4), Section(whole, 0.4, 1.0)
    one = torch.tensor(1.0)
    (a1, s1), (a2, s2), (a, s) = first.marginal(one), second.marginal(one), whole.marginal(one)
    torch.testing.assert_close(a2 * a1, a, rtol=1e-12, atol=0.0)
    torch.testing.assert_close((a2 * s1).square() + s2.square(), s.square(), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.2)])
def test_times_out_of_order_are_refused(begin, end):
    with pytest.raises(InputError, match="0 <= begin < end <= 1"):
        Section(BrownianMotion(), begin, end)

"""Networks in everybody's convention, and what their records claim."""

import pytest
import torch

import girsanov as gv
from benchmarks._page import load
from benchmarks.networks._conventions import FAMILIES, STATED, Trained, network, networks, of_sigma
from benchmarks.networks.conventions import COMMON, OTHERS, adapted
from benchmarks.networks.wrong_conventions import wrong
from tests.adapters.conventional import law, parts
from tests.seeds import seeded

LAW = law(2)


def test_the_grid_has_each_networks_own_convention_once():
    for stated in STATED.values():
        found = list(networks(stated.family))
        assert len(set(found)) == len(found)
        assert len(list(wrong(stated))) == len(found) - 1
    assert sum(len(list(wrong(stated))) for stated in STATED.values()) >= 200


@pytest.mark.parametrize("family", ["sigma", "flow"])
def test_all_conventions_of_a_law_are_that_law(family):
    """The same noise comes back from every network that returns it, whatever it is told and shown."""
    sigma = torch.tensor([0.3, 2.0]).double()
    alpha, scale = of_sigma(sigma)
    z, share = LAW.sample(2, generator=seeded(1)) * alpha[:, None], 1.0 / (1.0 + sigma)
    told = {"sigma": sigma, "log sigma": sigma.log(), "log-SNR": -2.0 * sigma.log(), "sigma^2": sigma.square()}
    told |= {"t": share, "1 - t": 1.0 - share, "1000 t": 1000.0 * share}
    sizes = {"preserving": torch.ones(2), "exploding": 1.0 / alpha, "straight": 1.0 / (alpha + scale)}
    for clock in told.keys() & FAMILIES[family].clocks.keys():
        for shown in FAMILIES[family].shown:
            net, rows = network(LAW, family, "noise", clock, 1, shown), z * sizes[shown][:, None]
            found = net(told[clock], rows) if FAMILIES[family].time_first else net(rows, told[clock])
            torch.testing.assert_close(found, parts(LAW, alpha, scale, z)["noise"])


def test_all_adapters_give_one_networks_bound():
    torch.manual_seed(0)
    net, x = Trained(2, width=8), LAW.sample(4, generator=seeded(2))
    given = {"check": LAW.sample(64, generator=seeded(3)), "reference": LAW.moment_match()}
    values = {}
    for name in [*STATED, *(name for name in OTHERS if "diffusers" not in name)]:
        pair = adapted(name, net, **(given | {"check": None})).replace(log_snr_range=COMMON)
        values[name] = gv.elbo(pair, x, samples=16).value
    first = next(iter(values.values()))
    for name, value in values.items():
        torch.testing.assert_close(value, first, rtol=0.0, atol=1e-9, msg=name)


def rows_of(name):
    return (load(f"networks-{name}") or {"rows": []})["rows"]


def test_no_face_costs_more_than_its_network():
    assert all(row["ratio"] <= 1.1 for row in rows_of("overheads"))


def test_all_conventions_gave_one_likelihood():
    for row in rows_of("conventions"):
        assert row["elbo_nats"] < 1e-6
        assert abs(row.get("elbo_errors", 0.0)) < 4.0  # of noise of its own, the largest of thirty
        assert row.get("ode_errors", 0.0) < 3.0


def test_all_conventions_that_move_a_likelihood_were_refused():
    for row in rows_of("wrong-conventions"):
        assert row["moving"]["not as they should be"] == []
        assert row["right"]["not as they should be"] == []

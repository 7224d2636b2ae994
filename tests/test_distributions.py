"""PyTorch's face: one law on both sides, its gradients, and the places where PyTorch's and zuko's own objects go."""

import math
import warnings
from functools import cache

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    TransformedDistribution,
    kl_divergence,
)

import girsanov as gv
from girsanov.calculus import Hutchinson
from girsanov.densities import Gaussian
from girsanov.solvers import Adaptive, FixedGrid
from tests.laws import gaussian_case, mixture_case, note_mixture_2d
from tests.seeds import seed, seeded

LOOSE, FINE = Adaptive(1e-3, 1e-3), Adaptive(1e-6, 1e-6)
FINEST = Adaptive(1e-8, 1e-8)  # adaptive steps control the error of states, not that of their derivatives
SMALL = gv.networks.MLPConfig(width=8, blocks=1)


def of(law):
    """The pair whose ODE has this law."""
    process = gv.VariancePreserving(log_snr_range=(-8.0, 10.0))
    return gv.ScorePair(law.score(process), prior=law.diffused(*process.marginal_at(torch.tensor(-8.0).double())))


def exact(case):
    return of(case.density)


def overlapping():
    """A mixture of two components that share most of their mass."""
    law = gv.GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[-0.7, 0.0], [0.7, 0.4]]), torch.full((2, 2), 0.6))
    return law, of(law)


def exact_mixture():
    return overlapping()[1]


def conditional(scale=1.0):
    """A Gaussian about its condition, ``N((c, 2c), diag(0.5, 2))`` for numbers c, whose score knows nothing else."""
    process, law = gv.StraightPath(), Gaussian(torch.zeros(2).double(), torch.tensor([0.5, 2.0]).double())
    score = law.score(process)

    def of(t, x, condition):
        alpha, _ = process.marginal(t)
        return scale * score(t, x - alpha[:, None] * condition.reshape(-1, 1) * torch.tensor([1.0, 2.0]))

    return gv.ScorePair(of, process, event_shape=(2,))


def wrong():
    """A score of no law: the ODE's density is its own."""
    process, score = gv.VariancePreserving(), note_mixture_2d().density.score(gv.VariancePreserving())
    prior = Gaussian(torch.tensor([0.2, 0.0]), 0.9)
    return gv.ScorePair(lambda t, x: 0.9 * score(t, x) + 0.2, process, prior=prior)


@cache
def table(**settings):
    """A model of two columns of very different location and scale, hardly trained."""
    x = torch.randn(80, 2, generator=seeded(2)) @ torch.tensor([[30.0, 5.0], [0.0, 0.5]]) + torch.tensor([500.0, 3.0])
    return gv.fit(x, config=gv.Config(steps=3, network=SMALL, flow=False, **settings))


def pushed_forward(p, noise):
    """Log-density of transported noise ``n d`` by the Jacobian of the map."""
    noise = noise.requires_grad_()
    x = p.transport(noise)
    rows = [torch.autograd.grad(column.sum(), noise, retain_graph=True)[0] for column in x.unbind(1)]
    return x.detach(), p.pair.prior.log_prob(noise.detach()) - torch.linalg.slogdet(torch.stack(rows, 1).double())[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make_case", [lambda: gaussian_case((5,)), lambda: mixture_case((1, 2, 2))])
def test_densities_are_those_of_the_law(make_case):
    case = make_case()
    p = gv.distribution(exact(case), solver=FINE)
    x = case.rows(6).reshape(2, 3, *case.shape)
    assert p.event_shape == case.shape
    assert p.batch_shape == ()
    torch.testing.assert_close(p.log_prob(x), case.log_prob(x.flatten(0, 1)).reshape(2, 3), atol=1e-4, rtol=0.0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make_case", [lambda: gaussian_case((5,)), lambda: mixture_case((2, 2))])
def test_draws_have_the_laws_moments(make_case):
    case, n = make_case(), 1000
    rows = gv.distribution(exact(case), solver=LOOSE).sample((n,)).flatten(1)
    mean, covariance = case.moments()
    centred = rows - mean
    products = centred[:, :, None] * centred[:, None, :]
    for found, expected in ((rows, mean), (products, covariance)):
        z = (found.mean(0) - expected) / (found.std(0) / math.sqrt(n))
        assert float(z.abs().max()) < 5.0  # of 30 at most: false alarm 2e-5


@pytest.mark.usefixtures("float64")
def test_densities_of_own_draws_integrate_to_one():
    """E_p[q/p] = 1 for a component q of the mixture p, where q/p is at most its inverse weight."""
    (law, pair), n = overlapping(), 512
    p = gv.distribution(pair, solver=LOOSE)
    x = p.sample((n,))
    ratio = (Gaussian(law.means[1], 0.6).log_prob(x) - p.log_prob(x)).exp()
    assert float(ratio.max()) < 1.05 / 0.6
    assert abs(float(ratio.mean()) - 1.0) < 4.5 * float(ratio.std()) / math.sqrt(n)


@pytest.mark.parametrize(("make", "solver"), [(exact_mixture, FINEST), (wrong, FixedGrid(48))])
@pytest.mark.usefixtures("float64")
def test_draws_and_densities_are_of_one_law(make, solver):
    """The change of variables along the sampler's own map is the density: of a wrong score too."""
    p = gv.distribution(make(), solver=solver)
    x, expected = pushed_forward(p, p.noise((4,)))
    torch.testing.assert_close(p.log_prob(x), expected, atol=2e-4, rtol=0.0)


@pytest.mark.usefixtures("float64")
def test_a_range_that_ends_early_has_its_step_undone():
    law = note_mixture_2d().density.score(gv.VariancePreserving())
    pair = gv.ScorePair(lambda t, x: law(t, x), gv.VariancePreserving(), event_shape=(2,), log_snr_range=(-7.0, 15.0))
    assert pair.endless
    p = gv.distribution(pair, solver=FINEST)
    x, expected = pushed_forward(p, p.noise((4,)))
    torch.testing.assert_close(p.log_prob(x), expected, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("settings", [{"gaussianise": False}, {"gaussianise": True}])
def test_a_fitted_table_is_a_law_in_data_units(settings):
    model = table(mixed=False, **settings)
    p = gv.distribution(model, solver=FixedGrid(16))
    x, expected = pushed_forward(p, p.noise((3,)))
    assert x.dtype == torch.float64
    assert float((x[:, 0] - 500.0).abs().max()) < 500.0  # in the columns' own units
    found = p.log_prob(x)
    torch.testing.assert_close(found, model.log_prob(x, solver=FixedGrid(16)).value)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0.0)  # the network is in float32


def test_a_mixture_is_drawn_part_by_part():
    model, n = table(gaussianise=False), 200
    p = gv.distribution(model, solver=FixedGrid(4))
    assert model.mixed is not None
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match=r"model\.diffusion"):
        p.rsample()
    x = p.sample((n,))
    torch.testing.assert_close(p.log_prob(x[:5]), model.log_prob(x[:5], solver=FixedGrid(4)).value)
    # E_p[q/p] = 1 for the start's own component, as above
    q = gv.distribution(model.diffusion, solver=FixedGrid(4)).log_prob(x)
    ratio = (q - p.log_prob(x)).exp()
    assert abs(float(ratio.mean()) - 1.0) < 4.5 * float(ratio.std()) / math.sqrt(n)
    with pytest.raises(gv.InputError, match="exact divergence"):
        gv.distribution(model, divergence=Hutchinson(1))


@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_finite_differences():
    x, z = torch.randn(1, 2, 2, generator=seeded(1)).requires_grad_(), torch.randn(2, 2, generator=seeded(2))
    c = torch.tensor([0.5, -1.0], requires_grad=True)

    def density(x, c):
        return gv.distribution(conditional(), c, solver=FixedGrid(3)).log_prob(x)

    def map_(z, c):
        return gv.distribution(conditional(), c, solver=FixedGrid(3)).transport(z)

    assert torch.autograd.gradcheck(density, (x, c))
    assert torch.autograd.gradcheck(map_, (z.requires_grad_(), c))
    both, alone = density(x, c).sum(), density(x.detach(), c).sum()  # where only the condition asks, too
    torch.testing.assert_close(*(torch.autograd.grad(value, c)[0] for value in (both, alone)))
    # and with steps of its own for every row
    p = gv.distribution(exact(note_mixture_2d()))
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    torch.testing.assert_close(
        gradient.flatten(0, 1), note_mixture_2d().score(x.flatten(0, 1), 1.0, 0.0), atol=1e-3, rtol=1e-3
    )


@pytest.mark.usefixtures("float64")
def test_gradients_of_the_models_parameters_are_kept_where_asked_for():
    scale, x = torch.tensor(0.8, requires_grad=True), torch.randn(2, 2, generator=seeded(1))

    def laws(scale, differentiable=True):
        return gv.distribution(conditional(scale), 0.5, solver=FixedGrid(3), differentiable=differentiable)

    def draws(scale):
        torch.manual_seed(seed(3))
        return laws(scale).rsample((2,))

    assert torch.autograd.gradcheck(lambda scale: laws(scale).log_prob(x), (scale,))
    assert torch.autograd.gradcheck(draws, (scale,))
    assert not laws(scale).sample().requires_grad
    assert not laws(scale, False).rsample().requires_grad
    assert not laws(scale, False).log_prob(x).requires_grad


def test_conditions_are_the_batch():
    pair, numbers = conditional(), torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    one, many = gv.distribution(pair, 1.0, solver=LOOSE), gv.distribution(pair, numbers, solver=LOOSE)
    square = gv.distribution(pair, torch.arange(6.0).double(), batch_shape=(2, 3), solver=LOOSE)
    assert (one.batch_shape, many.batch_shape, square.batch_shape) == ((), (3,), (2, 3))
    assert gv.distribution(pair, numbers[:1]).batch_shape == (1,)  # the last of a loader's batches
    assert gv.distribution(pair, numbers[:1], batch_shape=()).batch_shape == ()
    assert square.sample((4,)).shape == (4, 2, 3, 2)
    x = torch.randn(5, 3, 2, generator=seeded(1)).double()
    found = many.log_prob(x)
    assert found.shape == (5, 3)
    torch.testing.assert_close(found[:, 1], one.log_prob(x[:, 1]))
    assert square.log_prob(x[0]).shape == (2, 3)
    torch.testing.assert_close(square.log_prob(x[0])[0, 1], one.log_prob(x[0, 1]))
    wide = many.expand((2, 3))
    assert (wide.batch_shape, wide.event_shape, wide.sample().shape) == ((2, 3), (2,), (2, 3, 2))
    torch.testing.assert_close(wide.log_prob(x[:2]), found[:2])
    n = 300
    means = many.sample((n,)).mean(0)
    z = (means - numbers[:, None] * torch.tensor([1.0, 2.0])) / (torch.tensor([0.5, 2.0]) / n).sqrt()
    assert float(z.abs().max()) < 4.5
    with pytest.raises(gv.InputError, match="do not fill"):
        gv.distribution(pair, numbers, batch_shape=(2,))
    with pytest.raises(gv.InputError, match="do not fit the batch"):
        many.log_prob(x[:, :2])


def test_labels_are_those_of_the_fit():
    x, labels = torch.randn(60, 2, generator=seeded(4)), ["a", "b", "c"] * 20
    data = gv.datasets.from_array(x.numpy(), labels=labels)
    model = gv.fit(data, config=gv.Config(steps=2, network=SMALL, flow=False, conditional=True, mixed=False))
    p = gv.distribution(model, ["b", "a"], solver=FixedGrid(4))
    assert (p.batch_shape, gv.distribution(model, "a").batch_shape) == ((2,), ())
    assert p.sample((3,)).shape == (3, 2, 2)
    expected = model.log_prob(x[:2], condition=["b", "a"], solver=FixedGrid(4)).value
    torch.testing.assert_close(p.log_prob(x[:2]), expected)
    with pytest.raises(gv.InputError, match="Unknown class"):
        gv.distribution(model, "d")


def test_numbers_that_a_fit_was_conditioned_on_have_gradients():
    x, labels = torch.randn(60, 2, generator=seeded(4)), torch.randn(60, 2, generator=seeded(5)).double()
    config = gv.Config(steps=1, network=SMALL, flow=False, conditional=True, mixed=False)
    model = gv.fit(x, labels=labels, config=config)
    with torch.no_grad():  # untrained it is its reference, whatever the condition
        for parameter in model.score.network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=seeded(6))
    given = labels[:3].requires_grad_()
    p = gv.distribution(model, given, solver=FixedGrid(4))
    assert (p.batch_shape, gv.distribution(model, labels[0].detach()).batch_shape) == ((3,), ())
    for value in (p.rsample(), p.log_prob(x[:3])):
        (gradient,) = torch.autograd.grad(value.sum(), given)
        assert bool((gradient.abs() > 0.0).any(1).all())


def test_the_global_seed_reproduces_draws():
    p = gv.distribution(exact(note_mixture_2d()), solver=FixedGrid(4))
    found = []
    for draw in (p.sample, p.rsample, lambda shape: p.transport(p.noise(shape))):
        torch.manual_seed(7)
        found.append(draw((300,)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], p.sample((300,)))


def test_shapes_dtypes_and_refusals_are_pytorchs(monkeypatch):
    p = gv.distribution(exact(note_mixture_2d()), solver=FixedGrid(4))
    assert p.sample().shape == (2,)
    assert p.sample((0, 3)).shape == (0, 3, 2)
    assert p.transport(p.noise((2,))[:0]).shape == (0, 2)
    assert p.log_prob(torch.zeros(2)).shape == ()
    assert p.log_prob(torch.zeros(0, 2)).shape == (0,)
    assert p.log_prob(torch.zeros(3, 2)).dtype == torch.float64
    assert p.support.check(torch.zeros(4, 2)).shape == (4,)
    assert p.expand((4, 1)).expand((4, 3)).log_prob(torch.zeros(2)).shape == (4, 3)
    plain = gv.ScorePair(lambda t, x: -x, gv.VariancePreserving(), event_shape=(3,))
    single = gv.distribution(plain, solver=FixedGrid(4))
    assert single.sample().dtype == single.log_prob(single.sample()).dtype == torch.float32
    assert single.log_prob(torch.zeros(3).double()).dtype == torch.float64
    for unknown in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError):
            getattr(p, unknown)
    with pytest.raises(NotImplementedError):
        p.entropy()
    x = torch.zeros(3, 2)
    x[1, 0] = math.nan
    for bad in (x, torch.zeros(3), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"missing|event shape"):
            p.log_prob(bad)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # as importing zuko does
    with pytest.raises(gv.InputError, match="missing"):
        gv.distribution(exact(note_mixture_2d())).log_prob(x)
    lax = gv.distribution(exact(note_mixture_2d()), solver=FixedGrid(4), validate_args=False)
    assert lax.log_prob(x).isnan().tolist() == [False, True, False]
    assert lax.expand((1,)).log_prob(x).isnan().tolist() == [False, True, False]
    with pytest.raises(gv.InputError, match="event_shape"):
        gv.distribution(gv.ScorePair(lambda t, x: -x, gv.VariancePreserving()))
    with pytest.raises(gv.InputError, match="make one of the score"):
        gv.distribution(lambda t, x: -x)


def test_models_without_a_density_on_their_columns_are_refused():
    x = torch.randn(60, 2, generator=seeded(5)).double()
    rows = torch.stack([x[:, 0], x[:, 1].round(), 0.0 * x[:, 0] + 4.0, x[:, 0]], 1)
    model = gv.fit(rows, config=gv.Config(steps=1, network=SMALL, flow=False, mixed=False))
    with pytest.raises(gv.InputError, match="'x3', 'x4', 'x2'; leave them out"):
        gv.distribution(model)
    assert gv.distribution(model.pair, solver=FixedGrid(4)).sample().shape == model.pair.event_shape


def test_a_range_that_does_not_resolve_a_row_is_said():
    process = gv.VariancePreserving(log_snr_range=(-9.0, 1.0))
    p = gv.distribution(gv.ScorePair(note_mixture_2d().density.score(process)), solver=LOOSE)
    with pytest.warns(UserWarning, match="need a score that is known for log-SNR"):
        p.log_prob(torch.ones(1, 2))


@pytest.mark.parametrize("given", [None, 3.0])
def test_the_face_costs_no_evaluations(given):
    spent = []

    def score(t, x, *condition):
        spent.append(len(x))
        return -x if not condition else condition[0].reshape(-1, 1) - x

    pair = gv.ScorePair(score, gv.VariancePreserving(), event_shape=(2,))
    solver, x = FixedGrid(8), torch.randn(64, 2, generator=seeded(1))

    def evaluations(call):
        spent.clear()
        call()
        return sum(spent)

    p = gv.distribution(pair, given, solver=solver)
    condition = None if given is None else torch.tensor([given])
    plain = evaluations(lambda: gv.ode_log_prob(pair, x, solver=solver, condition=condition))
    assert evaluations(lambda: p.log_prob(x)) == plain
    assert evaluations(lambda: p.expand((5,)).log_prob(x[:, None])) == plain  # what is only repeated is not evaluated
    for n in (1, 64, 300):
        assert evaluations(lambda n=n: p.sample((n,))) <= 1.1 * n * 4 * solver.steps


@pytest.mark.usefixtures("float64")
def test_it_goes_where_pytorchs_own_go():
    case = gaussian_case((2,))
    p, twin = gv.distribution(exact(case), solver=FINE), MultivariateNormal(case.means[0], case.covariances[0])
    x = case.rows(4)
    assert Independent(p.expand((3,)), 1).log_prob(x[:3]).shape == ()
    shift = [AffineTransform(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]), event_dim=1)]
    ours, theirs = TransformedDistribution(p, shift), TransformedDistribution(twin, shift)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), atol=1e-4, rtol=0.0)
    assert ours.rsample((3,)).shape == (3, 2)
    # a mixture over conditions
    weights, numbers = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 2.0])
    mixture = MixtureSameFamily(Categorical(weights), gv.distribution(conditional(), numbers, solver=FINE))
    parts = [MultivariateNormal(c * torch.tensor([1.0, 2.0]), torch.diag(torch.tensor([0.5, 2.0]))) for c in numbers]
    expected = torch.stack([part.log_prob(x) for part in parts], 1) + weights.log()
    torch.testing.assert_close(mixture.log_prob(x), expected.logsumexp(1), atol=1e-4, rtol=0.0)
    assert mixture.sample((5,)).shape == (5, 2)


@pytest.mark.usefixtures("float64")
def test_divergences_are_those_of_monte_carlo():
    case, n = gaussian_case((2,)), 500
    p, twin = gv.distribution(exact(case), solver=LOOSE), MultivariateNormal(case.means[0], case.covariances[0])
    q = MultivariateNormal(torch.zeros(2), 2.0 * torch.eye(2))
    with pytest.raises(NotImplementedError):  # as PyTorch says where no closed form is registered
        kl_divergence(p, q)
    x = p.sample((n,))
    gain = p.log_prob(x) - q.log_prob(x)
    assert abs(float(gain.mean() - kl_divergence(twin, q))) < 4.5 * float(gain.std()) / math.sqrt(n) + 1e-4


@pytest.mark.usefixtures("float64")
def test_a_variational_parameter_is_fitted_through_draws():
    """Which condition c makes N((c, 2c), D) nearest to a Gaussian: the reverse divergence is quadratic in it."""
    target = MultivariateNormal(torch.tensor([1.5, 1.0]), torch.diag(torch.tensor([0.5, 2.0])))
    c, n = torch.zeros((), requires_grad=True), 128
    optimizer, direction = torch.optim.SGD([c], lr=0.25), torch.tensor([1.0, 2.0])
    for _ in range(4):
        optimizer.zero_grad()
        torch.manual_seed(seed(6))
        q = gv.distribution(conditional(), c, solver=FixedGrid(16))
        (-target.log_prob(q.rsample((n,)))).mean().backward()  # the entropy does not depend on c
        optimizer.step()
    precision = torch.tensor([2.0, 0.5])
    best = float((direction * precision * target.mean).sum() / (direction.square() * precision).sum())
    spread = 1.0 / math.sqrt(n * float((direction.square() * precision).sum()))
    assert abs(float(c.detach()) - best) < 4.5 * spread + 0.02


@pytest.mark.usefixtures("float64")
def test_it_goes_into_zukos_flows():
    zuko = pytest.importorskip("zuko")
    case = gaussian_case((2,))
    p, twin = gv.distribution(exact(case), solver=FINE), MultivariateNormal(case.means[0], case.covariances[0])
    flow = zuko.flows.MAF(2, transforms=1, hidden_features=(8,))
    transform, x = flow().transform, case.rows(4)
    ours, theirs = (zuko.distributions.NormalizingFlow(transform, base) for base in (p, twin))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), atol=1e-4, rtol=0.0)
    assert ours.rsample((5,)).shape == (5, 2)
    whole = zuko.flows.Flow(flow.transform, zuko.lazy.UnconditionalDistribution(lambda: p))
    torch.testing.assert_close(whole().log_prob(x), ours.log_prob(x))
    both = zuko.distributions.Joint(p, twin)
    torch.testing.assert_close(both.log_prob(torch.cat([x, x], 1)), 2.0 * twin.log_prob(x), atol=1e-4, rtol=0.0)


@pytest.mark.usefixtures("float64")
def test_it_is_a_law_of_a_pyro_model():
    """Pyro calls its own distributions alone: ``Independent`` of none of the dimensions makes one of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever pyro says about what it imports
        pyro = pytest.importorskip("pyro")
    law, pair = overlapping()
    p = pyro.distributions.Independent(gv.distribution(pair), 0)

    def model():
        x = pyro.sample("x", p)
        return pyro.sample("y", pyro.distributions.Normal(x, 1.0).to_event(1), obs=torch.zeros(2))

    found = pyro.poutine.trace(model).get_trace()
    x = found.nodes["x"]["value"]
    noise = torch.distributions.Normal(x, 1.0).log_prob(torch.zeros(2)).sum()
    torch.testing.assert_close(found.log_prob_sum(), law.log_prob(x[None])[0] + noise, atol=1e-3, rtol=0.0)
    (gradient,) = torch.autograd.grad(p.log_prob(x.requires_grad_()), x)
    assert bool((gradient != 0.0).all())

"""The scikit-learn estimator: every common check, pipelines, grid search."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from girsanov import DensityEstimator
from tests.seeds import rng

TINY = {"max_steps": 5, "width": 16, "blocks": 1, "samples": 8}
ROWS = rng(0).normal(size=(120, 3)) @ np.diag([1.0, 5.0, 0.1])


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([DensityEstimator(**TINY)])
def test_scikit_learns_common_checks(estimator, check):
    check(estimator)


def test_it_works_in_a_pipeline_and_counts_the_units_of_what_it_sees():
    """Two fits of a few steps differ by some tenths of a nat, the units by ten nats."""
    rows = ROWS * [1.0, 100.0, 1000.0]
    pipeline = make_pipeline(StandardScaler(), DensityEstimator(**TINY)).fit(rows)
    plain = DensityEstimator(**TINY).fit(rows)
    scale = np.log(pipeline[0].scale_).sum()
    assert scale > 9.0
    assert abs(np.mean(pipeline.score_samples(rows) - scale - plain.score_samples(rows))) < 1.0


def test_grid_search_compares_mean_scores():
    search = GridSearchCV(DensityEstimator(**TINY), {"width": [8, 16]}, cv=2).fit(ROWS)
    assert search.best_params_["width"] in (8, 16)
    scores = search.best_estimator_.score_samples(ROWS)
    assert search.best_estimator_.score(ROWS) == pytest.approx(scores.mean())


def test_samples_come_in_the_units_of_the_rows():
    x = DensityEstimator(**TINY).fit(ROWS).sample(500, random_state=1)
    assert x.shape == (500, 3)
    np.testing.assert_allclose(x.std(0), ROWS.std(0), rtol=0.35)


def test_columns_without_a_density_are_named():
    x = rng().normal(size=(60, 2))
    estimator = DensityEstimator(max_steps=2, width=8, blocks=1)
    for column, sentence in [
        (np.ones(60), r"X: column 'x3' is constant \(always 1.0\), so it has no density; leave it out"),
        (x.sum(1), "X: column 'x3' is 'x1' \\+ 'x2', so the columns have no joint density; leave it out"),
        (x[:, 0] + 1e16, "column 'x3' varies by about .* subtract an offset"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            estimator.fit(np.c_[x, column])
    with pytest.raises(ValueError, match=r"column 'x1' is constant .* leave it out, and x2 too"):
        estimator.fit(np.c_[np.ones((60, 2)), x])

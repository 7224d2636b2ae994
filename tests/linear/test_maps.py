"""Laws of every linear map per row, against its own columns as dense matrices."""

import pytest
import torch

import girsanov as gv
from girsanov.linear import ValueMap, map_of
from tests.linear.registry import MAPS, SHAPE, N, draw
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

each_map = pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)


def rows(seed=1):
    return torch.randn(N, *SHAPE, generator=seeded(seed))


def matrices(scale):
    """The matrix of every row, ``n d d``, column by column."""
    units = torch.eye(6).reshape(6, 1, *SHAPE).expand(6, N, *SHAPE)
    return torch.stack([scale.times(unit).flatten(1) for unit in units], 2)


@each_map
@pytest.mark.parametrize("factor", [None, 0.3])
def test_a_map_is_an_invertible_matrix(make, factor):
    scale = make() if factor is None else make().stretched(factor)
    dense, e = matrices(scale), rows()
    torch.testing.assert_close(scale.times(e).flatten(1), (dense @ e.flatten(1)[:, :, None])[:, :, 0])
    torch.testing.assert_close(scale.solve(scale.times(e)), e)
    torch.testing.assert_close(scale.log_det(e), torch.linalg.slogdet(dense).logabsdet)
    if factor is not None:
        torch.testing.assert_close(dense, factor * matrices(make()))


@each_map
def test_its_transpose_its_square_and_its_dense_form_are_those_of_the_matrix(make):
    scale, x = make(), rows()
    dense = matrices(scale)
    torch.testing.assert_close(scale.dense(x), dense)
    torch.testing.assert_close(matrices(scale.transpose()), dense.mT)
    assert scale.columns(x) == 6
    if isinstance(scale, ValueMap):
        torch.testing.assert_close(matrices(scale.squared()), dense @ dense.mT)
        torch.testing.assert_close(scale.rows(slice(2, 4)).dense(x[2:4]), dense[2:4])


def test_a_matrix_need_not_be_square():
    x, wide = rows(), map_of(draw(N, 6, 8), rows())
    e, v = torch.randn(N, 8, generator=seeded(2)), x.flatten(1)
    assert wide.columns(x) == 8
    torch.testing.assert_close((wide.times(e) * v).sum(1), (e * wide.transpose().times(v)).sum(1))
    torch.testing.assert_close(wide.squared().times(x).flatten(1), wide.times(wide.transpose().times(x)))


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 6), (4,), (5, 6, 2, 3)])
def test_a_tensor_of_another_shape_is_refused(shape):
    with pytest.raises(gv.InputError, match=r"diffusion\(t, x\) must have shape \(5,\), \(5, 2, 3\) or \(5, 6, r\)"):
        map_of(torch.ones(shape), rows())

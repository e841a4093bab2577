"""Products of a whole minibatch: rows times a matrix, and sums of outer products in the order of the tree over shards."""

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.model.products import outer_means, outer_sums, row_products, shards_of
from dfc_numba.support import threads
from dfc_numba.support.summation import tree_sum

TOLERANCE = {"float64": 1e-13, "float32": 1e-5}
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@each_dtype
@pytest.mark.parametrize("count, inputs, outputs", [(1, 1, 1), (7, 5, 3), (128, 40, 65), (50, 100, 33)])
def test_rows_times_a_matrix(dtype, count, inputs, outputs):
    rows, matrix = normal(count, inputs, dtype=dtype), normal(outputs, inputs, dtype=dtype, seed=1)
    found = row_products(rows, matrix)
    assert found.dtype == dtype and found.shape == (count, outputs) and found.flags.c_contiguous
    np.testing.assert_allclose(found, rows @ matrix.T, atol=TOLERANCE[dtype] * inputs)
    assert np.array_equal(found[-4:], row_products(rows[-4:], matrix)), "a row depends on no other"


@each_dtype
@pytest.mark.parametrize("count", [1, 16, 17, 60, 128, 300])
def test_outer_products_are_summed_up_in_the_order_of_the_tree(dtype, count):
    post, pre = ([normal(count, n, dtype=dtype, seed=n) for n in sizes] for sizes in ((70, 3), (33, 70)))
    shards = threads.shards(count)
    sums = outer_sums(post, pre, shards, np.dtype(dtype))
    for p, q, found in zip(post, pre, sums, strict=True):
        parts = [outer_sums([p[f : f + n]], [q[f : f + n]], [(0, n)], np.dtype(dtype))[0] for f, n in shards]
        np.testing.assert_allclose(found, p.T.astype(float) @ q, atol=TOLERANCE[dtype] * count)
        assert np.array_equal(found, tree_sum(parts))


def test_means_have_the_same_bits_for_any_number_of_threads():
    net = dfc.Network.create([40, 300, 200, 10], seed=0)
    post, pre = [normal(200, n) for n in net.sizes[1:]], [normal(200, n) for n in net.sizes[:-1]]
    expected = outer_means(net, post, pre, 200)
    for count in (1, 2, 5):
        with dfc.limit_threads(count):
            found = outer_means(net, post, pre, 200)
        assert all(
            np.array_equal(a, b) for kind in (0, 1) for a, b in zip(found[kind], expected[kind], strict=True)
        )
    np.testing.assert_allclose(expected[0][1], post[1].T @ pre[1] / 200, atol=1e-12)


def test_a_network_without_biases_gets_none():
    net = dfc.Network.create([4, 3, 2], bias=False, seed=0)
    post, pre = [normal(5, 3), normal(5, 2)], [normal(5, 4), normal(5, 3)]
    assert outer_means(net, post, pre, 5)[1] is None


def test_shards_follow_from_batch_and_weights_alone():
    narrow, wide = (dfc.Network.create([784, n, n, n, 10], seed=0, dtype="float32") for n in (256, 1024))
    assert len(shards_of(narrow, 128)) == 8 and len(shards_of(wide, 128)) == 4

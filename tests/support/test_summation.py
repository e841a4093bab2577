"""Sums in the order of a binary tree over shards: its shape, parts that others own, several threads."""

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.support import threads
from dfc_numba.support.summation import TreeSum, sum_rows, tree_sum

NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 31, 32, 33]


def values(number, length=5):
    """Numbers of very different sizes, whose sums depend on the order."""
    rng = np.random.default_rng(number)
    return list(rng.standard_normal((number, length)) * 10.0 ** rng.integers(-8, 8, (number, length)))


def in_pairs(parts):
    """The sum as it is defined: neighbours are added up, level by level; what is left over moves up as it is."""
    parts = [part.copy() for part in parts]
    while len(parts) > 1:
        parts = [np.sum(parts[i : i + 2], axis=0) for i in range(0, len(parts), 2)]
    return parts[0]


def test_the_tree_of_seven():
    a, b, c, d, e, f, g = values(7)
    expected = ((a + b) + (c + d)) + ((e + f) + g)
    assert np.array_equal(tree_sum(values(7)), expected)
    assert not np.array_equal(expected, np.cumsum(values(7), axis=0)[-1])


@pytest.mark.parametrize("number", NUMBERS)
def test_the_order_of_arrival_does_not_matter(number):
    expected = in_pairs(values(number))
    assert np.array_equal(tree_sum(values(number)), expected)
    for seed in range(5):
        tree, parts = TreeSum(number), values(number)
        for shard in np.random.default_rng(seed).permutation(number):
            tree.put(int(shard), parts[shard])
        assert np.array_equal(tree.total, expected)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("owners", [2, 3, 4])
def test_owners_of_ranges_pass_on_their_nodes(number, owners):
    """Few of them, from which the sum is the same."""
    ends, collected = [number * k // owners for k in range(owners + 1)], TreeSum(number)
    for first, end in zip(ends[:-1], ends[1:], strict=True):
        tree, parts = TreeSum(number), values(number)
        for shard in range(first, end):
            tree.put(shard, parts[shard])
        assert len(tree.nodes) <= 2 * number.bit_length()
        for (level, place), value in tree.nodes.items():
            collected.put(place, value, level)
    assert np.array_equal(collected.total, in_pairs(values(number)))


def test_arrays_that_are_free_again_are_given_back():
    """At most one per level stays where shards arrive in their order."""
    freed, parts = [], values(16)
    tree = TreeSum(16, release=freed.append)
    for shard, part in enumerate(parts):
        tree.put(shard, part)
        assert shard + 1 - len(freed) <= 5
    assert len(freed) == 15 and tree.total is parts[0]


def test_a_sum_that_lacks_shards_is_refused():
    tree = TreeSum(3)
    tree.put(0, 1.0)
    tree.put(2, 3.0)
    with pytest.raises(ValueError, match=r"over 3 shards is incomplete"):
        _ = tree.total


def test_threads_put_in_what_they_have():
    expected = in_pairs(values(200, 1000))
    for _ in range(5):
        tree, parts = TreeSum(200), values(200, 1000)
        with dfc.limit_threads(8):
            threads.run(200, lambda shard: tree.put(shard, parts[shard]), work=1e12)
        assert np.array_equal(tree.total, expected)


def test_rows_are_summed_up_shard_by_shard():
    rows, shards = np.array(values(10)), [(0, 3), (3, 3), (6, 4)]
    expected = (rows[:3].sum(axis=0) + rows[3:6].sum(axis=0)) + rows[6:].sum(axis=0)
    assert np.array_equal(sum_rows(rows, shards), expected)

"""Sums over the shards of a minibatch in a fixed order: the same bits for any number of threads, and of processes.

The order is a binary tree over the numbers of the shards, a function of how many there are alone. Node (level, k) is the
sum over the shards k 2^level .. (k + 1) 2^level - 1, as far as they exist; it is its two children one level below, added up,
or its first child if the second one has no shards. Seven shards are ((0 + 1) + (2 + 3)) + ((4 + 5) + 6).

Whoever has a contiguous range of shards can add up the nodes that lie in it, and pass on those alone: `TreeSum.nodes`
gives them, at most two per level, and `TreeSum.put` takes them.
"""

import threading


class TreeSum:
    """The sum over `number` shards, put in one after the other in any order and from any thread.

    Two sums are added up, in place, as soon as both are there. So beside those under way there are as many at a time as nodes
    are needed to cover the shards done: two per level at most if the shards are a range.

    Args:
        number: of shards. release: called with an array that has been added to another one and is free again.
    """

    def __init__(self, number, release=None):
        self._number, self._release = number, release
        self._nodes, self._lock = {}, threading.Lock()

    def put(self, shard, value, level=0):
        """Add the sum of one shard, or of node (level, shard): an array, which may be changed from now on, or a number."""
        place = shard
        while place > 0 or 1 << level < self._number:
            if place % 2 or (place + 1) << level < self._number:  # it has a sibling
                with self._lock:
                    sibling = self._nodes.pop((level, place ^ 1), None)
                    if sibling is None:
                        self._nodes[level, place] = value
                        return
                left, right = (sibling, value) if place % 2 else (value, sibling)
                left += right
                if self._release is not None:
                    self._release(right)
                value = left
            level, place = level + 1, place // 2
        with self._lock:
            self._nodes[level, 0] = value

    @property
    def nodes(self):
        """The sums so far, by (level, place)."""
        return dict(self._nodes)

    @property
    def total(self):
        """The sum over all shards; ValueError if some are missing."""
        root = (max(0, self._number - 1).bit_length(), 0)
        if root not in self._nodes:
            raise ValueError(
                f"the sum over {self._number} shards is incomplete; it has the nodes {sorted(self._nodes)}"
            )
        return self._nodes[root]


def tree_sum(values):
    """Return the sum of numbers, or of arrays that may be changed, in the order of the tree."""
    values = list(values)
    tree = TreeSum(len(values))
    for place, value in enumerate(values):
        tree.put(place, value)
    return tree.total


def sum_rows(array, shards):
    """Return the sum over the rows of an array (B, n) in the order of its shards, (first, count) each: (n,)."""
    return tree_sum(array[first : first + count].sum(axis=0) for first, count in shards)

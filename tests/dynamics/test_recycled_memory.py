"""Memory of records that is used again: never while someone holds it, and without a trace of what was in it."""

import gc

import numpy as np
import problems
import pytest

import dfc_numba as dfc
from dfc_numba.support import memory
from dfc_numba.support.memory import LARGE_PAGE, Recycled, in_large_pages, uninitialised


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_no_view_of_it_is_left():
    recycled = Recycled(10**6)
    with recycled:
        array = uninitialised(100, "float32")
    place, view = address(array), array.reshape(10, 10)[2:].T
    del array
    with recycled:
        other = uninitialised(100, "float32")
    assert address(other) != place and other.shape == (100,) and other.dtype == np.float32
    del view
    gc.collect()
    with recycled:
        assert address(uninitialised(50, "float64")) == place


def test_no_more_is_kept_than_allowed():
    recycled = Recycled(1000)
    with recycled:
        arrays = [uninitialised(count, "uint8") for count in (2000, 600, 600)]
    del arrays
    assert sum(size * len(blocks) for size, blocks in recycled._free.items()) == 600


def test_outside_of_the_block_memory_is_fresh():
    recycled = Recycled(10**6)
    with recycled:
        uninitialised(100, "float64")
    assert uninitialised(100, "float64").base is None


@pytest.mark.parametrize("every", [1, 7, 1000])
@pytest.mark.parametrize("options", [{}, {"k_p": 1e9}], ids=["stable", "diverging"])
def test_a_simulation_fills_every_place_of_what_it_records(monkeypatch, every, options):
    network = dfc.Network(**problems.stable_parameters([5, 7, 6, 3]))
    x = problems.inputs(20, 5)
    target = network.predict(x) + 0.1 * problems.inputs(20, 3)
    controller = dfc.Controller(**{"dt": 0.05, "steps": 40, "alpha": 0.01, "k_p": 0.5, **options})
    record = dfc.Record(samples=(3, 19), every=every)

    def recorded(fill):
        monkeypatch.setattr(memory, "uninitialised", lambda length, dtype: np.full(length, fill, dtype))
        with np.errstate(all="ignore"):
            found = dfc.simulate(network, x, target, controller, record=record)
        return [found.u, found.u_int, found.e, found.error, *found.v, *found.v_ff, *found.v_fb, *found.r]

    for ours, theirs in zip(recorded(7.25), recorded(-3.5), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)


def test_memory_in_large_pages_is_used_again():
    """Without a system call, once the array and all its views are gone."""
    first = in_large_pages(300_000, np.float64)
    view, place = first[5:10], first.ctypes.data
    assert place % LARGE_PAGE == 0
    del first
    second = in_large_pages(300_000, np.float64)
    assert second.ctypes.data != place, "the view is in use"
    del view
    third = in_large_pages(300_000, np.float32)
    assert third.ctypes.data == place and third.dtype == np.float32 and third.flags.writeable


def test_little_of_the_memory_in_large_pages_is_kept():
    for _ in range(30):
        arrays = [in_large_pages(1_000_000, np.float64) for _ in range(3)]
        del arrays
    kept = sum(size * len(blocks) for size, blocks in memory._large_blocks._free.items())
    assert 0 < kept <= memory.KEPT_BYTES

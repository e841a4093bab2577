"""The memory plan: every piece of a simulation's memory is its own, inside the memory, and begins at a whole register."""

from itertools import product

import numpy as np
import pytest

from dfc_numba.kernels.emit import lanes
from dfc_numba.kernels.layout import layout
from dfc_numba.kernels.memory_plan import EACH, NOTHING, SHARED, Needs, plan_of_shard, plan_online

SIZES = [(3, 2), (5, 40, 17, 4), (2, 3, 4, 5, 6, 70)]
FULL = Needs(True, EACH, EACH, EACH, EACH, True, True, True, True, True, True, True)
LEAN = Needs(False, SHARED, SHARED, NOTHING, NOTHING, False, False, False, False, False, False, False)
SIGNALS = ("u", "u_int", "u_filtered", "u_slow", "error", "output")


def pieces_of_shard(plan, needs):
    """{name: (start, length)} of what a shard keeps."""
    places, found = plan.places, {}
    slots = {"rate": plan.slots, "factor": plan.slots, "v": 1, "constants": 3}
    slots |= {"seen": plan.slots} if needs.presynaptic else {}
    slots |= {"factor_of_feedback": plan.block} if needs.feedback else {}
    slots |= {"reference": 3} if needs.reference else {}
    slots |= {name: 1 for name in ("basal", "apical", "drive", "noise") if getattr(needs, name) == EACH}
    for layer in plan.layers[1:]:
        size = places.count * layer.stride
        found |= {(name, layer.number): (layer[name], times * size) for name, times in slots.items()}
    shared = [name for name in ("basal", "apical", "drive") if getattr(needs, name) == SHARED]
    widest = places.count * plan.layers.stride[1:].max()
    found |= {name: (plan.layers[name][1], widest) for name in shared}
    found["sent"] = places.sent, places.count * places.stride
    if needs.feedback:
        found["signal"] = places.signal, plan.block * places.count * places.stride
    found |= {
        name: (getattr(places, name), widest)
        for name, kept in (("draw", needs.draws), ("scratch", needs.scratch))
        if kept
    }
    return found


def assert_separate(pieces, total):
    """The pieces fill the memory one after the other."""
    ends = sorted(pieces.values())
    assert [start for start, _ in ends] == [0, *np.cumsum([length for _, length in ends])[:-1]]
    assert sum(length for _, length in ends) == total


@pytest.mark.parametrize(
    "needs", [FULL, LEAN, FULL._replace(drive=NOTHING), LEAN._replace(drive=SHARED, draws=True)]
)
@pytest.mark.parametrize("sizes, count", list(product(SIZES, (1, 5, 16))))
def test_a_shard_keeps_what_it_needs_and_no_more(sizes, count, needs):
    for dtype in ("float32", "float64"):
        plan = plan_of_shard(sizes, dtype, needs, count)
        pieces = pieces_of_shard(plan, needs)
        assert_separate(pieces, plan.length)
        assert all(start % lanes(dtype) == 0 for start, _ in pieces.values())
        signals = [getattr(plan.places, name) for name in SIGNALS]
        assert signals == [k * count * sizes[-1] for k in range(6)] and plan.signals >= 6 * count * sizes[-1]


@pytest.mark.parametrize("sizes", SIZES)
def test_layers_know_the_one_below(sizes):
    layers = plan_of_shard(sizes, "float64", FULL, 4).layers
    for below, layer in zip(layers[1:-1], layers[2:], strict=True):
        assert (layer.below, layer.seen_below, layer.below_stride) == (below.rate, below.seen, below.stride)
        assert layer.inputs == below.units and layer.below_slot == below.slot == 4 * below.stride
    lean = plan_of_shard(sizes, "float64", LEAN, 4).layers
    assert np.array_equal(lean.seen, lean.rate) and np.array_equal(lean.drive, lean.apical)


@pytest.mark.parametrize("jacobian, presynaptic", list(product((False, True), (False, True))))
@pytest.mark.parametrize("sizes, count", list(product(SIZES, (1, 5))))
def test_online_everything_has_its_own_memory(sizes, count, jacobian, presynaptic):
    layers, places, length, signals = plan_online(layout(sizes, "float64"), count, jacobian, presynaptic)
    widest = count * layers.stride[1:].max()
    pieces = {name: (getattr(places, name), widest) for name in ("total", "scratch", "draw")}
    for layer in layers[1:]:
        i, size = layer.number, count * layer.stride
        above = sizes[i + 1] if jacobian and i + 1 < len(sizes) else 0
        lengths = {"weights": layer.inputs, "biases": 1, "feedback": sizes[-1], "transposed": above}
        pieces |= {(name, i): (layer[name], layer.stride * times) for name, times in lengths.items() if times}
        kept = {
            "v_ff": 1,
            "difference": 1,
            "apical": 1,
            "noise": 1,
            "rate": 2,
            "factor": 1,
            "factor_of_feedback": 1,
        }
        kept |= {"drive": 1} if jacobian else {}
        kept |= {"seen": 2} if presynaptic else {}
        pieces |= {(name, i): (layer[name], times * size) for name, times in kept.items()}
    if not jacobian:
        pieces["drive"] = layers.drive[1], widest
    for name in ("rate", "seen")[: 1 + presynaptic]:
        pieces[name, 0] = layers[name][0], 2 * count * sizes[0]
    first, row = count * layers.stride[1], count * places.stride
    pieces |= {
        "held": (places.held, first),
        "last_factor": (places.last_factor, first),
        "watch": (places.watch, places.widest),
    }
    pieces |= {"signal": (places.signal, 2 * row), "sent": (places.sent, row)}
    assert_separate(pieces, length)
    assert signals == 6 * count * sizes[-1] + 48

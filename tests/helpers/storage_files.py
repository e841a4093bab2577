"""Records of small problems, and files and run directories with them; for the tests of storage."""

from dataclasses import replace

import numpy as np
from problems import inputs, parameters
from simulations import NOISY, SIZES

import dfc_numba as dfc
from dfc_numba.storage.writer import TrajectoryWriter

EVERYTHING = dfc.Record(variables=["u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r", "noise"])
SIMPLE = ("time", "step", "u", "u_int", "e", "error", "samples", "converged", "diverged")
LAYERED = ("v", "v_ff", "v_fb", "r", "noise")


def network(seed=0, **options):
    """The small network."""
    return dfc.Network(**parameters(SIZES, seed, **options))


def record(
    number, *, count=5, net=None, phase="forward", noise=None, keep=EVERYTHING, dtype=np.float64, **facts
):
    """(recipe, trajectory, update) of the minibatch `number`, which has inputs of its own."""
    net = network(dtype=dtype) if net is None else net
    x = inputs(count, SIZES[0], seed=number).astype(net.dtype)
    target = net.predict(x, dtype="float64") + 0.1
    controller = dfc.Controller(**NOISY)
    indices = np.arange(count) + 100 * number
    noise = dfc.NoiseKey(7, number, indices) if noise is None else noise
    trajectory = dfc.simulate(net, x, target, controller, noise=noise, record=keep)
    update = dfc.forward_update(net, x, target, controller, noise=noise)
    facts = {
        "epoch": 1,
        "minibatch": number + 1,
        "labels": target + 1.0,
        "update": {"readout": "average"},
        **facts,
    }
    recipe = replace(trajectory.recipe, phase=phase, number=number, indices=indices, **facts)
    return recipe, replace(trajectory, recipe=recipe), update


def write(path, records, **options):
    """A file with these records; returns them."""
    with TrajectoryWriter(path, **options) as writer:
        for one in records:
            writer.append(*one)
    return records


def assert_same_trajectory(found, expected):
    """All variables have the same bits and types."""
    for name in SIMPLE:
        assert_same(getattr(found, name), getattr(expected, name), name)
    for name in LAYERED:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        for a, b in zip(ours or [], theirs or [], strict=True):
            assert_same(a, b, name)


def assert_same_recipe(found, expected):
    """All that a replay needs is the same."""
    assert repr(found.network) == repr(expected.network)
    for kind in ("weights", "biases", "feedback"):
        for a, b in zip(
            getattr(found.network, kind) or [], getattr(expected.network, kind) or [], strict=True
        ):
            assert_same(a, b, kind)
    for name in ("x", "target", "labels", "indices"):
        assert_same(getattr(found, name), getattr(expected, name), name)
    for name in ("controller", "phase", "epoch", "minibatch", "number", "update"):
        assert getattr(found, name) == getattr(expected, name), name
    assert_same_noise(found.noise, expected.noise)


def assert_same_noise(found, expected):
    if isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, "noise")
    elif expected is None:
        assert found is None
    else:
        assert (found.seed, found.minibatch) == (expected.seed, expected.minibatch)
        assert_same(found.samples, expected.samples, "samples")


def assert_same(found, expected, name):
    if expected is None:
        assert found is None, name
    else:
        assert found.dtype == expected.dtype and found.shape == expected.shape, name
        assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"), name


def overwrite(path, change):
    """Change the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))


def flip(path, array, offset=5):
    """Flip a byte of an array of numbers, where the file stores it."""

    def change(content):
        place = content.index(np.ascontiguousarray(array).tobytes()) + offset
        return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]

    overwrite(path, change)

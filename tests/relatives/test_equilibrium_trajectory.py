"""Trajectories of equilibrium propagation: what is recorded, in files, replayed, drawn."""

from dataclasses import replace

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.display import plots
from dfc_numba.relatives.equilibrium_propagation import (
    EquilibriumPropagation,
    equilibrium_update,
    free_phase,
    nudged_phase,
)
from dfc_numba.relatives.equilibrium_trajectory import (
    EquilibriumTrajectory,
    recorded_equilibrium_update,
    simulate_equilibrium,
)
from dfc_numba.storage import replay as replaying
from dfc_numba.storage.reader import open_trajectories

FORMS = {
    "prototypical": {"sides": 2, "tolerance": 1e-3},
    "separate": {"backward": "separate", "loss": "cross_entropy"},
    "hopfield": {"form": "hopfield", "nonlinearity": "sigmoid", "dt": 0.5, "sides": 2},
    "gaussian": {"form": "gaussian", "dt": 0.5},
}


def problem(name="prototypical", dtype="float64"):
    net = dfc.Network.create([5, 4, 6, 3], seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    options = EquilibriumPropagation(free_steps=12, nudged_steps=5, **FORMS[name])
    if options.backward == "separate":
        net = net.sharing(backward=[0.3 * rng.standard_normal(shape) for shape in ((4, 6), (6, 3))])
    return net, rng.standard_normal((20, 5)), np.eye(3)[rng.integers(0, 3, 20)], options


@pytest.mark.parametrize("name", FORMS)
def test_the_states_are_those_of_both_phases_one_after_the_other(name):
    net, x, y, options = problem(name)
    found = simulate_equilibrium(net, x, y, options)
    assert len(found.time) == options.time_points == options.free_points + 5
    assert np.allclose(np.diff(found.time), options.gain)
    free = free_phase(net, x, options)
    end = options.free_points - 1
    for s, state in zip(found.s, free.states, strict=True):
        assert np.array_equal(s[end], state)
    nudged = nudged_phase(net, x, y, free, options)
    for s, state, moved in zip(found.s, free.states, nudged.deviations, strict=True):
        assert np.allclose(s[-1], state + moved, rtol=1e-14)
    assert (found.s_minus is None) == (options.sides == 1)
    if options.sides == 2:
        away = nudged_phase(net, x, y, free, options, beta=-options.beta)
        assert np.allclose(found.s_minus[-1][-1], free.states[-1] + away.deviations[-1], rtol=1e-14)
        assert np.array_equal(found.s_minus[0][: end + 1], found.s[0][: end + 1])
    assert not found.diverged.any()


def test_a_sample_does_not_depend_on_those_beside_it_and_stays_where_it_has_settled():
    net, x, y, options = problem()
    whole = simulate_equilibrium(net, x, y, options)
    assert 0 < whole.converged.sum() < 20
    part = simulate_equilibrium(
        net, x, y, options, record=dfc.Record(variables=("s",), samples=(17, 3), every=2)
    )
    assert part.s_minus is None and list(part.samples) == [17, 3] and list(part.step) == list(range(0, 18, 2))
    for one, other in zip(part.s, whole.s, strict=True):
        assert np.array_equal(one, other[::2, [17, 3]])
    settled = np.flatnonzero(whole.converged)[0]
    steps = free_phase(net, x, options).steps[settled]
    assert all((s[steps:13, settled] == s[12, settled]).all() for s in whole.s)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FORMS)
def test_a_recorded_update_has_the_same_bits(name, dtype):
    net, x, y, options = problem(name, dtype)
    plain = equilibrium_update(net, x, y, options)
    noted = recorded_equilibrium_update(net, x, y, options, record=dfc.Record(samples=(0, 19)) if options.sides == 2 else
                                        dfc.Record(variables=("s",), samples=(0, 19)))  # fmt: skip
    for kind in ("weights", "biases", "backward"):
        pairs = zip(getattr(plain, kind) or [], getattr(noted, kind) or [], strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert noted.trajectory.s[0].shape == (options.time_points, 2, 4)


def test_a_trajectory_comes_back_from_its_file_with_its_recipe(tmp_path):
    net, x, y, options = problem("separate")
    made = simulate_equilibrium(net, x, y, options)
    made.save(tmp_path / "a.h5")
    back = EquilibriumTrajectory.load(tmp_path / "a.h5")
    assert back.recipe.equilibrium == options
    assert all(map(np.array_equal, back.s, made.s)) and back.converged is None
    assert all(map(np.array_equal, back.recipe.network.backward, net.backward))
    assert [one.status for one in replaying.replay(tmp_path / "a.h5")] == ["identical"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run that logged two minibatches."""
    path = tmp_path_factory.mktemp("ep") / "run"
    config, _ = load_config(
        "digits",
        ["training.method=ep-vector-field", "target.loss=mse", "network.hidden=[8]", "log.minibatches=[0,2]", "log.samples=4",
         "training.epochs=1", "method.sides=2", "data.options={train_size=100,test_size=20}"],
    )  # fmt: skip
    dfc.train(config, out=path)
    return path


def test_a_run_logs_its_minibatches_and_they_replay(run):
    replayed = list(replaying.replay(run))
    assert [one.status for one in replayed] == ["identical", "identical"]
    assert {"s_1", "s_2", "s_minus_1", "dW_1", "db_2", "dB_1"} <= set(replayed[0].compared)


def test_a_change_of_a_recorded_state_is_found(run, tmp_path):
    with open_trajectories(run) as file:
        trajectory = file["forward"][0].trajectory()
    trajectory.s[0][3, 1, 5] += 1e-3
    trajectory.save(tmp_path / "changed.h5")
    (replayed,) = replaying.replay(tmp_path / "changed.h5")
    assert replayed.status == "different"
    assert replayed.deviations[0].absolute.place == {"step": 3, "sample": 1, "unit_1": 5}


def test_another_nudge_is_simulated_from_the_recipes(run, tmp_path):
    replaying.what_if(run, tmp_path / "b.h5", {"beta": 0.4}, section="equilibrium")
    with open_trajectories(run) as first, open_trajectories(tmp_path / "b.h5") as second:
        one, other = (file["forward"][0].trajectory() for file in (first, second))
    assert replace(one.recipe.equilibrium, beta=0.4) == other.recipe.equilibrium
    moved, further = (np.abs(t.s[1][-1] - t.s[1][30]).mean() for t in (one, other))
    assert further > 2 * moved


def test_a_record_is_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = plots.plot(run, tmp_path / "figure.png", units=((1, 3),))
    assert out.stat().st_size > 10_000
    with pytest.raises(ValueError, match="no unit 9 in layer 1"):
        plots.plot(run, tmp_path / "other.png", units=((1, 9),))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (dfc.Record(variables=("s_minus",)), "'s_minus'; equilibrium propagation with these sides has s"),
        (dfc.Record(variables=("u",)), "has 'u'"),
        (dfc.Record(samples=(30,)), "positions from 0 to 19"),
    ],
)
def test_what_is_not_there_is_refused(record, message):
    net, x, y, options = problem("gaussian")
    with pytest.raises(ValueError, match=message):
        simulate_equilibrium(net, x, y, options, record=record)

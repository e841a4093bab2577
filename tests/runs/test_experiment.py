"""A run as a whole: what it will need, its data and its network."""

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.runs.expectations import _extrapolated, _shortened, expect
from dfc_numba.runs.experiment import Experiment, create_network, load_data

SMALL = ["network.hidden=[8]", "controller.steps=40", "feedback_controller.steps=9"]


def prepared(*overrides, small=SMALL):
    """Configuration, data and network of a small run."""
    config, _ = load_config(None, [*small, *overrides])
    dataset = load_data(config)
    return config, dataset, create_network(config, dataset)


def parameters(network):
    return np.concatenate([array.ravel() for array in [*network.weights, *network.biases, *network.feedback]])


def test_the_network_is_what_the_configuration_says():
    settings = [
        "network.hidden=[5,4]",
        "network.hidden_activation=[relu,tanh]",
        "network.bias=false",
        "training.seed=9",
    ]
    config, _, network = prepared(*settings, "network.feedback_init=weight_product", "training.dtype=float32")
    assert network.sizes == (64, 5, 4, 10) and network.hidden_activations == ("relu", "tanh")
    assert network.biases is None and network.dtype == config.training.dtype
    np.testing.assert_allclose(network.feedback[0], (network.weights[2] @ network.weights[1]).T, rtol=1e-5)
    assert not np.array_equal(network.weights[0], prepared(*settings, "training.seed=8")[2].weights[0])


@pytest.mark.parametrize("kind", ["jacobian_transpose", "jacobian_pinv", "jacobian_damped_pinv"])
def test_feedback_weights_may_start_from_the_jacobian_at_the_first_inputs(monkeypatch, kind):
    monkeypatch.setattr("dfc_numba.runs.experiment.JACOBIAN_SAMPLES", 7)
    damping = ["network.feedback_damping=0.3"] if kind == "jacobian_damped_pinv" else []
    _, dataset, network = prepared(f"network.feedback_init={kind}", *damping)
    plain = prepared()[2]
    assert all(np.array_equal(a, b) for a, b in zip(network.weights, plain.weights, strict=True))
    plain.set_feedback(kind, dataset.train.x[:7], damping=0.3 if damping else 0.0)
    assert np.array_equal(parameters(network), parameters(plain))


def test_expecting_changes_nothing_and_grows_with_the_work():
    config, dataset, network = prepared()
    before = parameters(network)
    expected = expect(network, dataset, config)
    assert np.array_equal(parameters(network), before)
    assert expected.seconds > 0 and expected.memory > dataset.train.x.nbytes
    longer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 10000})})
    assert expect(network, dataset, longer).seconds > 20 * expected.seconds


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.method=dfc-ssa"],
        [
            "training.method=dfc-single-phase",
            "controller.sigma=0.1",
            "controller.tau_noise=0.1",
            "feedback.extra_epochs=1",
        ],
        ["feedback.rule=one_shot"],
        ["training.method=bp"],
    ],
)
def test_time_is_expected_for_every_kind_of_phase(overrides):
    config, dataset, network = prepared(*overrides, small=SMALL[:1])
    assert 0 < expect(network, dataset, config).seconds < 600


def test_time_grows_with_steps_only_as_far_as_the_trials_did():
    assert _extrapolated([0.2, 0.36], [8, 24], 108) == pytest.approx(0.2 + 0.01 * 100)
    assert _extrapolated([0.5, 0.2], [8, 24], 108) == 0.5
    assert _extrapolated([0.2, 0.4], [0, 0], 0) == pytest.approx(0.3)
    assert _extrapolated([0.2, 0.4], [999, 999], 999) == pytest.approx(0.3)


@pytest.mark.parametrize("integrator, steps", [("euler", 8), ("waveform", 40)])
def test_a_trial_leaves_out_no_step_of_a_phase_that_is_solved_in_time(integrator, steps):
    config, _, _ = prepared(f"controller.integrator={integrator}")
    short = _shortened(config, 8)
    assert (short.controller.steps, short.feedback_controller.steps) == (steps, 8)


def test_a_trial_that_diverges_leaves_the_time_unknown():
    config, dataset, network = prepared("optimizer.name=sgd", "optimizer.learning_rate=1e200")
    assert expect(network, dataset, config).seconds is None


def test_a_run_that_cannot_start_leaves_no_directory(tmp_path):
    config, _ = load_config(
        "student-teacher", ["target.loss=cross_entropy", "data.options.teacher_hidden=[5]"]
    )
    with pytest.raises(ConfigurationError, match="set target.loss = 'mse'"):
        Experiment(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.hidden=[9]"], "has sizes"),
        (["network.hidden_activation=relu"], "has hidden_activation"),
        (["network.bias=false"], "has bias"),
        (["training.dtype=float32"], "has dtype"),
    ],
)
def test_a_saved_network_must_be_what_the_configuration_says(tmp_path, overrides, message):
    _, dataset, network = prepared()
    network.save(tmp_path / "start.h5")
    start = f"network.start_from={tmp_path / 'start.h5'}"
    config, _ = load_config(None, [*SMALL, start])
    assert np.array_equal(parameters(create_network(config, dataset)), parameters(network))
    config, _ = load_config(None, [*SMALL, start, *overrides])
    with pytest.raises(ConfigurationError, match=message):
        create_network(config, dataset)


def test_a_file_that_is_no_network_is_refused_by_name(tmp_path):
    (tmp_path / "start.h5").write_text("not HDF5")
    config, _ = load_config(None, [*SMALL, f"network.start_from={tmp_path / 'start.h5'}"])
    with pytest.raises(ConfigurationError, match="network.start_from: .*start.h5"):
        create_network(config, load_data(config))


def test_a_run_in_another_thread_leaves_the_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    config, _ = load_config(None, [*SMALL, "training.epochs=1"])
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(Experiment(config, out=tmp_path / "run").run).result()
    assert result.outcome.status == "done" and result.signal is None
    assert signal.getsignal(signal.SIGINT) is before

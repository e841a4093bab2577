"""The controller's options: defaults, checks, and errors that say what to do."""

import dataclasses
import re

import numpy as np
import pytest

import dfc_numba as dfc

DEFAULTS = {
    "dt": 0.02,
    "steps": 999,
    "alpha": 0.0014,
    "k_p": 2.0,
    "tau_v": 0.2,
    "tau_apical": None,
    "instant_transmission": True,
    "instant_dynamics": False,
    "proactive": True,
    "error": "difference",
    "sigma": 0.0,
    "sigma_output": None,
    "tau_noise": None,
    "tau_control": None,
    "jacobian_feedback": False,
    "leak": "total",
}


def test_defaults_are_those_of_the_contract():
    options = dataclasses.asdict(dfc.Controller())
    assert {name: options[name] for name in DEFAULTS} == DEFAULTS


def test_options_are_keyword_only_frozen_and_comparable():
    controller = dfc.Controller(dt=0.1, k_p=1)
    with pytest.raises(TypeError, match="positional"):
        dfc.Controller(0.1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="dt"):
        controller.dt = 0.2
    assert controller == dfc.Controller(dt=0.1, k_p=1.0) != dfc.Controller(dt=0.1)
    assert hash(controller) == hash(dfc.Controller(dt=0.1, k_p=1.0))


def test_every_option_is_documented():
    for field in dataclasses.fields(dfc.Controller):
        assert re.search(rf"^ +{field.name}: ", dfc.Controller.__doc__, flags=re.MULTILINE)


def test_numpy_numbers_become_python_numbers():
    controller = dfc.Controller(
        dt=np.float64(0.1), steps=np.int32(7), k_p=np.array(1.5), proactive=np.bool_(False)
    )
    assert controller == dfc.Controller(dt=0.1, steps=7, k_p=1.5, proactive=False)
    assert type(controller.steps) is int and type(controller.k_p) is float and controller.proactive is False


def test_a_replaced_option_is_checked_as_well():
    controller = dfc.Controller()
    assert dataclasses.replace(controller, steps=5).steps == 5
    with pytest.raises(ValueError, match="dt = 3 is larger than tau_v"):
        dataclasses.replace(controller, dt=3)


RANGES = [
    ({"dt": 0}, "Controller.dt is 0; it must be greater than 0"),
    ({"dt": -0.1}, "Controller.dt is -0.1; it must be greater than 0"),
    ({"dt": np.nan}, "Controller.dt is nan; it must be a finite number"),
    ({"dt": "0.1"}, "Controller.dt is '0.1'; it must be a number"),
    ({"dt": None}, "Controller.dt is None; it must be a number"),
    ({"steps": 0}, "Controller.steps is 0; it must be greater than or equal to 1"),
    ({"steps": 10.0}, "Controller.steps is 10.0; it must be an integer"),
    ({"steps": 2**31}, "Controller.steps is 2147483648; it must be less than"),
    ({"alpha": -1}, "Controller.alpha is -1; it must be greater than or equal to 0"),
    ({"k_p": np.inf}, "Controller.k_p is inf; it must be a finite number"),
    ({"k_p": True}, "Controller.k_p is True; it must be a number"),
    ({"tau_v": 0.0}, "Controller.tau_v is 0.0; it must be greater than 0"),
    ({"sigma": -0.1}, "Controller.sigma is -0.1; it must be greater than or equal to 0"),
    ({"sigma_output": -0.1}, "Controller.sigma_output is -0.1"),
    ({"tau_noise": 0}, "Controller.tau_noise is 0; it must be greater than 0"),
    ({"convergence_epsilon": 0}, "Controller.convergence_epsilon is 0"),
    ({"proactive": "yes"}, "Controller.proactive is 'yes'; it must be true or false"),
    ({"instant_transmission": 1}, "Controller.instant_transmission is 1; it must be true or false"),
    ({"error": "diference"}, "Controller.error is 'diference'; it must be 'difference' or 'softmax'; did you mean"),
    ({"leak": "totl"}, "did you mean 'total'"),
    ({"alhpa": 1}, "Controller has no option 'alhpa'; did you mean 'alpha'.*options are dt, steps, alpha"),
    ({"qwertz": 1}, "Controller has no option 'qwertz'; its options are"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), RANGES)
def test_what_is_not_allowed_is_refused_in_plain_words(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        dfc.Controller(**options)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)
    assert not re.search("pydantic|https|type=|input_", str(caught.value))


def test_every_wrong_option_gets_a_line():
    with pytest.raises(ValueError, match="Controller.dt is -1") as caught:
        dfc.Controller(dt=-1, steps="many", kp=2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "did you mean 'k_p'" in lines[2]


@pytest.mark.parametrize("name", ["tau_v", "tau_apical", "tau_noise", "tau_control"])
def test_a_step_longer_than_a_time_constant_is_refused(name):
    dfc.Controller(**{"tau_v": 0.5, "dt": 0.1, name: 0.1})
    with pytest.raises(ValueError, match=f"dt = 0.1 is larger than {name} = 0.09, .*choose dt <= {name}"):
        dfc.Controller(**{"tau_v": 0.5, "dt": 0.1, name: 0.09})


def test_instant_dynamics_need_no_step_below_tau_v_and_no_proportional_control():
    controller = dfc.Controller(dt=0.3, tau_v=0.2, k_p=0, instant_dynamics=True, instant_transmission=False)
    assert controller.transmission_is_instant
    with pytest.raises(
        ValueError, match="instant_dynamics with k_p = 0.1 closes an algebraic loop.*use k_p = 0 or"
    ):
        dfc.Controller(k_p=0.1, instant_dynamics=True)


@pytest.mark.parametrize(
    ("options", "noisy", "output"),
    [
        ({}, False, 0.0),
        ({"sigma": 0.1}, True, 0.1),
        ({"sigma": 0.1, "sigma_output": 0.0}, True, 0.0),
        ({"sigma": 0.0, "sigma_output": 0.2}, True, 0.2),
        ({"sigma": 0.0, "sigma_output": 0.0}, False, 0.0),
    ],
)
def test_noise_of_the_output_layer(options, noisy, output):
    controller = dfc.Controller(**options)
    assert controller.noisy is noisy and controller.output_sigma == output


def test_a_controller_derives_its_leak_and_time_points():
    assert dfc.Controller(alpha=0.3, k_p=2).steady_leak == 0.3
    assert dfc.Controller(alpha=0.3, k_p=2, leak="integral").steady_leak == pytest.approx(0.3 / 1.6)
    assert dfc.Controller(steps=7).time_points == 8

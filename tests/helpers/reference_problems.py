"""A reference file as a problem for the public API: network, data, controller and draws in our words.

The files have the options in the names of the published code; those of the feedback phase end in `_fb`.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import oracle
from reference_files import family, read

import dfc_numba as dfc
from dfc_numba.learning import baselines
from dfc_numba.model import targets

READOUTS = {"cont": "average", "conteff": "average", "ss": "final", "ssa": "analytic", "ndi": "analytic"}
RULES = {"nl": "nonlinear_difference", "vd": "voltage_difference", "dm": "derivative_matrix"}
FEEDBACK_PHASE = ("fb2p", "sp_pre", "old_feedback")


class Problem:
    """One reference file.

    Args:
        path: the file.
        api: an implementation of the API, the package or the oracle.

    Attributes:
        arrays, options, family: what is in the file, and its family.
        mean_loss, backpropagation, direct_feedback: functions of the implementation.
    """

    def __init__(self, path, api=dfc):
        self.arrays, self.options = read(path)
        self.family, self.api = family(path), api
        self.layers = range(len(self.options.get("sizes", [0])) - 1)
        self.x = self.arrays.get("x")
        if api is oracle:
            functions = oracle.mean_loss, oracle.backpropagation_gradient, oracle.direct_feedback_gradient
        else:
            functions = targets.mean_loss, baselines.backpropagation, baselines.direct_feedback_alignment
        self.mean_loss, self.backpropagation, self.direct_feedback = functions

    @property
    def older(self):
        """Whether the older of the two programs computed the file."""
        return self.family.startswith("old_")

    @property
    def single_phase(self):
        return self.family.startswith("sp_")

    @property
    def feedback_phase(self):
        return self.family in FEEDBACK_PHASE

    def option(self, name, default=None):
        """An option of the phase that is simulated."""
        return self.options.get(f"{name}_fb" if self.feedback_phase else name, default)

    def present(self, found):
        """The items of a dict whose keys are arrays of the file, as a list of pairs."""
        return [(name, value) for name, value in found.items() if name in self.arrays]

    # ------------------------------------------------------------------------------------ network and data

    @cached_property
    def net(self):
        return self.network()

    def network(self, activation=None):
        """The network, also with another activation of the hidden layers."""
        a = self.arrays
        return self.api.Network(
            weights=[a[f"W{i}"] for i in self.layers],
            biases=[a[f"b{i}"] for i in self.layers] if "b0" in a else None,
            feedback=[a[f"Q{i}"] for i in self.layers],
            hidden_activation=activation or self.options.get("activation", "tanh"),
        )

    @property
    def loss(self):
        return "cross_entropy" if self.options["loss"] == "ce" else "mse"

    @property
    def y(self):
        """The targets; the older code has the classes themselves."""
        return self.one_hot() if self.older and "labels" in self.arrays else self.arrays["y"]

    def one_hot(self):
        return np.eye(self.options["sizes"][-1])[self.arrays["labels"]]

    def baseline(self, suffix):
        """Network and targets of a variant of the baselines: "", "_relu", "_intlabels"."""
        net = self.network("relu" if suffix == "_relu" else None)
        return net, self.one_hot() if suffix == "_intlabels" else self.arrays["y"]

    @cached_property
    def target(self):
        """The output target that the simulation pursues: the output, the target itself, or a nudge."""
        strong = self.options.get("feedback") == "strong"
        two_phases = self.feedback_phase and not self.single_phase
        if self.options.get("pretrain_without_controller") or (two_phases and not strong):
            return self.net.forward(self.x).r[-1]
        if strong:
            return self.y
        step = self.options["target_lr"] / len(self.x) if self.older else self.options["target_stepsize"]
        return self.api.output_target(self.net, self.x, self.y, loss=self.loss, step=step)

    # ------------------------------------------------------------------------------------ simulation and updates

    @cached_property
    def noise(self):
        """The draws of the simulation, or None."""
        names = [
            f"xi{i}_normal_controller" if self.family == "old_feedback" else f"xi{i}" for i in self.layers
        ]
        return [self.arrays[name] for name in names] if names[0] in self.arrays else None

    @cached_property
    def controller(self):
        option, flag = self.option, self.options.get
        instant_dynamics = flag("inst_system_dynamics", False)
        noisy = self.noise is not None
        coloured = self.single_phase or flag("low_pass_filter_noise", False)
        return self.api.Controller(
            dt=option("dt_di"),
            steps=option("tmax_di") - 1,
            alpha=option("alpha" if self.family == "old_feedback" else "alpha_di"),
            k_p=option("k_p"),
            tau_v=option("time_constant_ratio"),
            tau_apical=self._tau_apical(),
            instant_transmission=option("inst_transmission") or instant_dynamics,
            instant_dynamics=instant_dynamics,
            proactive=flag("proactive_controller") and self.family != "old_feedback",
            error="softmax" if flag("error") == "cross_entropy" else "difference",
            sigma=option("sigma") if noisy else 0.0,
            sigma_output=option("sigma_output") if noisy else None,
            tau_noise=flag("tau_noise") if noisy and coloured else None,
            tau_control=flag("tau_f") if flag("low_pass_filter_u") else None,
            jacobian_feedback=flag("use_jacobian_as_fb", False),
            convergence_epsilon=flag("epsilon_di", 0.5),
        )

    def _tau_apical(self):
        tau = self.option("apical_time_constant", -1)
        instant = self.single_phase or self.options.get("inst_apical_dynamics") or tau == -1
        return None if instant else tau

    @cached_property
    def trajectory(self):
        return self.api.simulate(self.net, self.x, self.target, self.controller, noise=self.noise)

    def forward_update(self, readout=None, rule=None, *, proactive=None):
        """The update by a readout and a rule in the published words; None: what the options name."""
        readout = readout or self.options.get("variant") or ("cont" if self.options["cont_updates"] else "ss")
        rule = RULES[rule] if rule else self.options.get("learning_rule", "nonlinear_difference")
        controller = self.controller if proactive is None else replace(self.controller, proactive=proactive)
        arguments = self.net, self.x, self.target, controller
        if self.single_phase:
            both = self.api.forward_and_feedback_update
            return both(*arguments, rule=rule, noise=self.noise, high_pass=self.options["tau_f"])[0]
        keeps_all = self.options.get("include_non_converged_samples", True)
        options = {"samples": "all" if keeps_all else "converged", "noise": self.noise}
        simulated = {} if READOUTS[readout] == "analytic" else options
        return self.api.forward_update(*arguments, readout=READOUTS[readout], rule=rule, **simulated)

    def feedback_update(self, *, scaling=False):
        """The feedback update of the phase that is simulated, divided by the published sigma."""
        return self.api.feedback_update(
            self.net,
            self.x,
            self.target,
            self.controller,
            noise=self.noise,
            scaling=scaling,
            high_pass=self.options["tau_f"] if self.single_phase else None,
            normalise=self._normalisation(),
        )

    def _normalisation(self):
        """Extra feedback epochs divide by another phase's sigma, the older code by the hidden layers'; else None."""
        options = self.options
        if self.family == "sp_extra":
            return options["sigma_fb"], options["sigma_output_fb"]
        return (options["sigma_fb"], options["sigma_fb"]) if self.family == "old_feedback" else None

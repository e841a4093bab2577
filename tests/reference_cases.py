"""Reference values computed by the published code, mapped onto calls of the public API.

A reference file is an .npz archive: a network (W{i}, b{i}, Q{i}), inputs x, the output target r_target, the random
draws xi{i}, the options in the names of the published code (`params_json`), and what that code computed from
them. `comparisons` calls an implementation of the API (the package, or the oracle) with the same inputs and yields
each of its results beside the published one, the latter brought to our sign and scale: the published code stores
gradients, -2 times our forward updates and -1 times our feedback updates.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dfc_numba as dfc

FAMILIES = (
    "ctrl",
    "opt",
    "conv",
    "noisyfwd",
    "fb2p",
    "sp_train",
    "sp_pre",
    "sp_extra",
    "init",
    "old_forward",
)
READOUTS = {"cont": "average", "ss": "final", "ssa": "analytic", "ndi": "analytic"}
RULES = {"nl": "nonlinear_difference", "vd": "voltage_difference", "dm": "derivative_matrix"}
GRADIENT = re.compile(r"g(?P<kind>[Wb])(?P<layer>\d)_(?P<readout>cont|ss|ssa|ndi)_(?P<rule>nl|vd|dm)")
TRAJECTORY = re.compile(r"(?P<variable>v_ff|v_fb|v|r)(?P<layer>\d)")


class Comparison(NamedTuple):
    """One array: its name in the file, our result, the published one in our sign and scale."""

    name: str
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def deviation(self):
        """Largest absolute difference, relative to the largest published value (absolute where all are 0).

        Infinite where the shapes differ or our result is not finite.
        """
        if np.shape(self.ours) != np.shape(self.theirs) or not np.isfinite(self.ours).all():
            return float("inf")
        scale = np.abs(self.theirs).max() or 1.0
        return float(np.abs(self.ours - self.theirs).max() / scale)


def family(path):
    """The family that a file belongs to, or None for a file of another kind."""
    return next((name for name in FAMILIES if Path(path).name.startswith(name + "_")), None)


def reference_files(folder):
    """The files of `folder` that can be compared, in alphabetical order."""
    return sorted(path for path in Path(folder).glob("*.npz") if family(path))


def comparisons(path, api=dfc):
    """Yield a `Comparison` for every array of a reference file that has a counterpart in the API."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    case = Case(arrays, family(path), api)
    yield from case.network_comparisons()
    if case.family != "init":
        yield from case.feedforward_comparisons()
        yield from case.trajectory_comparisons()
        yield from case.steady_state_comparisons()
        yield from case.forward_update_comparisons()
        yield from case.feedback_update_comparisons()


class Case:
    """One reference file, read: the network, the data, the controller and the draws that it used."""

    def __init__(self, arrays, family, api):
        self.arrays, self.family, self.api = arrays, family, api
        self.options = json.loads(str(arrays["params_json"]))
        self.layers = range(len(self.options["sizes"]) - 1)
        self.net = self._network()
        if family != "init":
            self.x, self.target = arrays["x"], arrays["r_target"]
            self.noise = [arrays[f"xi{i}"] for i in self.layers] if "xi0" in arrays else None
            self.controller = self._controller()

    def _network(self):
        a = self.arrays
        return self.api.Network(
            weights=[a[f"W{i}"] for i in self.layers],
            biases=[a[f"b{i}"] for i in self.layers] if "b0" in a else None,
            feedback=[a[f"Q{i}"] for i in self.layers],
            hidden_activation=self.options.get("activation", "tanh"),
        )

    @property
    def single_phase(self):
        return self.family.startswith("sp_")

    def _phase_option(self, name, default=None):
        """An option of the phase that is simulated: those of the feedback phase have the suffix _fb."""
        suffix = "_fb" if self.family in ("fb2p", "sp_pre") else ""
        return self.options.get(name + suffix, default)

    def _controller(self):
        option, flag = self._phase_option, self.options.get
        instant_dynamics = flag("inst_system_dynamics", False)
        noisy = self.noise is not None
        coloured = self.single_phase or flag("low_pass_filter_noise", False)
        return self.api.Controller(
            dt=option("dt_di"),
            steps=option("tmax_di") - 1,
            alpha=option("alpha_di"),
            k_p=option("k_p"),
            tau_v=option("time_constant_ratio"),
            tau_apical=self._tau_apical(),
            instant_transmission=option("inst_transmission") or instant_dynamics,
            instant_dynamics=instant_dynamics,
            proactive=flag("proactive_controller"),
            error="softmax" if flag("error") == "cross_entropy" else "difference",
            sigma=option("sigma") if noisy else 0.0,
            sigma_output=option("sigma_output") if noisy else None,
            tau_noise=flag("tau_noise") if noisy and coloured else None,
            tau_control=flag("tau_f") if flag("low_pass_filter_u") else None,
            jacobian_feedback=flag("use_jacobian_as_fb", False),
            convergence_epsilon=flag("epsilon_di", 0.5),
        )

    def _tau_apical(self):
        tau = self._phase_option("apical_time_constant", -1)
        instant = self.single_phase or self.options.get("inst_apical_dynamics") or tau == -1
        return None if instant else tau

    def network_comparisons(self):
        """Feedback weights initialised as the product of the forward weights."""
        if self.family == "init":
            self.net.set_feedback("weight_product")
            for i in self.layers:
                yield Comparison(f"Q{i}", self.net.feedback[i], self.arrays[f"Q{i}"])

    def feedforward_comparisons(self):
        """The feedforward pass, and the output target where it is a nudge."""
        activity = self.net.forward(self.x)
        for i in self.layers:
            if f"a{i}" in self.arrays:
                yield Comparison(f"a{i}", activity.v[i], self.arrays[f"a{i}"])
                yield Comparison(f"h{i}", activity.r[i], self.arrays[f"h{i}"])
        yield Comparison("y_ff", activity.r[-1], self.arrays["y_ff"])
        if self._has_nudged_target():
            loss = "cross_entropy" if self.options["loss"] == "ce" else "mse"
            ours = self.api.output_target(self.net, self.x, self.arrays["y"], loss=loss, step=self._nudge())
            yield Comparison("r_target", ours, self.target)

    def _has_nudged_target(self):
        without_controller = self.options.get("pretrain_without_controller", False)
        if self.family == "old_forward":
            return self.options["loss"] == "mse"
        return self.family != "fb2p" and self.options["feedback"] == "weak" and not without_controller

    def _nudge(self):
        """The nudge of one sample; the older published code gives that of the minibatch."""
        if self.family == "old_forward":
            return self.options["target_lr"] / self.options["batch"]
        return self.options["target_stepsize"]

    def trajectory_comparisons(self):
        """Every variable of the simulation, and which samples converged."""
        if "u" not in self.arrays:
            return
        ours = self.api.simulate(self.net, self.x, self.target, self.controller, noise=self.noise)
        for name, theirs in self.arrays.items():
            if match := TRAJECTORY.fullmatch(name):
                yield Comparison(name, getattr(ours, match["variable"])[int(match["layer"])], theirs)
        for name, attribute in (("u", "u"), ("u_int", "u_int"), ("sample_error", "error")):
            if name in self.arrays:
                yield Comparison(name, getattr(ours, attribute), self.arrays[name])
        for name in ("converged", "diverged"):
            if f"n_{name}" in self.arrays:
                yield Comparison(f"n_{name}", getattr(ours, name).sum(), self.arrays[f"n_{name}"])

    def steady_state_comparisons(self):
        """The linearised steady state and the Jacobian at the feedforward state."""
        if "ssa_u" not in self.arrays:
            return
        ours = self.api.steady_state(self.net, self.x, self.target, self.controller, method="linear")
        yield Comparison("J", self.api.output_jacobian(self.net, self.x), self.arrays["J"])
        yield Comparison("ssa_u", ours.u, self.arrays["ssa_u"])
        for i in self.layers:
            for name, values in (("dv", ours.delta_v), ("v", ours.v), ("r", ours.r)):
                yield Comparison(f"ssa_{name}{i}", values[i], self.arrays[f"ssa_{name}{i}"])

    def forward_update_comparisons(self):
        """Every readout and rule that the file holds."""
        matches = [match for match in map(GRADIENT.fullmatch, self.arrays) if match]
        for readout, rule in sorted({(match["readout"], match["rule"]) for match in matches}):
            ours = self._forward_update(READOUTS[readout], RULES[rule])
            for match in matches:
                if (match["readout"], match["rule"]) == (readout, rule):
                    values = ours.weights if match["kind"] == "W" else ours.biases
                    theirs = self._gradient_factor(readout, rule) * self.arrays[match.string]
                    yield Comparison(match.string, values[int(match["layer"])], theirs)

    def _gradient_factor(self, readout, rule):
        """-1/2, but +1/4 where the published code ascends (voltage_difference at the last time point)."""
        wrong_sign = rule == "vd" and readout in ("ss", "ssa") and self.family != "old_forward"
        return 0.25 if wrong_sign else -0.5

    def _forward_update(self, readout, rule):
        arguments = self.net, self.x, self.target, self.controller
        if self.single_phase:
            both = self.api.forward_and_feedback_update
            return both(*arguments, rule=rule, noise=self.noise, high_pass=self._high_pass())[0]
        keep_all = self.options.get("include_non_converged_samples", True)
        options = {"samples": "all" if keep_all else "converged", "noise": self.noise}
        simulated = {} if readout == "analytic" else options
        return self.api.forward_update(*arguments, readout=readout, rule=rule, **simulated)

    def feedback_update_comparisons(self):
        """The feedback update, with and without scaling by depth."""
        for suffix in ("", "_scaled"):
            if f"gQ0{suffix}" not in self.arrays or (suffix and not self._scaling_compares()):
                continue
            ours = self.api.feedback_update(
                self.net,
                self.x,
                self.target,
                self.controller,
                noise=self.noise,
                scaling=bool(suffix),
                high_pass=self._high_pass(),
                normalise=self._normalisation(),
            )
            for i in self.layers:
                yield Comparison(f"gQ{i}{suffix}", ours.feedback[i], -self.arrays[f"gQ{i}{suffix}"])

    def _scaling_compares(self):
        """Scaling needs tau_noise; in pre-training the published code scales with another phase's tau_v."""
        return self.family != "sp_pre" and self.controller.tau_noise is not None

    def _high_pass(self):
        """The filter's time constant; in pre-training the published code filters with the other phase's dt."""
        if not self.single_phase:
            return None
        return self.options["tau_f"] * self.controller.dt / self.options["dt_di"]

    def _normalisation(self):
        if self.family == "sp_extra":
            return self.options["sigma_fb"], self.options["sigma_output_fb"]
        return None

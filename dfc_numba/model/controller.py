"""The controller: the frozen options of one feedback phase.

    tau_u du_int/dt = e - alpha u        u = u_int + k_p e        tau_v dv_i/dt = -v_i + W_i phi(v_{i-1}) + b_i + Q_i u

(the dynamics of DFC, Meulemans et al. 2021, integrated with the Euler method). Time is in units of tau_u.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainSerializer, PlainValidator, model_validator

from dfc_numba.model.controller_terms import Terms, checked_terms, compiled_terms, nonlinear_term
from dfc_numba.support.options import options
from dfc_numba.support.ranges import Flag, Gain, Leak, Positive, Sigma, Steps, TimeConstant, TimeStep
from dfc_numba.support.validation import number

RTOL_RANGE = 1e-6, 1e-1  # of the waveform integrator
FLOAT32_RTOL = 1e-4  # the least for float32 networks
TermParameters = Annotated[
    dict, PlainValidator(checked_terms), PlainSerializer(lambda terms: dict(terms), return_type=dict)
]


@options
class Controller:
    """Options of one feedback phase: all of the network's and the controller's dynamics.

    Args:
        dt: Euler step, in units of the controller's time constant tau_u.
        steps: number of Euler steps; a trajectory has `steps + 1` time points.
        duration: simulated time, instead of `steps`, which it is made into: duration / dt, rounded; a `.duration` later.
        alpha: leak of the controller.
        k_p: proportional gain; 0 gives a pure (leaky) integral controller, in which u and u_int coincide.
        tau_v: time constant of the somatic compartments.
        tau_apical: time constant of the apical compartments; None for instantaneous ones.
        instant_transmission: a layer sees the rates that the layer below reaches within the same step,
            rather than those of the step before.
        instant_dynamics: the soma follows its compartments at once (v = v_ff + v_fb); implies instant transmission.
        proactive: the step from t to t+1 uses the control signal computed within that step, rather than u(t).
        error: what the controller drives to zero, `r* - r_L` ("difference") or `r* - softmax(r_L)` ("softmax").
        sigma: standard deviation of the noise in the hidden layers; a simulation with sigma > 0 needs `noise=`.
        sigma_output: the same for the output layer; None means `sigma`.
        tau_noise: time constant of low-passed noise; None gives white noise.
        tau_control: time constant of a low-pass filter on the control signal that reaches the layers; None for no filter.
        jacobian_feedback: the layers receive J(v)^T u instead of Q u.
        leak: "total" leaks -alpha u (the published code), "integral" leaks -alpha u_int (as the papers write it).
        terms: further terms by the name of a registered `dfc.ControllerTerm`, each with its parameters, such as
            {"derivative": {"k_d": 0.1}}; limits apply in this order.
        integrator: "euler" steps through all time points; "waveform" solves for the control error at a few nodes in time,
            the same update for a small part of the work (`dynamics.waveform`).
        rtol: relative error of each layer's weight update that "waveform" may leave, from 1e-6 to 1e-1.
        limit: what "waveform" solves: the recurrence that "euler" steps with this `dt` and `steps` ("published"), or the
            differential equations over the same duration, dt -> 0 ("continuous").
        convergence_epsilon: a sample has converged when its remaining error is below `convergence_epsilon**2` times
            the initial one, and its steady-state residual below 1e-5.

    Raises:
        ValueError: for an unknown option, a value out of range, a `dt` larger than a time constant that it has to
            resolve, or `instant_dynamics` with `k_p > 0`.
    """

    dt: TimeStep = 0.02
    steps: Steps = 999
    alpha: Leak = 0.0014
    k_p: Gain = 2.0
    tau_v: TimeConstant = 0.2
    tau_apical: TimeConstant | None = None
    instant_transmission: Flag = True
    instant_dynamics: Flag = False
    proactive: Flag = True
    error: Literal["difference", "softmax"] = "difference"
    sigma: Sigma = 0.0
    sigma_output: Sigma | None = None
    tau_noise: TimeConstant | None = None
    tau_control: TimeConstant | None = None
    jacobian_feedback: Flag = False
    leak: Literal["total", "integral"] = "total"
    terms: TermParameters = field(default_factory=Terms)
    convergence_epsilon: Positive = 0.5
    integrator: Literal["euler", "waveform"] = "euler"
    rtol: Positive = 1e-3
    limit: Literal["published", "continuous"] = "published"

    TRANSLATED: ClassVar[dict[str, tuple]] = {"duration": (None, float | None)}

    @classmethod
    def translated(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with `steps` in place of `duration`."""
        if values.get("duration") is None:
            return {name: value for name, value in values.items() if name != "duration"}
        duration, dt = values["duration"], values.get("dt", cls.dt)
        for name, value in (("duration", duration), ("dt", dt)):
            number(f"Controller.{name}", value, TimeStep)
        if values.get("steps") is not None:
            raise ValueError(
                f"Controller: duration = {duration!r} and steps = {values['steps']!r} are both stated; state one of them"
            )
        return {name: value for name, value in values.items() if name != "duration"} | {
            "steps": max(1, round(duration / dt))
        }

    @property
    def duration(self) -> float:
        """The simulated time in units of tau_u: steps * dt."""
        return self.steps * self.dt

    @model_validator(mode="after")
    def _check(self):
        for name in self._resolved_time_constants():
            if self.dt > getattr(self, name):
                raise ValueError(
                    f"dt = {self.dt:g} is larger than {name} = {getattr(self, name):g}, so the Euler steps "
                    f"overshoot; choose dt <= {name}"
                )
        if self.instant_dynamics and self.k_p > 0:
            raise ValueError(
                f"instant_dynamics with k_p = {self.k_p:g} closes an algebraic loop (the control depends on the output, "
                "which depends on the control at once) that can blow up whatever dt is; use k_p = 0 or "
                "instant_dynamics = False"
            )
        if self.integrator == "waveform":
            self._check_waveform()
        return self

    def _check_waveform(self):
        if self.noisy:
            raise ValueError(
                f"integrator = 'waveform' with sigma = {self.sigma:g}, sigma_output = {self.output_sigma:g}: a trajectory "
                "driven by noise has no smooth interpolant in time; use integrator = 'euler', or set sigma to 0"
            )
        if self.jacobian_feedback:
            raise ValueError(
                "integrator = 'waveform' with jacobian_feedback: the feedback J(v)^T u changes with the state; use "
                "integrator = 'euler', or feedback weights set to 'jacobian_transpose'"
            )
        if self.terms and (name := nonlinear_term(self.terms, self.dt)) is not None:
            raise ValueError(
                f"integrator = 'waveform' with terms.{name}, which is not linear in the controller's signals: its response in "
                "time is no matrix; use integrator = 'euler', or leave the term out"
            )
        if self.terms and self.limit == "continuous":
            raise ValueError(
                f"limit = 'continuous' with terms = {dict(self.terms)}: further terms are defined by their Euler steps; use "
                "limit = 'published' with a small dt, or leave the terms out"
            )
        if not RTOL_RANGE[0] <= self.rtol <= RTOL_RANGE[1]:
            raise ValueError(
                f"rtol = {self.rtol:g}; integrator = 'waveform' takes {RTOL_RANGE[0]:g} to {RTOL_RANGE[1]:g} "
                "(float32: from 1e-4)"
            )

    def control_loop(self) -> int:
        """Return the address of the controller's step where it has further terms, else 0."""
        leaks_integral = self.leak == "integral"
        return compiled_terms(self.terms, self.dt, self.alpha, self.k_p, leaks_integral) if self.terms else 0

    def require_no_terms(self, what: str) -> None:
        """Raise a ValueError where there are further terms, which `what` does not take into account."""
        if self.terms:
            raise ValueError(
                f"controller.terms is {dict(self.terms)}; {what} supports only the built-in controller: leave the terms out, or "
                "simulate (readout 'average' or 'final')"
            )

    def _resolved_time_constants(self):
        """Return the names of the time constants that the Euler steps of this phase have to resolve."""
        names = ["tau_apical", "tau_noise", "tau_control"] + ([] if self.instant_dynamics else ["tau_v"])
        return [name for name in names if getattr(self, name) is not None]

    @property
    def noisy(self) -> bool:
        """True if any layer receives noise."""
        return self.sigma > 0 or self.output_sigma > 0

    @property
    def output_sigma(self) -> float:
        """Standard deviation of the noise in the output layer."""
        return self.sigma if self.sigma_output is None else self.sigma_output

    @property
    def steady_leak(self) -> float:
        """The leak in the steady state r* - r_L = steady_leak * u, whichever quantity leaks."""
        return self.alpha if self.leak == "total" else self.alpha / (1.0 + self.alpha * self.k_p)

    @property
    def transmission_is_instant(self) -> bool:
        """True if a layer sees the new rates of the layer below."""
        return self.instant_transmission or self.instant_dynamics

    @property
    def time_points(self) -> int:
        """Number of time points, the initial state included."""
        return self.steps + 1

"""The closed loop of controller and linearised layers: in continuous time, and as the Euler map that is simulated.

A state is a stack of deviations, (B, size, k) with k columns side by side: `y` of the layers' voltages, `p` of the apical
voltages (with tau_apical), `w` of u_int, `u` of the last control signal (where a step needs it), `c` of the filtered one
(with tau_control). Calling a loop applies its matrix; `matrices` makes it.
"""

import numpy as np


class ClosedLoop:
    """A closed loop as a matrix, and the positions of the parts of its state."""

    def __init__(self, layers, controller, names):
        """Take `layers` (`Layers` or `ReducedLayers`), the controller, and `names`, the parts that the state has."""
        self.layers, self.controller = layers, controller
        lengths = {"y": sum(layers.widths), "p": sum(layers.widths)}
        ends = np.cumsum([0] + [lengths.get(name, layers.controls) for name in names])
        self._slices = {name: slice(*ends[k : k + 2]) for k, name in enumerate(names)}
        self.size = int(ends[-1])

    def matrices(self):
        """Return the matrices of the samples, (B, size, size)."""
        return self(np.eye(self.size)[None])

    def split(self, state):
        """Return the parts of a state by name, `y` and `p` as lists of layers."""
        parts = {name: state[:, place] for name, place in self._slices.items()}
        cuts = np.cumsum(self.layers.widths)[:-1]
        for name in {"y", "p"} & parts.keys():
            parts[name] = np.split(parts[name], cuts, axis=1)
        return parts

    def join(self, parts):
        """Return the state of such parts; arrays for one sample stand for all."""
        arrays = []
        for name in self._slices:
            arrays += parts[name] if name in ("y", "p") else [parts[name]]
        count = max(len(array) for array in arrays)
        return np.concatenate([np.broadcast_to(a, (count, *a.shape[1:])) for a in arrays], axis=1)


class EulerMap(ClosedLoop):
    """One Euler step of the feedback phase, in the order of the simulation and for every option of `Controller`.

        w += dt (e - alpha u),  u = w + k_p e,  c += (dt / tau_control) (u - c)
        p_i += (dt / tau_apical) (drive_i - p_i),  y_i += (dt / tau_v) (W_i D_{i-1} y_{i-1} + p_i - y_i)

    Args:
        dt: a number, or (B, 1, 1) with one for each sample. Apical compartments, transmission, dynamics and control that
            are instantaneous are so for every dt.
    """

    def __init__(self, layers, controller, dt):
        c, self.dt = controller, dt
        names = ["y"] + ["p"] * (c.tau_apical is not None) + ["w"] + ["u"] * _keeps_control(c)
        super().__init__(layers, controller, names + ["c"] * (c.tau_control is not None))

    def __call__(self, state):
        now, options, dt = self.split(state), self.controller, self.dt
        before = now.get("u", now["w"])
        leaking = before if options.leak == "total" else now["w"]
        e = self.layers.error(now["y"][-1])
        w = now["w"] + dt * (e - options.alpha * leaking)
        u = w + options.k_p * e
        c_before = now.get("c", before)
        c = c_before + self._gain(options.tau_control) * (u - c_before)
        p = self.layers.drive(c if options.proactive else c_before, now["y"])
        if "p" in now:
            p = [
                old + self._gain(options.tau_apical) * (new - old)
                for old, new in zip(now["p"], p, strict=True)
            ]
        return self.join({"y": self._voltages(now["y"], p), "p": p, "w": w, "u": u, "c": c})

    def _voltages(self, before, apical):
        """Return the voltages after the step."""
        gain = 1.0 if self.controller.instant_dynamics else self._gain(self.controller.tau_v)
        after = []
        for i, (y, p) in enumerate(zip(before, apical, strict=True)):
            below = after if self.controller.transmission_is_instant else before
            basal = self.layers.couple(i, below[i - 1]) if i else 0.0
            after.append(y + gain * (basal + p - y))
        return after

    def _gain(self, tau):
        return 1.0 if tau is None else self.dt / tau

    def hidden_factors(self):
        """Return factors, each (B, 1, 1) or a number, by which a step shrinks deviations that the layers' coordinates omit."""
        if self.layers.complete:
            return []
        options = self.controller
        factors = [] if options.instant_dynamics else [1.0 - self.dt / options.tau_v]
        return factors + ([] if options.tau_apical is None else [1.0 - self.dt / options.tau_apical])


def _keeps_control(options):
    """Return whether a step needs the control signal of the step before, besides its integral part."""
    leaks = options.leak == "total" and options.alpha > 0
    delayed = not options.proactive and options.tau_control is None
    return options.k_p > 0 and (leaks or delayed)


class Flow(ClosedLoop):
    """The limit dt -> 0 of the Euler map: d state/dt in units of tau_u.

    dw/dt = e - alpha u,  u = w + k_p e,  tau_control dc/dt = u - c
    tau_apical dp_i/dt = drive_i - p_i,  tau_v dy_i/dt = W_i D_{i-1} y_{i-1} + p_i - y_i
    """

    def __init__(self, layers, controller):
        c = controller
        names = ["y"] * (not c.instant_dynamics) + ["p"] * (c.tau_apical is not None) + ["w"]
        super().__init__(layers, controller, names + ["c"] * (c.tau_control is not None))

    def __call__(self, state):
        now, options = self.split(state), self.controller
        if options.instant_dynamics:
            now["y"] = self._at_once(now)
        e, y = self.layers.error(now["y"][-1]), now["y"]
        u = now["w"] + options.k_p * e
        c = now.get("c", u)
        drive = self.layers.drive(c, y)
        p = now.get("p", drive)
        rates = {"w": e - options.alpha * (u if options.leak == "total" else now["w"])}
        rates["y"] = [
            ((self.layers.couple(i, y[i - 1]) if i else 0.0) + p[i] - y[i]) / options.tau_v
            for i in range(len(y))
        ]
        if "p" in now:
            rates["p"] = [(d - old) / options.tau_apical for d, old in zip(drive, p, strict=True)]
        if "c" in now:
            rates["c"] = (u - c) / options.tau_control
        return self.join(rates)

    def _at_once(self, now):
        """Return the voltages that instantaneous layers have."""
        if "p" in now:
            return steady_response(self.layers, now["p"])
        y = steady_response(self.layers, self.layers.drive(now.get("c", now["w"]), None))
        return y if self.layers.reducible else self._with_own_feedback(y)

    def _with_own_feedback(self, y):
        """Return the voltages where feedback, at once, depends on these voltages themselves; y: without that."""
        ends = np.cumsum(self.layers.widths)
        nothing = np.zeros((1, self.layers.controls, ends[-1]))
        identity = np.eye(ends[-1])[None]
        returned = self.layers.drive(nothing, np.split(identity, ends[:-1], axis=1))
        returned = np.concatenate(steady_response(self.layers, returned), axis=1)
        return np.split(np.linalg.solve(identity - returned, np.concatenate(y, axis=1)), ends[:-1], axis=1)

    def hidden_rates(self):
        """Return rates at which deviations decay that the layers' coordinates omit."""
        if self.layers.complete:
            return []
        taus = [
            None if self.controller.instant_dynamics else self.controller.tau_v,
            self.controller.tau_apical,
        ]
        return [-1.0 / tau for tau in taus if tau is not None]


def steady_response(layers, apical):
    """Return the voltages y_i = W_i D_{i-1} y_{i-1} + p_i that given apical voltages lead to."""
    y = []
    for i, p in enumerate(apical):
        y.append(p + (layers.couple(i, y[i - 1]) if i else 0.0))
    return y

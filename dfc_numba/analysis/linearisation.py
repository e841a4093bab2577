"""The controlled network linearised at a state: how deviations of voltages and control move, in continuous time.

With slopes D_i = diag(phi'(v_i)) and E = -de/dr_L (the identity, or diag(p) - p p^T for the softmax p of r_L), deviations
of the voltages v_i and of the control signal c that reaches the layers obey (DFC, Meulemans et al. 2021, on stability)

    tau_v dv_i/dt = -v_i + W_i D_{i-1} v_{i-1} + Q_i c,    e = -E D_L v_L

`Layers` is the part of this that the layers make. What the controller sees of layer i is P_i v_i, with
P_i = P_{i+1} W_{i+1} D_i, n_L numbers or fewer, and these obey equations of the same kind: `reduced` is exact, and a
network of any width has a system of a few times n_L numbers. `closed_loop` adds the controller.
"""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import helmert
from scipy.special import softmax

from dfc_numba.model.activations import phi, phi_prime, phi_second


class Layers:
    """The layers linearised at a state, with the voltages themselves as coordinates; B samples, k columns at a time.

    Attributes:
        widths: (m_1, ..., m_L) numbers of coordinates of the layers. controls: number n_c of coordinates of the control.
        complete: whether the coordinates determine the voltages.
    """

    complete = True

    def __init__(self, network, voltages, control, controller):
        """Linearise.

        Args:
            voltages: list of (B, n_i). control: (B, n_L) the control signal that the layers receive.
            controller: a `Controller`, of which the layers depend on error and jacobian_feedback.
        """
        self.widths = network.sizes[1:]
        self._weights = [w.astype(np.float64) for w in network.weights]
        self._slopes = [phi_prime(name, v) for name, v in zip(network.activations, voltages, strict=True)]
        basis = _control_basis(controller, self.widths[-1])
        self.controls = basis.shape[1]
        self._output = basis.T @ _error_slope(network, voltages[-1], controller) * self._slopes[-1][:, None]
        self._feedback, self._bends = None, None
        if controller.jacobian_feedback:
            self._top = self._slopes[-1][:, :, None] * basis
            self._bends = self._curvatures(network, voltages, control)
        else:
            self._feedback = [q.astype(np.float64) @ basis for q in network.feedback]

    def _curvatures(self, network, voltages, control):
        """Return phi''(v_i) times the control that reaches layer i from above, or None where that is zero in every layer."""
        bends, arriving = [], control
        for i in reversed(range(len(voltages))):
            bends.insert(0, (phi_second(network.activations[i], voltages[i]) * arriving)[:, :, None])
            arriving = (self._slopes[i] * arriving) @ self._weights[i]
        return bends if any(bend.any() for bend in bends) else None

    @property
    def reducible(self):
        """True if feedback does not depend on the voltages."""
        return self._bends is None

    def couple(self, i, y):
        """Return W_i D_{i-1} y: what layer i (from 0) receives from the layer below, (B, m_i, k)."""
        return self._weights[i] @ (self._slopes[i - 1][:, :, None] * y)

    def drive(self, c, y):
        """Return what the layers receive, list of (B, m_i, k), from control c, (B, n_c, k), where voltages deviate by y.

        Q_i c, or d(J_i(v)^T u) for jacobian_feedback, for which y = None leaves the voltages as they are.
        """
        if self._feedback is not None:
            return [q @ c for q in self._feedback]
        drives = [self._top @ c]
        for i in reversed(range(len(self.widths))):
            if self._bends is not None and y is not None:
                drives[0] = drives[0] + self._bends[i] * y[i]
            if i:
                drives.insert(0, self._slopes[i - 1][:, :, None] * (self._weights[i].T @ drives[0]))
        return drives

    def error(self, y):
        """Return e = -E D_L y of the output layer, (B, n_c, k)."""
        return -(self._output @ y)

    def take(self, chosen):
        """Return the layers of some samples."""
        part = copy(self)
        part._slopes = [slope[chosen] for slope in self._slopes]
        part._output = self._output[chosen]
        if self._feedback is None:
            part._top = self._top[chosen]
            part._bends = None if self._bends is None else [bend[chosen] for bend in self._bends]
        return part

    def reduced(self):
        """Return the same in the coordinates P_i v_i that the control error depends on: exact, and small."""
        inputs = self.drive(np.eye(self.controls)[None], None)
        observed, couplings = None, []  # None: the voltages themselves
        for i in reversed(range(len(inputs))):
            inputs[i] = _applied(observed, inputs[i])
            if i:
                seen = _applied(observed, self._weights[i][None]) * self._slopes[i - 1][:, None, :]
                wide = seen.shape[2] > seen.shape[1]
                couplings.insert(0, None if wide else seen)
                observed = seen if wide else None
        count = len(self._output)
        inputs = [np.broadcast_to(matrix, (count, *matrix.shape[-2:])) for matrix in inputs]
        return ReducedLayers(inputs, [None, *couplings], self._output, self.widths)


def _control_basis(controller, outputs):
    """Return columns that span the possible control signals, (n_L, n_c).

    The softmax error sums to zero, and without a leak the sum of u stays what it was: then it is left out.
    """
    if controller.error == "softmax" and controller.alpha == 0:
        return helmert(outputs).T
    return np.eye(outputs)


def _error_slope(network, voltage, controller):
    """Return e = -de/dr_L, (B, n_L, n_L) or (1, n_L, n_L)."""
    if controller.error == "difference":
        return np.eye(voltage.shape[1])[None]
    p = softmax(phi(network.output_activation, voltage), axis=1)
    return p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])


def _applied(observed, matrices):
    return matrices if observed is None else observed @ matrices


@dataclass(frozen=True)
class ReducedLayers:
    """`Layers` in coordinates of which there are no more than outputs. Attributes and methods as there.

    Attributes:
        inputs: list of (B, m_i, n_c). couplings: list of (B, m_i, m_{i-1}), None for the identity.
        output: (B, n_c, n_L). full_widths: (n_1, ..., n_L).
    """

    inputs: list
    couplings: list
    output: np.ndarray
    full_widths: tuple
    reducible = True  # feedback does not depend on the voltages

    @property
    def widths(self):
        return tuple(matrix.shape[1] for matrix in self.inputs)

    @property
    def controls(self):
        return self.output.shape[1]

    @property
    def complete(self):
        return self.widths == tuple(self.full_widths)

    def couple(self, i, y):
        return y if self.couplings[i] is None else self.couplings[i] @ y

    def drive(self, c, y):
        return [matrix @ c for matrix in self.inputs]

    def error(self, y):
        return -(self.output @ y)

    def take(self, chosen):
        return replace(
            self,
            inputs=[matrix[chosen] for matrix in self.inputs],
            couplings=[None if matrix is None else matrix[chosen] for matrix in self.couplings],
            output=self.output[chosen],
        )

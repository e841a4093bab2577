"""The matrices by which the theory of DFC judges stability, written out: for small networks, and to compare with."""

from typing import NamedTuple

import numpy as np

from dfc_numba.model.activations import phi_prime
from dfc_numba.model.jacobian import of_output
from dfc_numba.model.network import Network
from dfc_numba.support.ranges import Gain, Leak, TimeConstant
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import instance, number, samples


class PublishedSystems(NamedTuple):
    """Matrices of d(deviations)/dt of B samples, N = sum n_i voltages and n_L control signals.

    Attributes:
        tilde_i: (B, N + n_L, N + n_L) of the voltages and u. i: the same of v - v_ff and u, with the same eigenvalues.
        inst_i: (B, n_L, n_L) of u, where the layers are instantaneous.
        pi: as i, with proportional control.
    """

    tilde_i: np.ndarray
    i: np.ndarray
    inst_i: np.ndarray
    pi: np.ndarray


def published_systems(network, voltages, *, alpha, k_p, tau_v):
    """Return the linearised dynamics of DFC (Meulemans et al. 2021: A tilde, A_I, A_instI and A_PI) at given voltages.

        A~_I = [[-M, Q/tau_v], [-J_0, -alpha I]]        M = (I - W D)/tau_v, (W D)_{i,i-1} = W_i phi'(v_{i-1})
        A_I = [[-M, M Q], [-J, -alpha I]]               J = d r_L / d v, J_0: J with all but the block of v_L set to zero
        A_instI = -(J Q + alpha I)
        A_PI = [[-M, M Q], [-J + k_p J_0 / tau_v, -(alpha I + k_p J_L Q_L / tau_v)]]

    `stability` has the largest real parts of their eigenvalues without these matrices: `integral` is that of A~_I and A_I,
    `proportional` that of A_PI with leak="total" (which is what A_PI describes), as long as the controller has neither
    apical time constant nor filter; "difference" is the control error.

    Args:
        voltages: v_i to linearise at, list of (B, n_i).

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    number("alpha", alpha, Leak)
    number("k_p", k_p, Gain)
    number("tau_v", tau_v, TimeConstant)
    voltages = _checked(network, voltages)
    outputs, feedback = network.sizes[-1], np.concatenate(network.feedback).astype(np.float64)
    with one_thread():
        j, m = of_output(network, voltages), _decay(network, voltages) / tau_v
        last = np.zeros_like(j)
        last[:, :, -outputs:] = j[:, :, -outputs:]
        leak = alpha * np.eye(outputs)
        return PublishedSystems(
            tilde_i=_blocks(-m, feedback / tau_v, -last, -leak),
            i=_blocks(-m, m @ feedback, -j, -leak),
            inst_i=-(j @ feedback + leak),
            pi=_blocks(-m, m @ feedback, -j + k_p / tau_v * last, -(leak + k_p / tau_v * last @ feedback)),
        )


def _checked(network, voltages):
    """Return the voltages as arrays of the same number of samples."""
    sizes = instance("network", network, Network).sizes[1:]
    if not isinstance(voltages, list | tuple) or len(voltages) != len(sizes):
        raise ValueError(
            f"voltages must be a list of {len(sizes)} arrays, one for each layer, as in `SteadyState.v`"
        )
    arrays = []
    for i, (v, n) in enumerate(zip(voltages, sizes, strict=True)):
        arrays.append(samples(f"voltages[{i}]", v, n, count=len(arrays[0]) if arrays else None))
    return arrays


def _decay(network, voltages):
    """Return I - W D, (B, N, N)."""
    ends = np.cumsum([0, *network.sizes[1:]])
    decay = np.tile(np.eye(ends[-1]), (len(voltages[0]), 1, 1))
    for i in range(1, len(voltages)):
        slope = phi_prime(network.activations[i - 1], voltages[i - 1])
        place = slice(ends[i], ends[i + 1]), slice(ends[i - 1], ends[i])
        decay[(slice(None), *place)] = -network.weights[i].astype(np.float64) * slope[:, None, :]
    return decay


def _blocks(a, b, c, d):
    """Return [[a, b], [c, d]], of which some are the same for all samples."""
    count = len(a)
    b, c, d = (np.broadcast_to(block, (count, *block.shape[-2:])) for block in (b, c, d))
    return np.concatenate([np.concatenate([a, b], axis=2), np.concatenate([c, d], axis=2)], axis=1)

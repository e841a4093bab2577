"""The feedback phase of a linear network in the space of its control signal: the response of u to an impulse in u.

A step is that of `feedback_phase`, with n x n matrices in place of voltages (n = n_L): z_i is the voltage of layer i as the
output sees it, J_i v_i, and M_i = J_i Q_i is what the control signal does to it:

    u_int += dt (e - alpha u)   u = u_int + k_p e   e = -z_L           q += (dt/tau_c) (u - q)         p += (dt/tau_A) (q - p)
    z_i += (dt/tau_v) (M_i p + z_{i-1} - z_i)                           q: filtered control, p: v_fb_i = Q_i p
"""

import numpy as np

from dfc_numba.kernels.jit import jit, jit_part


@jit
def respond(response, loop, soma, apical, low, dt, alpha, k_p, leaks_integral, instant, proactive):
    """Write response (B, T, n, n) = u at each time point after an impulse added to it, not to the controller's own, at the first.

    Args:
        loop: (B, L, n, n), the matrices M_i. soma, apical, low: dt over tau_v, tau_A and tau_control, 1 for what follows at once.
        leaks_integral: alpha u_int leaks instead of alpha u. instant: z_{i-1} is that of the same step.
        proactive: p takes q of the same step.
    """
    samples, times, n = response.shape[:3]
    depth, size = loop.shape[1], n * n
    z, u, u_int, p, q = (
        np.empty((depth + 2, size)),
        np.empty(size),
        np.empty(size),
        np.empty(size),
        np.empty(size),
    )
    for b in range(samples):
        out, matrices = response[b].reshape((times, size)), loop[b].reshape((depth, size))
        for k in range(size):
            out[0, k] = 1.0 if k % (n + 1) == 0 else 0.0
            u[k], u_int[k], q[k] = 0.0, 0.0, low * out[0, k]
            p[k] = apical * q[k] if proactive else 0.0
        z[:] = 0.0
        if proactive:
            _climb(z, matrices, p, n, depth, soma, instant)
        for t in range(1, times):
            for k in range(size):
                e = -z[depth, k]
                u_int[k] += dt * (e - alpha * (u_int[k] if leaks_integral else u[k]))
                u[k] = u_int[k] + k_p * e
                out[t, k] = u[k]
                before = q[k]
                q[k] += low * (u[k] - q[k])
                p[k] += apical * ((q[k] if proactive else before) - p[k])
            _climb(z, matrices, p, n, depth, soma, instant)


@jit_part
def _climb(z, matrices, p, n, depth, soma, instant):
    """Take a step of z_1 .. z_L, rows 1 .. depth of z; row 0 is 0, the last row work space."""
    drive = depth + 1
    for layer in range(depth):
        i = (
            layer + 1 if instant else depth - layer
        )  # from above, where layers see the z_{i-1} of the step before
        for row in range(n):
            for j in range(n):
                z[drive, row * n + j] = z[i - 1, row * n + j]
            for k in range(n):
                m = matrices[i - 1, row * n + k]
                for j in range(n):
                    z[drive, row * n + j] += m * p[k * n + j]
        for k in range(n * n):
            z[i, k] += soma * (z[drive, k] - z[i, k])

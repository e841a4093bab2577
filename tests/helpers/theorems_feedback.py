"""What is predicted of feedback weights that learn from noise: the mean of the rule, and where it comes to rest.

DFC (Meulemans et al. 2021): Q comes close to a multiple of J^T (J J^T + gamma I)^{-1}. For a linear network that
follows its control at once (tau_v << 1), k_p = 0, r* = r_L, weight decay beta, noise eps of intensity sigma^2, and
A = J Q + alpha I:

    u' = -A u - J eps,    S = E[u u^T] / sigma^2,    E[Delta Q] - beta Q = -Q S - E[eps u^T] / sigma^2 - beta Q.

White noise. The rule pairs v_fb(t) with u(t+1), which has already seen eps(t): E[eps u^T] = -sigma^2 J^T, and
A S + S A^T = J J^T. At rest Q = J^T (S + beta I)^{-1} = J^T M, so condition 2 holds. For an eigenvalue g of G = J J^T, M has

    m (g / (2 a) + beta) = 1,  a = alpha + g m,        that is, beta g m^2 + (alpha beta - g/2) m = alpha.

Low-passed noise (time constant tau_n): E[eps u^T] = -(sigma^2 / 2) J^T (I + tau_n A^T)^{-1}, and likewise

    m (g / a + 2 beta (1 + tau_n a)) = 1.

Where the leak is large, kappa = g / (alpha beta) << 1, both are m = c / (g + gamma) (1 + O(kappa^2)), the theorem's form:

    white: c = 2 alpha, gamma = 2 alpha beta;
    low-passed, w = tau_n alpha: c = alpha (1 + w) / (1 + 2 w), gamma = 2 beta (1 + w) c.

Where it is small, white noise leads to J^T / (2 beta) instead. As beta m = 1 - g m / (2 a) lies between 1/2 and 1, M never
differs from a multiple of I by more than a factor of 2: no alpha and beta give the pseudoinverse, M = G^{-1}.
"""

import numpy as np
from scipy.optimize import brentq


def covariance_update(j, q, c, high_pass=None):
    """E[Delta Q] over a phase that starts at rest, by the covariance of (u, z, l), step by step.

    z is the noise, l the low-passed u of the single-phase rule, a dash means one step later, xi is a draw:

    z' = keep z + gain xi',  v_fb = Q u + sigma z,  u' = u - dt (J v_fb + alpha u),  l' = share u' + (1 - share) l
    """
    n, count = j.shape
    white, dt, identity = c.tau_noise is None, c.dt, np.eye(n)
    keep = 0.0 if white else 1 - dt / c.tau_noise
    gain = np.sqrt(dt) / (dt if white else c.tau_noise)
    share = 0.0 if high_pass is None else dt / high_pass
    u = np.hstack([identity - dt * (j @ q + c.alpha * identity), -dt * c.sigma * j, np.zeros((n, n))])
    z = np.hstack([np.zeros((count, n)), keep * np.eye(count), np.zeros((count, n))])
    low = share * u + (1 - share) * np.hstack([np.zeros((n, n + count)), identity])
    apical = np.hstack([q, c.sigma * np.eye(count), np.zeros((count, n))])
    drive = np.zeros((2 * n + count, count))
    drive[n : n + count] = gain * np.eye(count)
    step, observed = np.vstack([u, z, low]), u - (0.0 if high_pass is None else low)
    covariance, total = drive @ drive.T, np.zeros_like(q)
    for _ in range(1, c.steps):
        total -= apical @ covariance @ observed.T
        covariance = step @ covariance @ step.T + drive @ drive.T
    return total / (c.steps * c.sigma**2)


def at_rest(j, c, beta, start):
    """The root of the mean of the rule at this dt and T."""
    q = start
    for _ in range(100):
        q = q + 0.5 / beta * (covariance_update(j, q, c) - beta * q)
    return q


def balance(a, tau_noise=None, dt=0.0):
    """h, d, d' of m (g h(a) + beta d(a)) = 1, a = alpha + g m, for Euler steps of any size; d is linear in a.

    White: u' - (1 - a dt) u = -dt sigma J eps gives S = g / (a (2 - a dt)), of which the rule sees (1 - a dt) S.
    Low-passed: z has the variance 1 / (2 tau_n - dt), E[z u'] = -sigma tau_n J^T / ((2 tau_n - dt) (1 + (tau_n - dt) a)).
    """
    kept = 1 - a * dt
    if tau_noise is None:
        return kept / (a * (2 - a * dt)), 1.0, 0.0
    correlated, slope = 1 - dt / tau_noise, (tau_noise - dt) * (2 - dt / tau_noise)
    lag = 1 + (tau_noise - dt) * a
    h = kept * (dt * lag / tau_noise + 2 * kept * correlated) / (a * (2 - a * dt)) + dt * correlated
    return h, lag * (2 - dt / tau_noise), slope


def multiplier(g, alpha, beta, **noise):
    """m in Q = J^T M for an eigenvalue g of J J^T."""

    def excess(m):
        h, d, _ = balance(alpha + g * m, **noise)
        return m * (g * h + beta * d) - 1

    return brentq(excess, 0.0, 1 / beta, xtol=1e-15, rtol=1e-14)


def predicted(j, *options, **noise):
    """J^T M with M of eigenvalues multiplier(g) for the eigenvalues g of J J^T."""
    g, vectors = np.linalg.eigh(j @ j.T)
    return j.T @ (vectors * [multiplier(value, *options, **noise) for value in g]) @ vectors.T


def theorem(j, alpha, beta, **noise):
    """c J^T (J J^T + gamma I)^{-1} with the multiple c and gamma for large leaks: 1 / m to first order in g."""
    h, d, slope = balance(alpha, **noise)
    c = 1 / (h + slope / d)
    return c * j.T @ np.linalg.inv(j @ j.T + c * beta * d * np.eye(len(j)))

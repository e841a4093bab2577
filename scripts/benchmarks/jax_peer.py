"""A JAX version of the update of a forward phase: one jitted `lax.scan` over the steps.

The constant first layer is hoisted, the update is accumulated in the carry. Variants that were tried and are no faster
on a CPU: products over blocks of steps in a nested scan, unrolled scans, other layouts of the products, XLA's flags for
vector width, fast-math, oneDNN and XNNPACK. It honours the same options as `numpy_peer`, with tanh hidden layers, a
linear output and the difference error.

JAX takes the number of threads from the processors that its process may use; see `workers`.
"""

import jax
import jax.numpy as jnp
from jax import lax


def prepare(network, x, target, controller):
    """Return a function without arguments that computes the update, waits for it, and returns a list, weights first."""
    jax.config.update("jax_enable_x64", x.dtype.name == "float64")
    update = _jitted(controller, len(x))
    parameters = [list(arrays) for arrays in (network.weights, network.biases, network.feedback)]
    arguments = jax.device_put((*parameters, x, target.astype(x.dtype)))
    return lambda: jax.block_until_ready(update(*arguments))


def _jitted(controller, samples):
    """Return the compiled update for a controller and B samples."""

    def update(weights, biases, feedback, x, target):
        first = x @ weights[0].T + biases[0]
        voltages, output = _feedforward(first, weights, biases)
        u = jnp.zeros_like(target)
        sums = [jnp.zeros_like(w) for w in weights[1:]], [jnp.zeros_like(v) for v in voltages]
        step = _step(controller, weights, biases, feedback, first, target)
        carry, _ = lax.scan(step, (u, u, voltages, output, sums), length=controller.steps)
        outer, factors = carry[-1]
        count = samples * controller.time_points
        totals = [factors[0].T @ x, *outer, *(factor.sum(axis=0) for factor in factors)]
        return [total / count for total in totals]

    return jax.jit(update)


def _feedforward(first, weights, biases):
    """Return voltages of all layers, and the output."""
    voltages = [first]
    for w, b in zip(weights[1:], biases[1:], strict=True):
        voltages.append(jnp.tanh(voltages[-1]) @ w.T + b)
    return voltages, voltages[-1]


def _step(controller, weights, biases, feedback, first, target):
    """Take one Euler step of controller and layers, and return its share of the sums: the body of the scan."""
    gain, depth = controller.dt / controller.tau_v, len(weights)
    first_rate = jnp.tanh(first)

    def step(carry, _):
        u_int, u, voltages, output, (outer, factors) = carry
        error = target - output
        u_int = u_int + controller.dt * (error - controller.alpha * u)
        u = u_int + controller.k_p * error
        new_voltages, new_outer, new_factors, below = [], [], [], None
        for i in range(depth):
            phi = (lambda v: v) if i == depth - 1 else jnp.tanh
            basal = first if i == 0 else below @ weights[i].T + biases[i]
            v = voltages[i] + gain * (basal + u @ feedback[i].T - voltages[i])
            rate = phi(v)
            factor = rate - (first_rate if i == 0 else phi(basal))
            if i > 0:
                new_outer.append(outer[i - 1] + factor.T @ below)
            new_voltages.append(v)
            new_factors.append(factors[i] + factor)
            below = rate
        return (u_int, u, new_voltages, below, (new_outer, new_factors)), None

    return step

"""JAX versions of the updates of target propagation (DDTP-linear) and equilibrium propagation, one jitted function each.

As a user of JAX would write them: the products of whole minibatches, `lax.fori_loop` over the steps, the constant drive of
the first layer hoisted, noise from `jax.random`.
"""

import jax
import jax.numpy as jnp
from jax import lax


def prepare(update, *arguments):
    """Return a function without arguments that computes an update, and waits for it."""
    jax.config.update("jax_enable_x64", arguments[-1].dtype.name == "float64")
    arguments, update = jax.device_put(arguments), jax.jit(update)
    return lambda: jax.block_until_ready(update(*arguments))


def reconstruction(sigma):
    """Return the update of the linear mappings Q_i from noise, as `reconstruction_update`; key: of `jax.random`."""

    def update(weights, biases, mappings, key, x):
        rates, voltage = [], None
        for w, b in zip(weights, biases, strict=True):
            voltage = (rates[-1] if rates else x) @ w.T + b
            rates.append(jnp.tanh(voltage))
        found = []
        for i, (q, one) in enumerate(zip(mappings, jax.random.split(key, len(mappings)), strict=True)):
            noise = sigma * jax.random.normal(one, rates[i].shape, x.dtype)
            rate = rates[i] + noise
            for w, b in zip(weights[i + 1 :], biases[i + 1 :], strict=True):
                above = rate @ w.T + b
                rate = jnp.tanh(above)
            delta = above - voltage
            error = delta @ q.T - noise
            factor = 2.0 / (sigma**2 * error.size) * error
            found.append(-factor.T @ delta)
        return found

    return update


def prototypical(free_steps, nudged_steps, beta):
    """Return the one-sided update of the prototypical form with sigmoids and the squared error, as `equilibrium_update`."""

    def drives(weights, biases, first, state):
        found = [first] + [s @ w.T + b for s, w, b in zip(state, weights[1:], biases[1:], strict=False)]
        return [d + s @ w for d, s, w in zip(found, state[1:], weights[1:], strict=False)] + found[-1:]

    def update(weights, biases, x, y):
        first = x @ weights[0].T + biases[0]

        def free(_, state):
            return [jax.nn.sigmoid(d) for d in drives(weights, biases, first, state)]

        def nudged(_, state):
            *hidden, output = drives(weights, biases, first, state)
            return [jax.nn.sigmoid(d) for d in hidden] + [jax.nn.sigmoid(output + beta * (y - state[-1]))]

        start = [jnp.zeros((len(x), len(b)), x.dtype) for b in biases]
        rest = lax.fori_loop(0, free_steps, free, start)
        end = lax.fori_loop(0, nudged_steps, nudged, rest)
        scale = 1.0 / (beta * len(x))
        outer = [
            scale * (b.T @ a - d.T @ c) for a, b, c, d in zip([x, *end], end, [x, *rest], rest, strict=False)
        ]
        return outer, [scale * (b - a).sum(axis=0) for a, b in zip(rest, end, strict=False)]

    return update

"""The steps of the optimisers, one fused pass over a parameter array each, and the reduction behind
clipping and the check for non-finite numbers.

All arrays are one-dimensional and contiguous; theta the parameters, g the gradient. The scalars have the
arrays' dtype.
"""

import math

from dfc_numba.kernels.jit import jit


@jit
def sgd(theta, g, buffer, scale, decay, momentum, rate):
    """Take theta -= rate buffer, with buffer = momentum buffer + (scale g + decay theta)."""
    for k in range(theta.size):
        buffer[k] = momentum * buffer[k] + (scale * g[k] + decay * theta[k])
        theta[k] -= rate * buffer[k]


@jit
def nesterov(theta, g, buffer, scale, decay, momentum, rate):
    """Take theta -= rate (gradient + momentum buffer), gradient = scale g + decay theta, buffer = momentum buffer + gradient.

    Nesterov's look-ahead in the variables of the look-ahead itself (Sutskever et al., 2013).
    """
    for k in range(theta.size):
        gradient = scale * g[k] + decay * theta[k]
        buffer[k] = momentum * buffer[k] + gradient
        theta[k] -= rate * (gradient + momentum * buffer[k])


@jit
def adam(theta, g, first, second, scale, decay, beta1, rest1, beta2, rest2, rate, root, epsilon):
    """Take theta -= rate first / (root sqrt(second) + epsilon), moving means of g and g^2 (Kingma and Ba, 2015).

    rest = 1 - beta; rate and root carry the bias corrections, rate / (1 - beta1^steps) and (1 -
    beta2^steps)^(-1/2).
    """
    for k in range(theta.size):
        gradient = scale * g[k] + decay * theta[k]
        first[k] = beta1 * first[k] + rest1 * gradient
        second[k] = beta2 * second[k] + rest2 * (gradient * gradient)
        theta[k] -= rate * first[k] / (root * math.sqrt(second[k]) + epsilon)


@jit
def rmsprop(theta, g, mean, square, buffer, scale, decay, beta, rest, momentum, rate, epsilon):
    """Take theta -= rate buffer, with buffer = momentum buffer + g / (sqrt(E[g^2] - E[g]^2) + epsilon).

    This is the centred form of RMSprop; rest = 1 - beta.
    """
    for k in range(theta.size):
        gradient = scale * g[k] + decay * theta[k]
        mean[k] = beta * mean[k] + rest * gradient
        square[k] = beta * square[k] + rest * (gradient * gradient)
        variance = square[k] - mean[k] * mean[k]
        # rounding may make it negative; NaN stays NaN
        variance = variance if variance > 0 else variance - variance
        buffer[k] = momentum * buffer[k] + gradient / (math.sqrt(variance) + epsilon)
        theta[k] -= rate * buffer[k]


@jit
def sum_of_squares(values):
    """Sum of the squares in float64, by four partial sums (one would wait for itself at every addition)."""
    a = b = c = d = 0.0
    whole = values.size - values.size % 4
    for k in range(0, whole, 4):
        a += float(values[k]) * float(values[k])
        b += float(values[k + 1]) * float(values[k + 1])
        c += float(values[k + 2]) * float(values[k + 2])
        d += float(values[k + 3]) * float(values[k + 3])
    for k in range(whole, values.size):
        a += float(values[k]) * float(values[k])
    return (a + b) + (c + d)

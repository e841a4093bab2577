"""The linear response of the controlled network in control space: systems of n_L unknowns at m nodes in time per sample.

With the network linearised at its feedforward state, the control error e at the nodes obeys

    (I + sum over layers i of A_{L-i} (x) M_i) e = e_0 - sum over i of a_{L-i} (x) M_i e_0,      M_i = J_i Q_i  (n_L x n_L)

where A_k (m x m) and a_k (m) take the control error, at the nodes and at t = 0, through the controller, the compartments of a
layer and those of k layers above it (`dynamics.time_operators`). Matrices are dense and factorised in blocks; they are stored
transposed, so that both triangular solutions run along rows. How many nodes a shard needs is found here too, from this
response alone: no product with a weight matrix is needed for it.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part, jit_shared
from dfc_numba.kernels.multiply import _width, mix
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.simd import elementwise

BLOCK = 8  # columns that are eliminated before the rest of the matrix follows in one product
REFERENCES = 2  # rungs above the chosen one that its response is compared with
GROWTH = 1.0  # of the control error until T beyond which a loop is taken for unstable
MEMORY = 4  # control errors that the acceleration of slow iterations combines
PROBES = 3  # control errors that the response of a shard's mean is judged by


class Ladder(NamedTuple):
    """Time operators for growing numbers of nodes, of one dtype; a rung's matrices begin at `square`, its vectors at `vector`."""

    nodes: np.ndarray  # (R,) m
    square: np.ndarray  # (R,) sum of m^2 below
    vector: np.ndarray  # (R,) sum of m below
    response: np.ndarray  # [rung][node of e][node][k] A_k, begins at L square
    response_start: np.ndarray  # [rung][k][node] a_k, begins at L vector
    average: np.ndarray  # [rung][k][node of e] sums over time of the response, begins at L vector
    average_start: np.ndarray  # [rung][k]
    soma: np.ndarray  # see `TimeOperators`
    basal: np.ndarray
    control: np.ndarray
    control_start: np.ndarray
    last_control: np.ndarray
    last_control_start: np.ndarray
    total: np.ndarray
    root: np.ndarray  # R with R^T R the matrix of products
    delayed: bool


@elementwise(outputs=["out"], inputs=["x", "y"], scalars=["factor"])
def _add_multiple(x, y, factor):
    """Return x + factor y."""
    return x + factor * y


@jit_shared
def padded(count, width):
    """Return `count` rounded up to whole panels."""
    return (count + width - 1) // width * width


@jit_shared
def system_stride(unknowns, width):
    """Return the elements per row of a system's matrix: room for a panel that begins at any column."""
    return padded(unknowns, width) + width


@jit_shared
def most_nodes(ladder):
    """Return the largest number of nodes that is ever solved at."""
    return ladder.nodes[len(ladder.nodes) - 1 - REFERENCES]


# --- factorisation ----------------------------------------------------------------------------------------------------


@jit_part
def _pivot(a, start, stride, n, k, pivots, first):
    """Bring the row with the largest element of column k to row k."""
    top, largest = k, abs(a[start + k * stride + k])
    for i in range(k + 1, n):
        size = abs(a[start + i * stride + k])
        if size > largest:
            top, largest = i, size
    pivots[first + k] = top
    if top != k:
        row, other = start + k * stride, start + top * stride
        for j in range(n):
            a[row + j], a[other + j] = a[other + j], a[row + j]


@jit
def factorise(a, start, stride, n, pivots, first):
    """Replace a matrix by its LU factors with partial pivoting; multipliers are stored with their sign changed.

    Args:
        a: rows of `stride` elements from `start` on. pivots: receives n row numbers from `first` on.
    """
    width = _width(a)
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        for k in range(begin, end):
            _pivot(a, start, stride, n, k, pivots, first)
            pivot = start + k * stride
            inverse = 1.0 / a[pivot + k]
            for i in range(k + 1, n):
                row = start + i * stride
                factor = -a[row + k] * inverse
                a[row + k] = factor
                for j in range(k + 1, end):
                    a[row + j] += factor * a[pivot + j]
        if end == n:
            return
        columns = padded(n - end, width)
        for k in range(begin, end):
            pivot = start + k * stride
            for i in range(k + 1, end):
                row = start + i * stride
                _add_multiple(columns, at(a, row + end), at(a, row + end), at(a, pivot + end), a[row + k])
        corner = start + end * stride
        mix(a, corner + end, stride, n - end, a, corner + begin, stride, end - begin,
            a, start + begin * stride + end, stride, columns, True)  # fmt: skip


@jit
def solve_transposed(a, start, stride, n, pivots, first, x, x_start):
    """Replace x by the solution of A^T y = x, with A factorised; x has room for a panel behind its n elements."""
    width = _width(a)
    for k in range(n):
        row, here = start + k * stride, x_start + k
        x[here] = x[here] / a[row + k]
        _add_multiple(
            padded(n - k - 1, width), at(x, here + 1), at(x, here + 1), at(a, row + k + 1), -x[here]
        )
    for k in range(n - 1, 0, -1):
        # the panel may reach beyond x[k], which is put back
        value = x[x_start + k]
        count = padded(k, width)
        for j in range(k, min(count, n)):
            x[x_start + n + width + j - k] = x[x_start + j]
        _add_multiple(count, at(x, x_start), at(x, x_start), at(a, start + k * stride), value)
        for j in range(k, min(count, n)):
            x[x_start + j] = x[x_start + n + width + j - k]
    for k in range(n - 1, -1, -1):
        top = pivots[first + k]
        if top != k:
            x[x_start + k], x[x_start + top] = x[x_start + top], x[x_start + k]


# --- systems ------------------------------------------------------------------------------------------------------------


@jit
def assemble(ladder, rung, depth, outputs, matrices, begin, system, start, products):
    """Write the transposed matrix of one sample's system.

    Args:
        matrices: M_{L-k}, transposed and flat, for k = 0 .. L-1 from `begin` on, each padded to whole panels.
        system: receives the matrix. products: scratch of m^2 such matrices.
    """
    m, width = ladder.nodes[rung], _width(system)
    square, n = padded(outputs * outputs, width), m * outputs
    stride = system_stride(n, width)
    mix(products, 0, square, m * m, ladder.response, depth * ladder.square[rung], depth, depth,
        matrices, begin, square, square, False)  # fmt: skip
    for node in range(m):
        for j in range(outputs):
            row = start + (node * outputs + j) * stride
            for other in range(m):
                move(
                    outputs,
                    system,
                    row + other * outputs,
                    products,
                    (node * m + other) * square + j * outputs,
                )
            fill(stride - n, system, row + n, 0.0)
            system[row + node * outputs + j] += 1.0


@jit
def right_side(ladder, rung, depth, outputs, matrices, begin, e, e_start, x, x_start):
    """Write x = e_0 - sum of a_k (x) M_{L-k} e_0, for one sample; e holds e_0."""
    m, square = ladder.nodes[rung], padded(outputs * outputs, _width(matrices))
    for node in range(m):
        for i in range(outputs):
            x[x_start + node * outputs + i] = e[e_start + i]
    for k in range(depth):
        for i in range(outputs):
            response = 0.0
            for j in range(outputs):
                response += matrices[begin + k * square + j * outputs + i] * e[e_start + j]
            for node in range(m):
                at = depth * ladder.vector[rung] + k * m + node
                x[x_start + node * outputs + i] -= ladder.response_start[at] * response


@jit_part
def _average(ladder, rung, depth, outputs, e, e_start, x, x_start, z, z_start):
    """Write z[k] = the sum over time of the response k layers on, to the control error e at t = 0 and x at the nodes."""
    m = ladder.nodes[rung]
    for k in range(depth):
        for i in range(outputs):
            total = ladder.average_start[rung * depth + k] * e[e_start + i]
            for node in range(m):
                at = depth * ladder.vector[rung] + k * m + node
                total += ladder.average[at] * x[x_start + node * outputs + i]
            z[z_start + k * outputs + i] = total


@jit_part
def _distance(z, first, second, count):
    """Return (squared norm of the difference of two rows, squared norm of the second)."""
    difference, size = 0.0, 0.0
    for k in range(count):
        difference += (z[first + k] - z[second + k]) ** 2
        size += z[second + k] ** 2
    return difference, size


@jit
def choose_nodes(ladder, depth, outputs, matrices, errors, probes, tolerance, found):
    """Return the first rung whose response agrees with that of the next two, or -1 if there is none or the loop is unstable.

    Args:
        matrices: flat [probed matrix][k][n_L n_L padded], in float64. errors: flat [probe][output] control errors at t = 0.
        probes: for each probe the number of its matrix.
        tolerance: largest relative difference of the sums over time of the response. found: receives the difference.
    """
    width = _width(matrices)
    square, count = padded(outputs * outputs, width), depth * outputs
    rungs, sets = len(ladder.nodes), len(matrices) // (depth * square)
    most = ladder.nodes[-1]
    system = np.empty(most * outputs * system_stride(most * outputs, width))
    products, pivots = np.empty(most * most * square), np.empty(most * outputs, np.int64)
    x = np.zeros(most * outputs + 2 * width)
    row, end = len(probes) * count, len(probes) * outputs
    z, last = np.zeros(rungs * row), np.zeros(rungs * end)
    initial = 0.0
    for value in errors:
        initial += value * value
    for rung in range(rungs):
        n = ladder.nodes[rung] * outputs
        for which in range(sets):
            begin = which * depth * square
            assemble(ladder, rung, depth, outputs, matrices, begin, system, 0, products)
            factorise(system, 0, system_stride(n, width), n, pivots, 0)
            for probe in range(len(probes)):
                if probes[probe] != which:
                    continue
                right_side(ladder, rung, depth, outputs, matrices, begin, errors, probe * outputs, x, 0)
                solve_transposed(system, 0, system_stride(n, width), n, pivots, 0, x, 0)
                _average(
                    ladder, rung, depth, outputs, errors, probe * outputs, x, 0, z, rung * row + probe * count
                )
                move(outputs, last, rung * end + probe * outputs, x, n - outputs)
        if rung < REFERENCES:
            continue
        worst = 0.0
        for other in range(rung - REFERENCES, rung):
            difference, size = _distance(z, other * row, rung * row, row)
            relative = np.sqrt(difference / size)
            worst = max(worst, relative) if np.isfinite(relative) else np.inf
        found[0] = worst
        difference, size = _distance(last, (rung - REFERENCES) * end, rung * end, end)
        found[1] = np.sqrt(difference / initial)
        if worst < tolerance:
            return rung - REFERENCES if size <= GROWTH**2 * initial else -1
    return -1


@jit
def step_linear(dynamics, depth, outputs, matrices, start, e, u):
    """Write the control error and signal at T of networks linearised at their feedforward state, by all Euler steps.

    Args:
        matrices: (n, k n_L n_L padded) M_{L-k} transposed, of n samples. start: (n, n_L) control errors at t = 0.
        e, u: (n, n_L), receive the result.
    """
    count, width = start.shape[0], _width(e)
    stride, square = padded(outputs, width), matrices.shape[1] // depth
    rows, size = depth * stride, count * stride
    responses, f = np.zeros(count * rows * stride), np.zeros(count * rows)
    error, first = np.zeros(size), np.zeros(size)
    u_int, signal, filtered, seen, apical = (
        np.zeros(size),
        np.zeros(size),
        np.zeros(size),
        np.zeros(size),
        np.zeros(size),
    )
    for s in range(count):
        for i in range(outputs):
            first[s * stride + i] = start[s, i]
            for k in range(depth):
                for j in range(outputs):
                    at = ((s * depth + k) * stride + j) * stride + i
                    responses[at] = -matrices[s, k * square + j * outputs + i]
    keep = 1.0 - dynamics.soma_gain
    for step in range(dynamics.steps + 1):
        move(size, error, 0, first, 0)
        for s in range(count):
            mix(
                error,
                s * stride,
                stride,
                1,
                f,
                s * rows,
                rows,
                rows,
                responses,
                s * rows * stride,
                stride,
                stride,
                True,
            )
        if step == dynamics.steps:
            break
        gain = dynamics.control_gain if step > 0 else 1.0
        for q in range(size):
            if not dynamics.proactive:
                seen[q] = filtered[q]
            u_int[q] += dynamics.dt * (
                error[q] - dynamics.alpha * (u_int[q] if dynamics.leak_integral else signal[q])
            )
            signal[q] = u_int[q] + dynamics.k_p * error[q]
            filtered[q] = gain * signal[q] + (1.0 - gain) * filtered[q]
            if dynamics.proactive:
                seen[q] = filtered[q]
            apical[q] = (1.0 - dynamics.apical_gain) * apical[q] + dynamics.apical_gain * seen[q]
        for s in range(count):
            own = s * rows
            for place in range(depth):
                k = place if dynamics.instant_transmission else depth - 1 - place
                for i in range(stride):
                    drive = apical[s * stride + i] if k == 0 else f[own + (k - 1) * stride + i]
                    at = own + k * stride + i
                    f[at] = keep * f[at] + dynamics.soma_gain * drive
    for s in range(count):
        for i in range(outputs):
            e[s, i], u[s, i] = error[s * stride + i], signal[s * stride + i]


@jit
def solve_normal_equations(a, n, regularisation):
    """Replace column n of the first n normal equations by their solution, regularised relative to the trace."""
    trace = 0.0
    for k in range(n):
        trace += a[k, k]
    for k in range(n):
        a[k, k] += regularisation * trace + 1e-300
    for k in range(n):
        for row in range(k + 1, n):
            factor = a[row, k] / a[k, k]
            for column in range(k, n + 1):
                a[row, column] -= factor * a[k, column]
    for k in range(n - 1, -1, -1):
        for column in range(k + 1, n):
            a[k, n] -= a[k, column] * a[column, n]
        a[k, n] /= a[k, k]


@jit
def accelerate(errors, corrections, age, weights, outputs, error, correction, work):
    """Write Anderson's combination of one sample's last control errors and corrections, in place of the plain step.

    Args:
        errors, corrections: (MEMORY, m n_L) rings, into which those of this iteration, number `age`, are written.
        weights: (m,) of the nodes in the norm that the combination makes smallest. work: (MEMORY, MEMORY + 1).
    """
    n, here = error.size, age % MEMORY
    for j in range(n):
        errors[here, j], corrections[here, j] = error[j], correction[j]
    known = min(age, MEMORY - 1)
    if known == 0:
        return
    for a in range(known):
        old = (age - 1 - a) % MEMORY
        for b in range(known + 1):
            other = (age - 1 - b) % MEMORY
            total = 0.0
            for j in range(n):
                difference = correction[j] - corrections[old, j]
                second = correction[j] if b == known else correction[j] - corrections[other, j]
                total += weights[j // outputs] * difference * second
            work[a, b] = total
    solve_normal_equations(work, known, 1e-10)
    for a in range(known):
        old, share = (age - 1 - a) % MEMORY, work[a, known]
        for j in range(n):
            change = error[j] - errors[old, j] + corrections[here, j] - corrections[old, j]
            correction[j] -= share * change

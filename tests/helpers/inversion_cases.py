"""Random problems of dynamic inversion, its loops written down step by step in NumPy, and a little of all that it does.

    python inversion_cases.py OUT.npz

writes the results, for tests that compare processes in other environments.
"""

import os
import subprocess
import sys

import numpy as np

import dfc_numba as dfc

NONLINEARITIES = ("linear", "tanh", "linearized")
DTYPES = ("float32", "float64")


def random_problem(sizes, count, dtype="float64", seed=0):
    """(weights, feedback near -W^T, derivatives, delta_out) with loops that are stable."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(n, m)) / np.sqrt(n + m) for m, n in zip(sizes[:-1], sizes[1:], strict=True)]
    feedback = [-(w + 0.1 * rng.normal(size=w.shape) / np.sqrt(w.size)).T for w in weights[1:]]
    derivatives = [rng.uniform(0.5, 1.0, (count, n)) for n in sizes[1:-1]]
    delta = 0.1 * rng.normal(size=(count, sizes[-1]))
    lists = [[a.astype(dtype) for a in arrays] for arrays in (weights, feedback, derivatives)]
    return *lists, delta.astype(dtype)


def single_feedback(weights):
    """B = -W_2^T ... W_L^T of the single loop, scaled so that it is stable: the norm of W_L ... W_2 B is 1."""
    product = -np.linalg.multi_dot([np.eye(weights[1].shape[1]), *[w.T for w in weights[1:]]])
    return (product / np.linalg.norm(product, 2) ** 2).astype(weights[0].dtype)


def shown(nonlinearity, r, slope):
    """psi(r)."""
    return {"linear": lambda: r, "tanh": lambda: np.tanh(r), "linearized": lambda: r / slope}[nonlinearity]()


def sequential_loop(w, b, slope, delta, *, alpha=0.0, dt=0.5, steps=999, nonlinearity="linear"):
    """All states of one layer's loop for one sample: r_x (T, n_in), r_y (T, n_out)."""
    r_x, r_y = [np.zeros(len(b))], [np.zeros(len(w))]
    for _ in range(steps):
        r_y.append(r_y[-1] + dt * (-alpha * r_y[-1] + w @ shown(nonlinearity, r_x[-1], slope) - delta))
        r_x.append(r_x[-1] + dt * (-r_x[-1] + b @ r_y[-1]))
    return np.array(r_x), np.array(r_y)


def single_loop(weights, b, slopes, delta, *, alpha=0.0, dt=0.5, steps=999, nonlinearity="linear"):
    """All states of the loop through W_2 .. W_L for one sample: list of (T, n_i), the output last."""
    states = [[np.zeros(len(b))], *([np.zeros(len(w))] for w in weights)]
    for _ in range(steps):
        states[0].append(states[0][-1] + dt * (-states[0][-1] + b @ states[-1][-1]))
        for i, w in enumerate(weights, 1):
            r, drive = states[i][-1], w @ shown(nonlinearity, states[i - 1][-1], slopes[i - 1])
            leak = -alpha * r - delta if i == len(weights) else -r
            states[i].append(r + dt * (leak + drive))
    return [np.array(r) for r in states]


def small_results(dtype):
    """Named arrays of both loops, every nonlinearity, recorded and stopped early."""
    weights, feedback, derivatives, delta = random_problem([3, 7, 5, 2], 19, dtype)
    feedbacks = {"di": feedback, "sldi": single_feedback(weights)}
    for rule, matrices in feedbacks.items():
        for nonlinearity in NONLINEARITIES:
            options = {"rule": rule, "nonlinearity": nonlinearity, "alpha": 0.01}
            name = f"{dtype} {rule} {nonlinearity}"
            problem = weights, matrices, derivatives, delta
            errors, states = dfc.backward_errors(*problem, steps=9, trajectory=True, **options)
            yield name, [*errors, *states.r_x, *states.r_y]
            yield f"{name} early", dfc.backward_errors(*problem, tolerance=1e-3, steps=200, **options)


def results():
    """All results as one dictionary of arrays."""
    named = (item for dtype in DTYPES for item in small_results(dtype))
    return {f"{name} {i}": array for name, arrays in named for i, array in enumerate(arrays)}


def in_another_process(folder, **environment):
    """The results of a process of its own, with additional environment variables."""
    out = folder / "inversion.npz"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    arguments = [sys.executable, __file__, str(out)]
    finished = subprocess.run(arguments, check=False, env=variables, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with np.load(out) as file:
        return dict(file)


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())

"""Errors of hidden layers as the published code of dynamic inversion computes them, and how ours are compared with them.

A reference file is an .npz archive with samples in columns. Its arrays are named `<quantity>__<rule>__<feedback>__a<alpha>`;
`resources/inversion` holds a selection with few time points (`traj_steps`); `DFC_INVERSION_DIR` names a folder with more.
"""

import os
import re
from functools import partial

import numpy as np
from reference_files import RESOURCES, Comparison

import dfc_numba as dfc

STEPS = 999
NONLINEARITIES = {"lin": "linear", "tanh": "tanh", "linz": "linearized"}
KINDS = {
    "linear": r"\d+_linear_(trained|init)",
    "nonlinear": r"\d+_nonlinear",
    "autoencoder": r"\d+_autoenc_small",
}


def kind(path):
    """The kind of a reference file, or None for one that holds no errors."""
    return next((name for name, pattern in KINDS.items() if re.fullmatch(pattern, path.stem)), None)


def files():
    """The shipped files, and those of the folder that DFC_INVERSION_DIR names."""
    folders = [RESOURCES / "inversion", *filter(None, [os.environ.get("DFC_INVERSION_DIR")])]
    return [
        path for folder in folders for path in sorted(type(RESOURCES)(folder).glob("*.npz")) if kind(path)
    ]


def read(path):
    """The arrays of a file by name."""
    with np.load(path) as archive:
        return dict(archive)


def problem(arrays):
    """(weights, derivatives, delta_out) as `backward_errors` takes them; a stand-in for W_1, which takes no part."""
    weights, last = [], 1
    while f"W{last}" in arrays:
        weights.append(arrays[f"W{last}"])
        last += 1
    weights.insert(0, np.zeros((weights[0].shape[1], 1)))
    derivatives = [arrays[f"DH{i}"].T for i in range(1, last)] if "DH1" in arrays else None
    return weights, derivatives, arrays["E"].T


def feedback(arrays, which, *, single=False):
    """The feedback matrices of a kind: a list, or the one of the single loop."""
    if single or (f"B_{which}" in arrays and "B1_" + which not in arrays):
        return arrays[f"B_{which}"]
    hidden = len(problem(arrays)[0]) - 1
    if f"B1_{which}" in arrays:
        return [arrays[f"B{i}_{which}"] for i in range(1, hidden + 1)]
    assert which == "negT"
    return [-arrays[f"W{i}"].T for i in range(1, hidden + 1)]


def comparisons(path):
    """Every array of a file that `backward_errors` can compute: list of `Comparison`."""
    arrays = read(path)
    return {"linear": _linear, "nonlinear": _nonlinear, "autoencoder": _autoencoder}[kind(path)](arrays)


def _call(arrays, which, *, single=False, **options):
    weights, derivatives, delta_out = problem(arrays)
    matrices = None if which is None else feedback(arrays, which, single=single)
    return dfc.backward_errors(weights, matrices, derivatives, delta_out, **options)


def _columns(name, arrays, errors):
    """Errors of all hidden layers beside the arrays whose names differ in the layer's number."""
    return [
        Comparison(name.format(i), error.T, arrays[name.format(i)])
        for i, error in enumerate(errors, 1)
        if name.format(i) in arrays
    ]


def _states(arrays, named):
    """Recorded states of the first sample beside the arrays that hold them; named: {array: (T, B, n)}."""
    times = arrays.get("traj_steps", np.arange(STEPS + 1))
    return [
        Comparison(name, states[times, 0], arrays[name]) for name, states in named.items() if name in arrays
    ]


def _matches(arrays, pattern):
    return filter(None, (re.fullmatch(pattern, name) for name in arrays))


def _linear(arrays):
    found = [*_columns("del{}__BP", arrays, _call(arrays, None, rule="bp"))]
    found += _columns("del{}__PBP", arrays, _call(arrays, None, rule="pbp"))
    for match in _matches(arrays, r"del1__FA__(\w+)"):
        for rule in ("fa", "dfa"):
            found += _columns(match[0].replace("del1", "del{}"), arrays, _call(arrays, match[1], rule=rule))
    for match in _matches(arrays, r"del1__NDI__(\w+)__a([\d.]+)"):
        errors = _call(arrays, match[1], rule="ndi", alpha=float(match[2]))
        found += _columns(match[0].replace("del1", "del{}"), arrays, errors)
    for match in _matches(arrays, r"del1__DI__(\w+__a[\d.]+)"):
        which, alpha = match[1].split("__a")
        call = partial(_call, arrays, which, rule="di", alpha=float(alpha))
        errors, states = call(trajectory=True)
        found += _columns(match[0].replace("del1", "del{}"), arrays, errors)
        found += _states(
            arrays, {f"traj_rx__{match[1]}": states.r_x[0], f"traj_ry__{match[1]}": states.r_y[0]}
        )
        found += _columns(f"ss_rx__{match[1]}", arrays, call(steps=None))
    return found


def _nonlinear(arrays):
    found = []
    for match in _matches(arrays, r"del1__(BP|PBP|FA)(?:_(\w+?))?__paper"):
        errors = _call(arrays, match[2], rule=match[1].lower())
        found += _columns(match[0].replace("del1", "del{}"), arrays, errors)
    for match in _matches(arrays, r"del1__NDI__(\w+)__a([\d.]+)__paper"):
        errors = _call(arrays, match[1], rule="ndi", alpha=float(match[2]))
        found += _columns(match[0].replace("del1", "del{}"), arrays, errors)
    for match in _matches(arrays, r"del1__(S?)DI(lin|tanh|linz)__(\w+)__a([\d.]+)"):
        found += _loops(arrays, match, "sldi" if match[1] else "di")
    return found


def _loops(arrays, match, rule):
    """Dynamics and rest of one loop."""
    name = match[0].removeprefix("del1__")
    call = partial(
        _call, arrays, match[3], single=rule == "sldi",
        rule=rule, alpha=float(match[4]), nonlinearity=NONLINEARITIES[match[2]],
    )  # fmt: skip
    errors, states = call(trajectory=True)
    if rule == "sldi":
        named = {"traj_rx__": states.r_x[0], "traj_ry__": states.r_x[1], "traj_rz__": states.r_y[0]}
    else:
        kept = {"rx": states.r_x, "ry": states.r_y}
        named = {f"traj{i + 1}_{v}__": kept[v][i] for v in kept for i in range(2)}
    found = _columns(f"del{{}}__{name}", arrays, errors)
    found += _states(arrays, {prefix + name: recorded for prefix, recorded in named.items()})
    return found + _columns(f"ss_del{{}}__{name}", arrays, call(steps=None))


def _autoencoder(arrays):
    found = []
    for match in _matches(arrays, r"del1__(BP|PBP|FA|NDI)_?_?(\w+?)?(?:__a([\d.]+))?"):
        errors = _call(arrays, match[2], rule=match[1].lower(), alpha=float(match[3] or 0))
        found += _columns(match[0].replace("del1", "del{}"), arrays, errors)
    return found

"""The network: its parameters and where they lie, its feedforward pass, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
from problems import inputs, parameters, relative_deviation

import dfc_numba as dfc

SIZES = [4, 6, 5, 3]
ACTIVATIONS = {
    "linear": lambda v: v,
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "leakyrelu": lambda v: np.where(v > 0, v, 0.2 * v),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
}
BOUND = {np.dtype("float64"): 1e-14, np.dtype("float32"): 1e-6}


def feedforward(net, x):
    """Voltages and rates in plain NumPy and float64."""
    voltages, rates, below = [], [], np.asarray(x, float)
    for i, name in enumerate([*net.hidden_activations, net.output_activation]):
        bias = 0.0 if net.biases is None else net.biases[i].astype(float)
        voltages.append(below @ net.weights[i].astype(float).T + bias)
        rates.append(ACTIVATIONS[name](voltages[-1]))
        below = rates[-1]
    return voltages, rates


def arrays(net):
    return [*net.weights, *(net.biases or []), *net.feedback]


# --- contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_shapes_and_types_are_those_of_the_contract(dtype):
    net = dfc.Network.create(SIZES, seed=1, dtype=dtype)
    assert tuple(net.sizes) == tuple(SIZES) and net.dtype == np.dtype(dtype)
    assert [w.shape for w in net.weights] == [(6, 4), (5, 6), (3, 5)]
    assert [b.shape for b in net.biases] == [(6,), (5,), (3,)]
    assert [q.shape for q in net.feedback] == [(6, 3), (5, 3), (3, 3)]
    assert all(isinstance(group, list) for group in (net.weights, net.biases, net.feedback))
    assert all(a.dtype == dtype and a.flags.c_contiguous and a.flags.writeable for a in arrays(net))
    assert net.hidden_activations == ("tanh", "tanh") and net.output_activation == "linear"
    assert net.n_parameters == sum(a.size for a in arrays(net))
    assert repr(net) == f"Network(4-6-5-3, tanh/tanh/linear, bias=True, {dtype})"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_samples", [1, 7])
def test_activity_has_samples_first(dtype, n_samples):
    net = dfc.Network.create(SIZES, dtype=dtype)
    activity = net.forward(inputs(n_samples, 4))
    for group in (activity.v, activity.r):
        assert [a.shape for a in group] == [(n_samples, n) for n in SIZES[1:]]
        assert all(a.dtype == dtype and a.flags.c_contiguous for a in group)
    assert np.array_equal(net.predict(inputs(n_samples, 4)), activity.r[-1])


@pytest.mark.parametrize("bias", [True, False])
def test_all_parameters_are_views_into_one_block(bias):
    net = dfc.Network.create(SIZES, bias=bias)
    (base,) = {id(a.base) for a in arrays(net)}
    block = net.weights[0].base
    assert id(block) == base and block.ndim == 1 and block.size == net.n_parameters
    assert (net.biases is None) == (not bias)


def test_the_arrays_are_copies_of_what_was_given():
    given = parameters(SIZES)
    net = dfc.Network(**given)
    given["weights"][0][:] = 0
    assert np.abs(net.weights[0]).min() > 0


def test_dtype_follows_the_weights_unless_it_is_named():
    assert dfc.Network(**parameters(SIZES, dtype=np.float32)).dtype == np.float32
    assert dfc.Network(**parameters(SIZES)).dtype == np.float64
    assert dfc.Network(**parameters(SIZES), dtype="float32").dtype == np.float32


# --- changing parameters ------------------------------------------------------------------------------------


def test_parameters_change_in_place():
    net, x = dfc.Network.create(SIZES, seed=1), inputs(3, 4)
    before, block = net.predict(x), net.weights[0].base
    net.weights[-1] *= 2.0
    net.biases[-1][:] += 0.5
    np.testing.assert_allclose(net.predict(x), 2 * before + 0.5, rtol=1e-14)
    assert net.weights[-1].base is block


def test_assigning_an_array_copies_it_into_the_block():
    net, matrix = dfc.Network.create(SIZES), np.ones((5, 6), np.float32)
    block, view = net.weights[0].base, net.weights[1]
    net.weights[1] = matrix
    assert net.weights[1] is view and view.base is block and view.dtype == np.float64
    assert np.array_equal(view, matrix)


@pytest.mark.parametrize("kind", ["weights", "biases", "feedback"])
def test_assigning_a_list_copies_its_arrays_into_the_block(kind):
    network = dfc.Network.create(SIZES)
    there = list(getattr(network, kind))
    given = [array + 1 for array in there]
    setattr(network, kind, given)
    assert all(a is b for a, b in zip(getattr(network, kind), there, strict=True))
    assert all(np.array_equal(a, b) and a is not b for a, b in zip(there, given, strict=True))
    setattr(network, kind, getattr(network, kind))
    assert np.array_equal(there[0], given[0])


@pytest.mark.parametrize(
    ("kind", "values", "error", "message"),
    [
        ("weights", [np.zeros((5, 4))], ValueError, "weights has 1 entries for 3 layers"),
        (
            "weights",
            [np.zeros((4, 6)), np.zeros((6, 5)), np.zeros((5, 3))],
            ValueError,
            r"weights\[0\] has shape",
        ),
        ("feedback", [np.zeros((2, 2))] * 3, ValueError, r"feedback\[0\] has shape"),
        ("biases", None, TypeError, "biases must be a list"),
        ("sizes", (1, 2), AttributeError, "sizes"),
        ("dtype", np.float32, AttributeError, "dtype"),
        ("output_activation", "relu", AttributeError, "output_activation"),
        ("hidden_activation", "relu", AttributeError, "hidden_activation"),
    ],
)
def test_what_does_not_fit_a_network_is_not_assigned(kind, values, error, message):
    network = dfc.Network.create(SIZES, bias=True)
    with pytest.raises(error, match=message):
        setattr(network, kind, values)
    with pytest.raises(ValueError, match="the network has no biases"):
        dfc.Network.create(SIZES, bias=False).biases = [np.zeros(n) for n in SIZES[1:]]


def test_layers_are_neither_added_nor_removed():
    network = dfc.Network.create(SIZES)
    for change in (
        lambda: network.weights.append(np.zeros((2, 3))),
        lambda: network.weights.pop(),
        lambda: network.weights.clear(),
        lambda: network.weights.__iadd__([np.zeros((2, 3))]),
        lambda: network.weights.__delitem__(0),
    ):
        with pytest.raises(TypeError, match="neither added, removed nor moved"):
            change()
    assert len(network.weights) == len(SIZES) - 1


def test_a_network_that_shares_has_the_given_arrays_themselves():
    network = dfc.Network.create(SIZES)
    weights = [array.copy() for array in network.weights]
    other = network.sharing(weights=weights, biases=None)
    assert (
        other.weights[0] is weights[0] and other.biases is None and other.feedback[0] is network.feedback[0]
    )
    assert network.weights[0] is not weights[0] and network.biases is not None


@pytest.mark.parametrize(
    ("kind", "i", "value", "message"),
    [
        ("weights", 1, np.ones((6, 5)), r"weights\[1\] has shape \(6, 5\); expected \(5, 6\)"),
        ("biases", 0, [0.0, np.nan, 0, 0, 0, 0], r"biases\[0\]\[1\] is nan"),
        ("feedback", 2, "abc", r"feedback\[2\] must be an array of numbers"),
        ("weights", slice(None), [1, 2, 3], "one layer at a time"),
    ],
)
def test_assigning_something_that_does_not_fit_changes_nothing(kind, i, value, message):
    net = dfc.Network.create(SIZES)
    before = [a.copy() for a in arrays(net)]
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(net, kind)[i] = value
    assert all(np.array_equal(a, b) for a, b in zip(arrays(net), before, strict=True))


@pytest.mark.parametrize(
    "duplicate", [dfc.Network.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_copies_are_equal_and_independent(duplicate):
    net = dfc.Network.create(SIZES, seed=4, hidden_activation=["relu", "tanh"], output_activation="sigmoid")
    twin, x = duplicate(net), inputs(3, 4)
    assert np.array_equal(twin.predict(x), net.predict(x)) and repr(twin) == repr(net)
    twin.weights[0] *= 0
    assert np.abs(net.weights[0]).min() > 0


def test_a_copy_may_have_another_dtype():
    net = dfc.Network.create(SIZES, seed=4)
    single = net.copy(dtype="float32")
    assert single.dtype == np.float32
    assert all(np.array_equal(a.astype("f4"), b) for a, b in zip(arrays(net), arrays(single), strict=True))


# --- initialisation -----------------------------------------------------------------------------------------

WIDE = [500, 300, 400, 200]


def first_weights(init, seed=0):
    return dfc.Network.create(WIDE, init=init, seed=seed).weights


def first_feedback(init, seed=0):
    return dfc.Network.create(WIDE, feedback_init=init, seed=seed).feedback[:-1]


@pytest.mark.parametrize("matrices", [first_weights, first_feedback])
def test_xavier_normal_has_the_standard_deviation_of_glorot_and_bengio(matrices):
    for matrix in matrices("xavier_normal"):
        expected = np.sqrt(2 / sum(matrix.shape))
        assert matrix.std() == pytest.approx(expected, rel=0.02)
        assert abs(matrix.mean()) < 5 * expected / np.sqrt(matrix.size)
        assert np.mean(np.abs(matrix) > 1.96 * expected) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("matrices", [first_weights, first_feedback])
def test_xavier_is_uniform_within_its_bounds(matrices):
    for matrix in matrices("xavier"):
        bound = np.sqrt(6 / sum(matrix.shape))
        assert 0.999 * bound < np.abs(matrix).max() <= bound
        assert matrix.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("matrices", [first_weights, first_feedback])
def test_orthogonal_has_orthonormal_rows_or_columns_times_the_gain(matrices):
    for matrix in matrices("orthogonal"):
        smaller = matrix if len(matrix) <= len(matrix.T) else matrix.T
        gain = 6 / sum(matrix.shape)
        np.testing.assert_allclose(smaller @ smaller.T, gain * np.eye(len(smaller)), atol=1e-14)


def test_orthonormal_has_orthonormal_rows_or_columns():
    for matrix in first_weights("orthonormal"):
        smaller = matrix if len(matrix) <= len(matrix.T) else matrix.T
        np.testing.assert_allclose(smaller @ smaller.T, np.eye(len(smaller)), atol=1e-14)


def test_uniform_fills_its_range():
    for matrix in dfc.Network.create(WIDE, init="uniform", init_range=0.2).weights[:-1]:
        assert 0.199 < np.abs(matrix).max() <= 0.2 and matrix.std() == pytest.approx(
            0.2 / np.sqrt(3), rel=0.02
        )
    with pytest.raises(ValueError, match="init_range is 0"):
        dfc.Network.create(WIDE, init="uniform", init_range=0)


@pytest.mark.parametrize("init", ["xavier_normal", "xavier", "orthogonal", "weight_product"])
def test_the_output_layer_gets_the_identity_as_feedback(init):
    assert np.array_equal(dfc.Network.create(SIZES, feedback_init=init).feedback[-1], np.eye(3))


def test_biases_start_at_zero():
    assert not any(b.any() for b in dfc.Network.create(SIZES).biases)


def test_feedback_of_weight_products():
    net = dfc.Network.create(SIZES, feedback_init="weight_product")
    np.testing.assert_allclose(net.feedback[1], net.weights[2].T, rtol=1e-14)
    np.testing.assert_allclose(net.feedback[0], net.weights[1].T @ net.weights[2].T, rtol=1e-13)


def test_feedback_noise_has_the_standard_deviation_asked_for():
    clean, noisy = (
        dfc.Network.create(WIDE, feedback_init="weight_product", feedback_noise=noise, seed=2)
        for noise in (0, 0.3)
    )
    for i in range(2):
        assert (noisy.feedback[i] - clean.feedback[i]).std() == pytest.approx(0.3, rel=0.02)
        assert np.array_equal(noisy.weights[i], clean.weights[i])
    assert np.array_equal(noisy.feedback[-1], np.eye(WIDE[-1]))


@pytest.mark.parametrize("init", ["xavier_normal", "xavier", "orthogonal"])
def test_a_seed_gives_the_same_weights_in_either_dtype_and_another_seed_others(init):
    double, single, other = (
        dfc.Network.create(SIZES, init=init, feedback_init=init, seed=seed, dtype=dtype)
        for seed, dtype in ((5, "float64"), (5, "float32"), (6, "float64"))
    )
    for a, b, c in zip(double.weights, single.weights, other.weights, strict=True):
        assert np.array_equal(a.astype(np.float32), b) and not np.array_equal(a, c)
    again = dfc.Network.create(SIZES, init=init, feedback_init=init, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(double), arrays(again), strict=True))


# --- feedback from the forward weights ----------------------------------------------------------------------


def mean_feedback(net, x, function):
    """The mean over samples of a function of the Jacobian, (sum n_i, n_L)."""
    return np.mean([function(jacobian) for jacobian in dfc.output_jacobian(net, x)], axis=0)


FORMULAS = {
    "jacobian_transpose": (0.0, lambda j: j.T),
    "jacobian_pinv": (0.0, lambda j: j.T @ np.linalg.inv(j @ j.T)),
    "jacobian_damped_pinv": (0.3, lambda j: j.T @ np.linalg.inv(j @ j.T + 0.3 * np.eye(3))),
}


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_feedback_of_jacobians_is_their_mean_over_the_samples(kind, dtype):
    net, x = dfc.Network.create(SIZES, seed=3, dtype=dtype), inputs(6, 4)
    damping, formula = FORMULAS[kind]
    expected = mean_feedback(net, x, formula)
    net.set_feedback(kind, x, damping=damping)
    assert relative_deviation(np.concatenate(net.feedback), expected) < 10 * BOUND[net.dtype]


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_mean_of_jacobians_is_taken_a_few_samples_at_a_time(monkeypatch, kind):
    whole, parts = (dfc.Network.create(SIZES, seed=3) for _ in range(2))
    whole.set_feedback(kind, inputs(7, 4), damping=FORMULAS[kind][0])
    monkeypatch.setattr("dfc_numba.model.jacobian.PIECE_BYTES", 2 * 8 * SIZES[-1] * sum(SIZES[1:]))
    parts.set_feedback(kind, inputs(7, 4), damping=FORMULAS[kind][0])
    for ours, theirs in zip(parts.feedback, whole.feedback, strict=True):
        assert relative_deviation(ours, theirs) < 1e-13


def test_set_feedback_weight_product():
    net = dfc.Network.create(SIZES, seed=3, output_activation="sigmoid")
    net.set_feedback("weight_product")
    product = net.weights[1].T @ net.weights[2].T
    assert relative_deviation(net.feedback[0], product) < 1e-14
    assert np.array_equal(net.feedback[2], np.eye(3))


# --- the feedforward pass -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_every_activation_in_hidden_and_output_layers(name, output, dtype):
    net = dfc.Network(**parameters(SIZES, activation=name, dtype=dtype), output_activation=output)
    x = inputs(5, 4).astype(dtype)
    v, r = feedforward(net, x)
    activity = net.forward(x)
    for found, expected in zip([*activity.v, *activity.r], [*v, *r], strict=True):
        assert relative_deviation(found, expected) < BOUND[net.dtype]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_samples", [1, 2, 16, 17, 300])
@pytest.mark.parametrize(
    ("sizes", "activation"),
    [
        ([4, 3], []),
        ([4, 6, 3], ["sigmoid"]),
        ([9, 33, 50, 1, 17, 7], ["relu", "tanh", "linear", "leakyrelu"]),
        ([1, 1, 1], "tanh"),
    ],
)
def test_any_depth_width_and_batch(sizes, activation, n_samples, bias):
    net = dfc.Network(**parameters(sizes, bias=bias, activation=activation))
    x = inputs(n_samples, sizes[0])
    v, r = feedforward(net, x)
    activity = net.forward(x)
    for found, expected in zip([*activity.v, *activity.r], [*v, *r], strict=True):
        assert relative_deviation(found, expected) < 1e-13


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_sample_has_the_same_bits_in_any_batch(dtype):
    net, x = dfc.Network.create([13, 37, 29, 10], seed=8, dtype=dtype), inputs(50, 13)
    whole = net.forward(x)
    for chosen in ([0], [49], [3, 20, 21], list(range(49, -1, -1)), list(range(1, 40))):
        part = net.forward(x[chosen])
        for a, b in zip([*part.v, *part.r], [*whole.v, *whole.r], strict=True):
            assert np.array_equal(a, b[chosen])


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_saturated_units_have_their_limits(name, dtype):
    given = {"weights": [np.eye(1), np.eye(1)], "biases": None, "feedback": [np.eye(1)] * 2}
    net = dfc.Network(**given, hidden_activation=name, dtype=dtype)
    x = np.array([[-1e30], [-1000.0], [-90.0], [90.0], [1000.0], [1e30]])
    expected = np.sign(x) if name == "tanh" else np.where(x > 0, 1.0, 0.0)
    np.testing.assert_allclose(net.predict(x), expected, atol=1e-30)


def test_numbers_of_any_kind_are_taken():
    net = dfc.Network.create(SIZES, seed=2, dtype="float32")
    x = np.array([[1, 0, 2, 1], [0, 1, 1, 3]])
    expected = net.predict(x.astype(np.float32))
    for same in (x, x.tolist(), x.astype(float), x.astype(np.uint8), np.asfortranarray(x), x[::-1][::-1]):
        found = net.predict(same)
        assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_float64_computation_in_a_float32_network():
    net, x = dfc.Network.create(SIZES, seed=2, dtype="float32"), inputs(3, 4)
    found = net.predict(x, dtype="float64")
    assert found.dtype == np.float64
    assert relative_deviation(found, feedforward(net, x)[1][-1]) < 1e-14


def test_the_inputs_stay_as_they_are():
    x = inputs(3, 4)
    before = x.copy()
    dfc.Network.create(SIZES).forward(x)
    assert np.array_equal(x, before)


# --- what is refused ----------------------------------------------------------------------------------------


def with_one(value, place=(2, 1)):
    x = inputs(5, 4)
    x[place] = value
    return x


BAD_INPUTS = [
    (with_one(np.nan), ValueError, r"x\[2, 1\] is nan in float64; every number must be finite"),
    (with_one(-np.inf, (4, 3)), ValueError, r"x\[4, 3\] is -inf"),
    (inputs(5, 3), ValueError, r"x has shape \(5, 3\); expected \(any, 4\)"),
    (inputs(5, 4)[0], ValueError, r"x has shape \(4,\); expected \(any, 4\)"),
    (inputs(0, 4), ValueError, r"x holds no samples \(shape \(0, 4\)\)"),
    (inputs(5, 4) + 0j, TypeError, "x must be an array of numbers, not ndarray of dtype complex128"),
    ([[1, 2, 3, 4], [1, 2]], TypeError, "x must be an array of numbers"),
    (np.array([["1", "2", "3", "4"]]), TypeError, "x must be an array of numbers"),
    (inputs(5, 4).astype(object), TypeError, "x must be an array of numbers"),
    (None, TypeError, "x must be an array of numbers, not"),
    (np.ma.masked_greater(inputs(5, 4), 0), ValueError, "x has masked elements"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        dfc.Network.create(SIZES).forward(x)


@pytest.mark.parametrize("call", ["forward", "predict", "copy"])
def test_unknown_dtypes_are_refused(call):
    net = dfc.Network.create(SIZES)
    arguments = () if call == "copy" else (inputs(2, 4),)
    with pytest.raises(ValueError, match="dtype is 'float16'; allowed are 'float32', 'float64'"):
        getattr(net, call)(*arguments, dtype="float16")


def test_inputs_too_large_for_float32_are_refused():
    with pytest.raises(ValueError, match=r"x\[2, 1\] is inf in float32"):
        dfc.Network.create(SIZES, dtype="float32").predict(with_one(1e300))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [4]}, "sizes is \\[4\\]; expected"),
        ({"sizes": 4}, "sizes is 4; expected"),
        ({"sizes": [4, 0, 3]}, r"sizes\[1\] is 0; a whole number from 1"),
        ({"sizes": [4, -2, 3]}, r"sizes\[1\] is -2"),
        ({"sizes": [4, 2.5, 3]}, r"sizes\[1\] is 2.5"),
        ({"sizes": [4, "6", 3]}, r"sizes\[1\] is '6'"),
        ({"sizes": [4, np.nan, 3]}, r"sizes\[1\] is nan"),
        ({"hidden_activation": "tanhh"}, "hidden_activation is 'tanhh'; .*did you mean 'tanh'"),
        ({"hidden_activation": ["tanh"]}, "hidden_activation has 1 entries for 2 layers"),
        ({"hidden_activation": None}, "hidden_activation must be a list"),
        ({"output_activation": "Linear"}, "output_activation is 'Linear'; .*did you mean 'linear'"),
        ({"output_activation": "softmax"}, "output_activation is 'softmax'; allowed are 'linear', 'tanh'"),
        ({"init": "xavier_norm"}, "init is 'xavier_norm'; .*did you mean 'xavier_normal'"),
        ({"init": "weight_product"}, "init is 'weight_product'; allowed are 'xavier_normal', 'xavier', 'orthogonal'"),
        ({"feedback_init": "weight_prod"}, "did you mean 'weight_product'"),
        ({"feedback_noise": 0.1}, "goes with feedback_init='weight_product'"),
        ({"feedback_init": "weight_product", "feedback_noise": -1}, "feedback_noise is -1; a finite number >= 0"),
        ({"feedback_init": "weight_product", "feedback_noise": np.inf}, "feedback_noise is inf"),
        ({"feedback_init": "weight_product", "feedback_noise": "a"}, "feedback_noise is 'a'"),
        ({"dtype": "flot32"}, "dtype is 'flot32'; .*did you mean 'float32'"),
        ({"dtype": np.float16}, "dtype is 'float16'; allowed are 'float32', 'float64'"),
        ({"dtype": int}, "dtype is 'int64'"),
        ({"seed": -1}, "seed is -1; a whole number from 0"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"bias": "no"}, "bias is 'no'; True or False"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_create_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.Network.create(**{"sizes": SIZES, **options})


def with_entry(values, i, value):
    return [*values[:i], value, *values[i + 1 :]]


GIVEN = parameters(SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "weights must be a list"),
        ({"weights": []}, "weights is empty"),
        ({"weights": with_entry(GIVEN["weights"], 1, np.ones((5, 7)))}, r"weights\[1\] has shape \(5, 7\), but .* 6 units"),
        ({"weights": with_entry(GIVEN["weights"], 1, np.ones(5))}, r"weights\[1\] has shape \(5,\)"),
        ({"weights": with_entry(GIVEN["weights"], 2, np.ones((0, 5)))}, r"weights\[2\] has shape \(0, 5\)"),
        ({"weights": with_entry(GIVEN["weights"], 1, [[1.0], [2.0, 3.0]])}, r"weights\[1\] must be an array"),
        ({"weights": with_entry(GIVEN["weights"], 2, np.full((3, 5), np.inf))}, r"weights\[2\]\[0, 0\] is inf"),
        ({"biases": 0.0}, "biases must be a list"),
        ({"biases": GIVEN["biases"][:2]}, "biases has 2 entries for 3 layers"),
        ({"biases": with_entry(GIVEN["biases"], 0, np.ones(7))}, r"biases\[0\] has shape \(7,\)"),
        ({"feedback": None}, "feedback must be a list"),
        (
            {"feedback": with_entry(GIVEN["feedback"], 0, np.ones((3, 6)))},
            r"feedback\[0\] has shape \(3, 6\); expected \(6, 3\)",
        ),
        ({"hidden_activation": ["tanh", "relu", "relu"]}, "hidden_activation has 3 entries for 2 layers"),
        ({"dtype": "float32", "weights": with_entry(GIVEN["weights"], 0, np.full((6, 4), 1e300))}, "inf in float32"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.Network(**{**GIVEN, **change})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("jacobian_pin", {}, "did you mean 'jacobian_pinv'"),
        ("jacobian_transpose", {}, "pass them as x"),
        ("jacobian_pinv", {"x": inputs(2, 3)}, r"x has shape \(2, 3\)"),
        ("jacobian_pinv", {"x": inputs(2, 4), "damping": 0.1}, "a positive one goes with 'jacobian_damped_pinv'"),
        ("jacobian_damped_pinv", {"x": inputs(2, 4)}, "a positive one goes with"),
        ("jacobian_damped_pinv", {"x": inputs(2, 4), "damping": -1.0}, "damping is -1.0; a finite number >= 0"),
        ("jacobian_damped_pinv", {"x": inputs(2, 4), "damping": np.nan}, "damping is nan"),
        ("weight_product", {"damping": 0.1}, "a positive one goes with"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_set_feedback_change_nothing(kind, options, message):
    net = dfc.Network.create(SIZES)
    before = [q.copy() for q in net.feedback]
    with pytest.raises(ValueError, match=message):
        net.set_feedback(kind, **options)
    assert all(np.array_equal(a, b) for a, b in zip(net.feedback, before, strict=True))

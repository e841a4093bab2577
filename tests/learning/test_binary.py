"""Two classes at one output, with the cross-entropy of a sigmoid."""

import numpy as np
import pytest
from scipy.special import expit

import dfc_numba as dfc
from dfc_numba import data

LOSS = "binary_cross_entropy"
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(160, 4))
Y = X[:, 0] + X[:, 1] > 0
SETTINGS = {
    "target.loss": LOSS,
    "network.hidden": (6,),
    "training.method": "bp",
    "training.epochs": 6,
    "optimizer.learning_rate": 0.02,
}


def arrays():
    return data.from_arrays(X[:120], Y[:120], X[120:], Y[120:])


def test_the_loss_is_the_cross_entropy_of_the_sigmoid():
    output, y = np.array([[0.3], [-2.0], [40.0]]), np.array([1, 0, 1])
    p = expit(output[:2, 0])
    expected = -np.log(p[0]) - np.log(1 - p[1]) - np.log(expit(40.0))
    assert dfc.mean_loss(output, y, LOSS) == pytest.approx(expected / 3)
    assert dfc.output_gradient(output, y, LOSS)[:, 0] == pytest.approx((expit(output[:, 0]) - y) / 3)


def test_the_output_target_takes_what_data_takes():
    net = dfc.Network.create([4, 3, 1], seed=0)
    expected = net.predict(X[:5]) - 0.1 * (expit(net.predict(X[:5])) - Y[:5, None])
    for labels in (Y[:5], Y[:5].astype(int), Y[:5].astype(float), Y[:5, None].astype(float)):
        assert np.allclose(dfc.output_target(net, X[:5], labels, loss=LOSS), expected)
    with pytest.raises(ValueError, match="with 1 outputs 0 to 1 are allowed|labels from 0 to 2"):
        dfc.output_target(net, X[:3], np.array([0, 1, 2]), loss=LOSS)
    with pytest.raises(TypeError, match="data.from_arrays numbers the names of classes"):
        dfc.output_target(net, X[:2], np.array(["a", "b"]), loss=LOSS)


@pytest.mark.parametrize("method", ["bp", "dfc-ssa"])
def test_a_network_with_one_output_learns_two_classes(method):
    result = dfc.train(dfc.load_config("digits", {**SETTINGS, "training.method": method}), data=arrays())
    assert result.network.sizes == (6,) or result.network.sizes[-1] == 1
    evaluation = result.evaluate()
    assert evaluation.accuracy > 0.8 and evaluation.accuracy == result.metrics[-1]["test_accuracy"]
    assert evaluation.classes == ("False", "True") and evaluation.confusion.sum() == 40
    assert "2 classes at one output" in result.dataset.summary
    outputs = result.network.predict(X[120:])
    assert np.array_equal(evaluation.predictions, (outputs[:, 0] > 0).astype(int))
    assert dfc.accuracy(outputs, Y[120:]) == evaluation.accuracy


def test_softer_labels_are_probabilities():
    config = dfc.load_config("digits", {**SETTINGS, "target.class_value": 0.9, "training.epochs": 1})
    assert np.isfinite(dfc.train(config, data=arrays()).metrics[-1]["train_loss"])
    from dfc_numba.learning.evaluation import soft_targets

    assert soft_targets(np.array([0, 1]), 1, 0.9)[:, 0] == pytest.approx([0.1, 0.9])


def test_a_run_of_two_classes_is_evaluated_from_its_files(tmp_path):
    np.savez(
        tmp_path / "two.npz",
        x_train=X[:120],
        y_train=Y[:120].astype(int),
        x_test=X[120:],
        y_test=Y[120:].astype(int),
    )
    changes = {**SETTINGS, "data.name": "file", "data.options": {"path": str(tmp_path / "two.npz")}}
    result = dfc.train(dfc.load_config("digits", changes), tmp_path / "run")
    from dfc_numba.runs.trained import evaluate_trained

    for source in (tmp_path / "run", tmp_path / "run" / "weights_last.h5"):
        *_, evaluation = evaluate_trained(source, data_name=str(tmp_path / "two.npz"))
        assert evaluation.accuracy == result.metrics[-1]["test_accuracy"] and evaluation.loss < 0.7


def test_an_estimator_has_probabilities():
    sklearn = pytest.importorskip("dfc_numba.sklearn")
    names = np.where(Y, "yes", "no")
    fitted = sklearn.DFCClassifier(method="bp", hidden=(6,), epochs=4, learning_rate=0.02, loss=LOSS).fit(
        X, names
    )
    probabilities = fitted.predict_proba(X)
    assert fitted.network_.sizes[-1] == 1 and np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(fitted.predict(X), fitted.classes_[probabilities.argmax(axis=1)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.loss": LOSS}, "digits has 10; set target.loss = 'cross_entropy'"),
        (
            {"target.loss": LOSS, "training.method": "dfc", "target.feedback": "strong"},
            "set target.feedback = 'weak'",
        ),
    ],
)
def test_data_that_one_output_cannot_classify_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dfc.train(dfc.load_config("digits", changes))


def test_one_output_with_another_loss_names_the_remedy():
    from dataclasses import replace

    with pytest.raises(ValueError, match="set target.loss = 'binary_cross_entropy'"):
        dfc.train(dfc.load_config("digits", {"training.method": "bp"}), data=replace(arrays(), n_outputs=1))

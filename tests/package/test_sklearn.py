"""The estimators for scikit-learn."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import dfc_numba as dfc

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from dfc_numba.learning import methods
from dfc_numba.sklearn import DFCClassifier, DFCRegressor

QUICK = {"method": "bp", "hidden": (8,), "epochs": 10, "random_state": 2, "learning_rate": 0.03}
DFC = {
    "hidden": (8,), "epochs": 2, "random_state": 1, "controller__steps": 9, "feedback__pretraining_epochs": 1,
    "settings": {"feedback_controller.steps": 9},
}  # fmt: skip


def clusters(n=90, classes=3, seed=0):
    """Inputs in clusters, and the numbers of these."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, 4)) + 3 * rng.normal(size=(classes, 4))[y], y


def same(ours, theirs):
    kinds = ("weights", "biases", "feedback")
    return all(
        np.array_equal(a, b)
        for kind in kinds
        for a, b in zip(getattr(ours, kind), getattr(theirs, kind), strict=True)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [DFCClassifier, DFCRegressor])
def test_check_estimator_passes_with_the_defaults(kind):
    results = check_estimator(kind())
    assert {result["status"] for result in results} <= {"passed", "skipped"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [DFCClassifier, DFCRegressor])
def test_check_estimator_passes_with_backpropagation(kind):
    results = check_estimator(kind(method="bp", hidden=(16,)))
    assert {result["status"] for result in results} <= {"passed", "skipped"}


@pytest.mark.parametrize(("options", "method"), [(DFC, "dfc"), (QUICK, "bp")])
def test_an_estimator_has_the_bits_of_a_training_run(tmp_path, options, method):
    x, y = clusters()
    np.savez(tmp_path / "clusters.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    estimator = DFCClassifier(**options).fit(x, y)
    changes = {"data.name": str(tmp_path / "clusters.npz"), "training.method": method, "network.hidden": (8,),
               "training.epochs": options["epochs"], "training.seed": options["random_state"],
               "optimizer.learning_rate": options.get("learning_rate", 0.005)}  # fmt: skip
    if method == "dfc":
        changes |= {"controller.steps": 9, "feedback_controller.steps": 9, "feedback.pretraining_epochs": 1}
    run = dfc.train(dfc.load_config("digits", changes), tmp_path / "run")
    assert same(estimator.network_, run.network) and estimator.n_iter_ == options["epochs"]
    assert estimator.metrics_[-1]["train_loss"] == run.metrics[-1]["train_loss"]


def test_n_calls_of_partial_fit_have_the_bits_of_n_epochs():
    x, y = clusters()
    steps = DFCClassifier(**DFC)
    for _ in range(2):
        steps.partial_fit(x, y, classes=[0, 1, 2])
        steps = pickle.loads(pickle.dumps(steps))
    assert same(steps.network_, DFCClassifier(**DFC).fit(x, y).network_) and steps.n_iter_ == 2


def test_the_number_of_threads_does_not_matter():
    x, y = clusters()
    one, two = (DFCClassifier(**DFC, threads=n).fit(x, y) for n in (1, 2))
    assert same(one.network_, two.network_) and np.array_equal(one.predict_proba(x), two.predict_proba(x))


@pytest.mark.parametrize(
    "names",
    [
        ["ant", "bee", "cat"],
        [1, 2, 3],
        [-5, 0, 7],
        [0.0, 1.0, 2.0],
        np.array(["x", "y", "z"], object),
        [False, True],
    ],
)
def test_labels_of_any_type(names):
    x, y = clusters(classes=len(names))
    labels = np.asarray(names)[y]
    estimator = DFCClassifier(**QUICK).fit(x, labels)
    assert estimator.classes_.tolist() == sorted(names) and set(estimator.predict(x)) <= set(names)
    assert estimator.score(x, labels) > 0.8
    np.testing.assert_allclose(estimator.predict_proba(x).sum(axis=1), 1)


@pytest.mark.parametrize("method", ["ep", "ep-vector-field"])
def test_predictions_are_those_of_the_method(method):
    x, y = clusters()
    fitted = DFCClassifier(method=method, hidden=(8,), epochs=2, network__hidden_activation="tanh").fit(x, y)
    estimator = pickle.loads(pickle.dumps(fitted))
    outputs = methods.find(method).outputs(estimator.network_, x, estimator.config_, estimator._state.method)
    assert np.array_equal(estimator.predict(x), outputs.argmax(axis=1))
    assert not np.array_equal(outputs, estimator.network_.predict(x))


def test_mse_gives_probabilities_too():
    x, y = clusters()
    estimator = DFCClassifier(**QUICK, loss="mse").fit(x, y)
    probabilities = estimator.predict_proba(x)
    assert estimator.config_.target.loss == "mse" and np.all(probabilities >= 0)
    assert np.array_equal(probabilities.argmax(axis=1), estimator.predict(x))


def test_grid_search_in_two_processes_over_settings():
    x, y = clusters()
    grid = {"method": ["bp", "dfa"], "optimizer__learning_rate": [0.01, 1e-9]}
    search = GridSearchCV(DFCClassifier(hidden=(8,), epochs=5), grid, n_jobs=2, cv=2).fit(x, y)
    assert search.best_params_["optimizer__learning_rate"] == 0.01
    pipeline = make_pipeline(StandardScaler(), DFCClassifier(**QUICK, batch_size=8))
    pipeline.set_params(dfcclassifier__optimizer__learning_rate=0.02)
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.7


def test_clone_and_repr_know_every_setting():
    estimator = DFCClassifier(method="bp", controller__k_p=2.0, k_p=1.5, settings={"optimizer.name": "sgd"})
    assert clone(estimator).get_params() == estimator.get_params()
    assert "controller__k_p=2.0" in repr(estimator) and len(repr(estimator)) < 200


def test_a_regression_of_one_target_or_several():
    x = np.random.default_rng(0).normal(size=(100, 3))
    y = np.tanh(x @ np.random.default_rng(1).normal(size=(3, 2)))
    options = {**QUICK, "epochs": 60, "optimizer__learning_rate": 0.02}
    several, one = DFCRegressor(**options).fit(x, y), DFCRegressor(**options).fit(x, y[:, 0])
    assert several.predict(x).shape == (100, 2) and one.predict(x).shape == (100,)
    assert several.score(x, y) > 0.8 and one.config_.target.loss == "mse"


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, lambda e, x, y: e.fit(x, y, sample_weight=np.ones(90)), "takes X and y only, not sample_weight"),
        ({}, lambda e, x, y: e.fit(x, np.zeros(90)), "at least 2 classes; the data have 1 class"),
        (
            {},
            lambda e, x, y: e.partial_fit(x, y, classes=[0, 1]),
            "y has the class .*2.*, which is not among",
        ),
        ({}, lambda e, x, y: e.partial_fit(x, y), "classes must be passed on the first call"),
        ({}, lambda e, x, y: e.fit(x, y).predict(x[:, :2]), "X has 2 features"),
        ({"preset": "digitz"}, lambda e, x, y: e.fit(x, y), "did you mean 'digits'"),
        ({"epochs": 0}, lambda e, x, y: e.fit(x, y), "training.epochs = 0"),
        ({"settings": 3}, lambda e, x, y: e.fit(x, y), "settings = 3: must be a dict"),
    ],
)
def test_what_cannot_be_used_is_refused(options, call, message):
    x, y = clusters()
    with pytest.raises((ValueError, TypeError), match=message):
        call(DFCClassifier(**{**QUICK, **options}), x, y)


def test_an_unknown_parameter_is_refused_at_once():
    with pytest.raises(TypeError, match="unknown parameter 'controler__k_p'; did you mean 'controller__k_p'"):
        DFCClassifier(controler__k_p=1.0)
    with pytest.raises(TypeError, match="has no meaning for arrays in memory"):
        DFCClassifier().set_params(data__name="digits")


def test_divergence_is_an_error_that_says_where():
    x, y = clusters()
    with pytest.raises(dfc.DivergenceError, match="epoch 1"):
        DFCClassifier(**QUICK, optimizer__name="sgd", optimizer__learning_rate=1e250).fit(x, y)


def test_a_missing_library_is_named_with_its_extra():
    code = "import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.base'] = None; import dfc_numba.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "dfc-numba[sklearn]"' in done.stderr

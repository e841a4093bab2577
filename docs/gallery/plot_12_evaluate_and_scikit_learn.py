"""
Evaluate, and scikit-learn
==========================

A trained network is evaluated on any data; and every method, preset and setting is an estimator of scikit-learn.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.sklearn import DFCClassifier

digits = data.load("digits", train_size=400)
grid = {"method": ["bp", "dfa"], "optimizer__learning_rate": [0.002, 0.01]}
search = GridSearchCV(DFCClassifier(hidden=(24,), epochs=3, random_state=0), grid, cv=2)
search.fit(digits.train.x, digits.train.y)
print(search.best_params_, f"{search.best_score_:.1%}")

# %%
# Loss, accuracy and confusion matrix on the test set, as ``dfc evaluate RUN`` prints them.

network = search.best_estimator_.network_
evaluation = dfc.evaluate(network, digits.test.x, digits.test.y, loss="cross_entropy")
print(f"loss {evaluation.loss:.3f}, accuracy {evaluation.accuracy:.1%}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
image = left.imshow(evaluation.confusion, cmap="Blues")
left.set(xlabel="predicted", ylabel="true", xticks=range(10), yticks=range(10), title="confusion")
figure.colorbar(image, ax=left)
labels = [f"{p['method']}, {p['optimizer__learning_rate']}" for p in search.cv_results_["params"]]
right.barh(labels, search.cv_results_["mean_test_score"])
right.set(xlabel="accuracy in cross-validation")

"""scikit-learn's estimators with their matrices exchanged: predict and predict_proba as they are, pickled by joblib."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import joblib
from scipy import sparse
from sklearn.datasets import load_digits, make_regression
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from octavo._models.paths import canonical
from octavo._models.walk import walk

X, Y = load_digits(return_X_y=True)
X = X / 16


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def mlp() -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few passes are enough
        return MLPClassifier((128, 64), max_iter=15, random_state=0).fit(X[:1200], Y[:1200])


def test_digits_mlp_keeps_its_accuracy_through_joblib(mlp: MLPClassifier, tmp_path: Path) -> None:
    q = oc.quantize_dynamic(mlp)
    assert all(isinstance(w, oc.QuantMatrix) for w in q.coefs_)
    assert all(isinstance(w, np.ndarray) for w in q.intercepts_ + mlp.coefs_)
    accuracy, expected = q.score(X[1200:], Y[1200:]), mlp.score(X[1200:], Y[1200:])
    assert abs(accuracy - expected) <= 0.005
    assert np.abs(q.predict_proba(X) - mlp.predict_proba(X)).max() < 0.1
    joblib.dump(q, tmp_path / "q.joblib")
    again = joblib.load(tmp_path / "q.joblib")
    np.testing.assert_array_equal(again.predict_proba(X), q.predict_proba(X))
    assert len(pickle.dumps(q.coefs_)) < 0.15 * len(pickle.dumps(mlp.coefs_))  # from float64


def test_patterns_name_the_same_matrices(mlp: MLPClassifier) -> None:
    q = oc.quantize_dynamic(mlp, arrays=["coefs_.*"])
    np.testing.assert_array_equal(q.predict_proba(X), oc.quantize_dynamic(mlp).predict_proba(X))


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=200), SGDClassifier(random_state=0), LinearSVC(random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_linear_classifiers(estimator: Any) -> None:
    estimator.fit(X[:1200], Y[:1200])
    q = oc.quantize_dynamic(estimator)
    last = q[-1] if hasattr(q, "steps") else q
    assert isinstance(last.coef_, oc.QuantMatrix)
    assert last.coef_.axis == 0
    assert (q.predict(X) == estimator.predict(X)).mean() > 0.985
    if hasattr(estimator, "predict_proba"):
        assert np.abs(q.predict_proba(X) - estimator.predict_proba(X)).max() < 0.1
    scores = estimator.decision_function(X)
    # A few rows hold values of 30 standard deviations, which leave the rest of the row a coarse step.
    assert np.quantile(np.abs(q.decision_function(X) - scores).max(axis=1), 0.95) < 0.02 * np.abs(scores).max()


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(), Ridge(),
        MLPRegressor(hidden_layer_sizes=(64,), max_iter=10, random_state=0),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_regressors_of_many_outputs(estimator: Any) -> None:
    x, targets = make_regression(500, 64, n_targets=10, random_state=0)
    estimator.fit(x, targets)
    q = oc.quantize_dynamic(estimator)
    y = estimator.predict(x)
    assert np.sqrt(np.mean((q.predict(x) - y) ** 2)) < 0.02 * y.std()
    assert isinstance(q.coefs_[0] if hasattr(q, "coefs_") else q.coef_, oc.QuantMatrix)


def quantized_paths(model: Any) -> dict[str, int]:
    """The axis of each matrix in the quantized model, by path."""
    reports: list[oc.QuantizationReport] = []
    quantized = oc.quantize_dynamic(model, report=reports.append)
    taken = {e.path for e in reports[0].entries if e.became == "int8"}
    found = {canonical(path): value for path, value in walk(quantized) if isinstance(value, oc.QuantMatrix)}
    assert found.keys() == taken
    return {path: value.axis for path, value in found.items()}


def test_estimators_are_known_wherever_they_are(mlp: MLPClassifier) -> None:
    class Mine(MLPClassifier):
        pass

    mine = copy.deepcopy(mlp)
    mine.__class__ = Mine
    linear = LogisticRegression(max_iter=20).fit(X[:300], Y[:300])
    model = {"clf": mine, "steps": [("linear", linear)], "w": np.ones((64, 64))}
    # Neither what training keeps (Adam's moments are as large as the weights) nor what has one output.
    assert quantized_paths(model) == {
        "clf.coefs_.0": 1, "clf.coefs_.1": 1, "clf.coefs_.2": 1, "steps.0.1.coef_": 0, "w": 1,
    }  # fmt: skip
    assert quantized_paths(mine) == {"coefs_.0": 1, "coefs_.1": 1, "coefs_.2": 1}


def test_one_output_stays_in_float(mlp: MLPClassifier) -> None:
    one = LogisticRegression(max_iter=20).fit(X[:300], Y[:300] > 4)
    assert quantized_paths([one, mlp]).keys() == {"1.coefs_.0", "1.coefs_.1", "1.coefs_.2"}
    assert isinstance(oc.quantize_dynamic(one, arrays={"coef_": "out_in"}).coef_, oc.QuantMatrix)  # where it is named


def test_coefficients_of_compiled_code_stay() -> None:
    svc = SVC().fit(X[:300], Y[:300])
    with pytest.raises(ValueError, match=r"dual_coef_: not what scikit-learn multiplies by"):
        oc.quantize_dynamic(svc)
    both = VotingClassifier([("a", SVC()), ("b", LogisticRegression(max_iter=20))]).fit(X[:300], Y[:300])
    quantized = oc.quantize_dynamic(both)
    assert (quantized.predict(X) == both.predict(X)).mean() > 0.99


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array"])
def test_sparse_inputs(mlp: MLPClassifier, kind: str) -> None:
    s = getattr(sparse, kind)(X[1200:])
    for estimator in (mlp, LogisticRegression(max_iter=20).fit(X[:300], Y[:300])):
        q = oc.quantize_dynamic(estimator)
        assert np.abs(q.predict_proba(s) - estimator.predict_proba(s)).max() < 0.1
        assert (q.predict(s) == estimator.predict(s)).mean() > 0.985


def test_training_a_quantized_network_further_says_what_to_do(mlp: MLPClassifier) -> None:
    q = oc.quantize_dynamic(mlp)
    before = q.predict_proba(X)
    with pytest.raises(TypeError, match=r"a QuantMatrix cannot be written to: .*Q\.dequantize\(\)"):
        q.partial_fit(X[:100], Y[:100])
    np.testing.assert_array_equal(q.predict_proba(X), before)


def test_estimators_that_were_not_fitted_are_refused() -> None:
    with pytest.raises(ValueError, match="no array to quantize"):
        oc.quantize_dynamic(MLPClassifier())

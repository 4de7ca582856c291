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
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

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


@pytest.mark.slow
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
    assert len(pickle.dumps(q.coefs_, 4)) < 0.15 * len(pickle.dumps(mlp.coefs_, 4))  # from float64
    assert len(pickle.dumps(q.coefs_, 5)) < 0.17 * len(pickle.dumps(mlp.coefs_, 5))  # panels, the last one padded


@pytest.mark.slow
def test_patterns_name_the_same_matrices(mlp: MLPClassifier) -> None:
    q = oc.quantize_dynamic(mlp, arrays=["coefs_.*"])
    np.testing.assert_array_equal(q.predict_proba(X), oc.quantize_dynamic(mlp).predict_proba(X))


@pytest.mark.slow
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
    q = oc.quantize_dynamic(estimator, x=X)  # some pixels hardly matter, so that weights alone would warn
    last = q[-1] if hasattr(q, "steps") else q
    assert isinstance(last.coef_, oc.QuantMatrix)
    assert last.coef_.axis == 0
    assert (q.predict(X) == estimator.predict(X)).mean() > 0.985
    if hasattr(estimator, "predict_proba"):
        assert np.abs(q.predict_proba(X) - estimator.predict_proba(X)).max() < 0.1
    scores = estimator.decision_function(X)
    # A few rows hold values of 30 standard deviations, which leave the rest of the row a coarse step.
    assert np.quantile(np.abs(q.decision_function(X) - scores).max(axis=1), 0.95) < 0.02 * np.abs(scores).max()


@pytest.mark.slow
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
    q = oc.quantize_dynamic(estimator, x=x)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_estimator_named_as_a_layer_is_told_the_other_way() -> None:
    estimator = LogisticRegression().fit(*load_digits(return_X_y=True))
    with pytest.raises(ValueError, match=r"estimator are found without layers: omit them, quantize_dynamic\(model\)"):
        oc.quantize_dynamic(estimator, {LogisticRegression})
    assert isinstance(oc.quantize_dynamic(estimator).coef_, oc.QuantMatrix)


def test_one_output_stays_in_float(mlp: MLPClassifier) -> None:
    one = LogisticRegression(max_iter=20).fit(X[:300], Y[:300] > 4)
    assert quantized_paths([one, mlp]).keys() == {"1.coefs_.0", "1.coefs_.1", "1.coefs_.2"}
    named = oc.quantize_dynamic(one, arrays={"coef_": "out_in"}, x=X)
    assert isinstance(named.coef_, oc.QuantMatrix)


def test_coefficients_of_compiled_code_stay() -> None:
    svc = SVC().fit(X[:300], Y[:300])
    with pytest.raises(ValueError, match=r"dual_coef_: not what scikit-learn multiplies by"):
        oc.quantize_dynamic(svc)
    both = VotingClassifier([("a", SVC()), ("b", LogisticRegression(max_iter=20))]).fit(X[:300], Y[:300])
    quantized = oc.quantize_dynamic(both)
    assert (quantized.predict(X) == both.predict(X)).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [RandomForestClassifier(3), DecisionTreeClassifier(), HistGradientBoostingClassifier(max_iter=2)]
)
def test_trees_are_said_not_to_be_quantized(estimator: Any) -> None:
    estimator.fit(*make_classification(50, random_state=0))
    name = type(estimator).__name__
    for model in (
        estimator,
        {"a": estimator},
        make_pipeline(StandardScaler(), estimator).fit(*make_classification(50)),
    ):
        with pytest.raises(ValueError, match=rf"no array to quantize: trees \(\w*,? ?{name}\) are not quantized"):
            oc.quantize_dynamic(model)
        with pytest.raises(ValueError, match=rf"\({name}\): trees are not quantized"):
            oc.quantize_dynamic(model, {type(estimator)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array"])
def test_sparse_inputs(mlp: MLPClassifier, kind: str) -> None:
    s = getattr(sparse, kind)(X[1200:])
    for estimator in (mlp, LogisticRegression(max_iter=20).fit(X[:300], Y[:300])):
        q = oc.quantize_dynamic(estimator)
        assert np.abs(q.predict_proba(s) - estimator.predict_proba(s)).max() < 0.1
        assert (q.predict(s) == estimator.predict(s)).mean() > 0.985


# What training needs goes


def test_quantized_network_drops_what_training_needs_and_says_so(mlp: MLPClassifier) -> None:
    reports: list[oc.QuantizationReport] = []
    q = oc.quantize_dynamic(mlp, report=reports.append)
    dropped = {e.path: e for e in reports[0].entries if e.became == "dropped"}
    assert dropped.keys() == {"_optimizer", "_best_coefs", "_best_intercepts"}
    assert all(e.bytes_after == 0 < e.bytes_before for e in dropped.values())
    assert "training alone" in dropped["_optimizer"].why
    assert q._optimizer is q._best_coefs is None
    assert mlp._optimizer is not None
    assert len(pickle.dumps(q)) < 0.06 * len(pickle.dumps(mlp))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(q)).predict_proba(X), q.predict_proba(X))


def test_quantized_in_place_is_the_same_estimator(mlp: MLPClassifier) -> None:
    q = copy.deepcopy(mlp)
    assert oc.quantize_dynamic(q, inplace=True) is q
    assert q._optimizer is None
    with pytest.raises(TypeError, match="fit of this MLPClassifier would train further"):
        q.fit(X, Y)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("copied", [False, True])
def test_training_a_quantized_network_is_refused(mlp: MLPClassifier, method: str, copied: bool) -> None:
    q = oc.quantize_dynamic(mlp)
    before = q.predict_proba(X)
    q = pickle.loads(pickle.dumps(q)) if copied else q
    with pytest.raises(TypeError, match=rf"{method} of this MLPClassifier would train.*train the float estimator"):
        getattr(q, method)(X[:100], Y[:100])
    np.testing.assert_array_equal(q.predict_proba(X), before)
    again = clone(q).set_params(max_iter=1).fit(X[:100], Y[:100])  # a clone holds settings alone
    assert isinstance(again.coefs_[0], np.ndarray)


@pytest.mark.slow
def test_training_a_pipeline_around_a_quantized_estimator_is_refused() -> None:
    scaler = StandardScaler()
    pipeline = make_pipeline(scaler, LogisticRegression(max_iter=100)).fit(X[:1200], Y[:1200])
    q = oc.quantize_dynamic(pipeline, x=X)
    mean = q[0].mean_.copy()
    with pytest.raises(TypeError, match="fit of this Pipeline would train"):
        q.fit(X[:10], Y[:10])
    np.testing.assert_array_equal(q[0].mean_, mean)
    assert "fit" not in vars(q[0])  # the scaler holds nothing quantized


def test_estimators_that_stay_in_float_keep_what_training_needs(mlp: MLPClassifier) -> None:
    one = SGDClassifier(average=True, random_state=0).fit(X[:300], Y[:300] > 4)
    q = oc.quantize_dynamic([mlp, one])
    assert q[1]._average_coef is not None
    assert q[1].partial_fit(X[:10], Y[:10] > 4) is q[1]


def test_averaged_classifier_keeps_its_intercept() -> None:
    sgd = SGDClassifier(average=True, random_state=0).fit(X[:1200], Y[:1200])
    assert sgd.intercept_ is sgd._average_intercept  # one array under two names, of which one is needed
    q = oc.quantize_dynamic(sgd, x=X)
    np.testing.assert_array_equal(q.intercept_, sgd.intercept_)
    assert q._standard_coef is None
    assert (q.predict(X) == sgd.predict(X)).mean() > 0.985


# Static, and what looks at models


def test_estimators_go_the_static_way(mlp: MLPClassifier, tmp_path: Path) -> None:
    prepared = oc.prepare(mlp, oc.default_qconfig)
    np.testing.assert_allclose(prepared.predict_proba(X), mlp.predict_proba(X), rtol=1e-6)
    oc.calibrate(prepared, [X[:600], X[600:1200]])
    q = oc.convert(prepared)
    assert all(isinstance(w, oc.QuantMatrix) for w in q.coefs_)
    assert np.abs(q.predict_proba(X) - mlp.predict_proba(X)).max() < 0.1
    with pytest.raises(TypeError, match="partial_fit of this MLPClassifier"):
        q.partial_fit(X, Y)
    joblib.dump(q, tmp_path / "q.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "q.joblib").predict_proba(X), q.predict_proba(X))


@pytest.mark.slow
def test_gptq_and_compare_run_predict(mlp: MLPClassifier) -> None:
    q = oc.quantize_dynamic(mlp, dtype="int4", group_size=32, rounding="gptq", calibration=[X[:600]])
    rows = oc.compare(mlp, q, X, arrays=True).rows
    assert [canonical(row.path) for row in rows] == ["coefs_.0", "coefs_.1", "coefs_.2", "(result)"]
    assert all(row.sqnr > 10 for row in rows[:-1])
    compared = oc.compare_rounding(mlp, None, [X[:600]], group_size=32)
    assert {row.layer for row in compared.rows} == {"coefs_.0", "coefs_.1", "coefs_.2"}


# Messages


def test_estimators_without_a_matrix_are_told_apart(mlp: MLPClassifier) -> None:
    for model in (MLPClassifier(), make_pipeline(StandardScaler(), MLPClassifier())):
        with pytest.raises(ValueError, match=r"not fitted: .*MLPClassifier\); call fit first"):
            oc.quantize_dynamic(model)
    with pytest.raises(ValueError, match="already quantized: it holds QuantMatrix"):
        oc.quantize_dynamic(oc.quantize_dynamic(mlp))
    pca = PCA().fit(X)
    with pytest.raises(ValueError, match=r"components_: .*name it: arrays=\{'components_': 'out_in'\}"):
        oc.quantize_dynamic(pca)
    q = oc.quantize_dynamic(pca, arrays={"components_": "out_in"})
    assert np.abs(q.transform(X) - pca.transform(X)).max() < 0.05 * np.abs(pca.transform(X)).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["<U1", "object"])
def test_labels_of_text_are_stored_without_pickle(kind: str, tmp_path: Path) -> None:
    labels = Y.astype(str).astype(kind)
    clf = LogisticRegression(max_iter=50).fit(X[:1200], labels[:1200])
    q = oc.quantize_dynamic(clf, x=X)
    oc.save(q, tmp_path / "q.safetensors")
    target = oc.quantize_dynamic(clf, x=X)
    target.classes_ = None
    loaded = oc.load(tmp_path / "q.safetensors", target)
    np.testing.assert_array_equal(loaded.classes_, clf.classes_)
    assert loaded.classes_.dtype == clf.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(X), q.predict(X))


def test_quantized_estimator_is_loaded_into_the_float_one(mlp: MLPClassifier, tmp_path: Path) -> None:
    q = oc.quantize_dynamic(mlp)
    oc.save(q, tmp_path / "q.safetensors")
    target = copy.deepcopy(mlp)
    assert oc.load(tmp_path / "q.safetensors", target) is target
    np.testing.assert_array_equal(target.predict_proba(X), q.predict_proba(X))
    assert target._optimizer is target._best_coefs is None
    with pytest.raises(TypeError, match="partial_fit of this MLPClassifier would train"):
        target.partial_fit(X, Y)
    again = oc.load(tmp_path / "q.safetensors", oc.quantize_dynamic(mlp))
    np.testing.assert_array_equal(again.predict_proba(X), q.predict_proba(X))


def test_float_estimators_are_stored_and_loaded_whole(mlp: MLPClassifier, tmp_path: Path) -> None:
    oc.save(mlp, tmp_path / "float.safetensors")
    target = copy.deepcopy(mlp)
    target._optimizer.ms[0] = np.zeros_like(target._optimizer.ms[0])
    oc.load(tmp_path / "float.safetensors", target)
    np.testing.assert_array_equal(target._optimizer.ms[0], mlp._optimizer.ms[0])
    target.partial_fit(X[:100], Y[:100])

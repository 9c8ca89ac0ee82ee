"""Shapley values: by their definition, by the shap package, and what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import iris, shapley

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.explain.kernel_shap import KernelShap, coalitions
from penstock.explain.training import Training
from penstock.explain.tree_shap import TreeShap


def no_model(rows: Any) -> Any:
    raise AssertionError("the model is not asked")


def spread(features: int, seed: int = 0, rows: int = 12) -> tuple[Training, np.ndarray]:
    random = np.random.default_rng(seed)
    data = random.normal(size=(rows, features))
    return Training(data, [f"f{i}" for i in range(features)]), random.normal(size=features)


def curved(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows[:, 0] * rows[:, 1] + np.sin(rows[:, 2]), rows.sum(1) ** 2], 1)


@pytest.mark.parametrize("features", [2, 3, 6])
def test_exact_values_are_those_of_the_definition(features: int) -> None:
    training, row = spread(features)
    model = curved if features > 2 else lambda rows: rows[:, 0] * rows[:, 1]
    found = KernelShap(training).explain(row, model).data
    assert found["exact"]
    expected = shapley(model, row, training.rows).T
    np.testing.assert_allclose(found["shap_values"], expected, atol=1e-8)


def test_same_as_the_shap_package_on_iris() -> None:
    """KernelExplainer of shap 0.51 on the same model, row and background."""
    import shap

    training, model = iris()
    background = training.rows[::10]
    theirs = shap.KernelExplainer(model.predict_proba, background)
    small = Training(background, training.names)
    for row in (training.rows[3], training.rows[77], training.rows[140]):
        ours = KernelShap(small).explain(row, model.predict_proba).data
        expected = np.asarray(theirs.shap_values(row, silent=True))  # [features, outputs]
        np.testing.assert_allclose(np.array(ours["shap_values"]).T, expected, atol=1e-6)
        np.testing.assert_allclose(ours["expected_value"], theirs.expected_value, atol=1e-9)


def test_same_as_the_shap_package_with_the_logit_link() -> None:
    import shap

    training, model = iris()
    background = training.rows[::10]
    theirs = shap.KernelExplainer(model.predict_proba, background, link="logit")
    row = training.rows[77]
    ours = KernelShap(Training(background, training.names), link="logit").explain(
        row, model.predict_proba
    )
    expected = np.asarray(theirs.shap_values(row, silent=True)).T
    np.testing.assert_allclose(ours.data["shap_values"], expected, atol=2e-3)


def test_sampled_values_come_near_the_exact_ones() -> None:
    """13 features with room for a third of the coalitions; a model with interactions."""
    training, row = spread(13)

    def model(rows: np.ndarray) -> np.ndarray:
        return rows @ np.arange(13.0) + rows[:, 0] * rows[:, 5] - 2 * rows[:, 3] * rows[:, 12]

    exact = KernelShap(training, samples=10_000).explain(row, model).data
    sampled = KernelShap(training, samples=2_500).explain(row, model).data
    assert exact["exact"]
    assert not sampled["exact"]
    error = np.abs(np.array(sampled["shap_values"]) - np.array(exact["shap_values"]))
    assert error.max() < 0.05 * np.abs(exact["shap_values"]).max()


@pytest.mark.parametrize("features", [4, 20, 40])
def test_values_add_up_to_the_prediction(features: int) -> None:
    training, row = spread(features, seed=3)
    found = KernelShap(training).explain(row, curved).data
    total = np.sum(found["shap_values"], axis=1) + found["expected_value"]
    np.testing.assert_allclose(total, found["raw_prediction"], atol=1e-9)


def test_a_linear_model_has_its_closed_form() -> None:
    """w (x - mean), also where coalitions are sampled: a linear model leaves no residual."""
    training, row = spread(30, seed=4)
    w = np.linspace(-2, 2, 30)
    found = KernelShap(training).explain(row, lambda rows: rows @ w).data
    np.testing.assert_allclose(
        found["shap_values"][0], w * (row - training.rows.mean(0)), atol=1e-8
    )


def test_a_feature_that_never_varies_gets_nothing() -> None:
    training, row = spread(4)
    rows = training.rows.copy()
    rows[:, 2] = row[2]
    found = KernelShap(Training(rows, training.names)).explain(row, lambda r: r.sum(1)).data
    assert found["shap_values"][0][2] == 0


def test_a_row_like_its_background_gets_nothing() -> None:
    training = Training(np.ones((3, 4)), list("abcd"))
    found = KernelShap(training).explain(np.ones(4), lambda r: r.sum(1)).data
    assert found["shap_values"] == [[0, 0, 0, 0]]


def test_few_calls_for_many_rows() -> None:
    training, model = iris()
    found = KernelShap(training).explain(training.rows[0], model.predict_proba).data
    assert found["samples"] > 1000
    assert found["predictor_calls"] <= 4


def test_coalitions_come_with_the_kernels_weights() -> None:
    kept, weights, exact = coalitions(5, 1000, np.random.default_rng(0))
    assert exact
    assert len({tuple(k) for k in kept}) == len(kept) == 2**5 - 2
    one, two = weights[kept.sum(1) == 1][0], weights[kept.sum(1) == 2][0]
    assert one / two == pytest.approx((4 / (5 * 1 * 4)) / (4 / (10 * 2 * 3)))


def test_sampled_coalitions_come_in_complementary_pairs() -> None:
    kept, weights, exact = coalitions(30, 600, np.random.default_rng(0))
    assert not exact
    assert len(kept) <= 600
    seen = sorted(tuple(k) for k in kept)
    assert seen == sorted(tuple(~k) for k in kept)
    assert weights.sum() == pytest.approx(1)


def test_labels_cannot_be_attributed() -> None:
    training, row = spread(3)
    with pytest.raises(InvalidInput, match="predict_proba"):
        KernelShap(training).explain(row, lambda r: np.full(len(r), "a", dtype=object))


def test_logit_of_what_is_no_probability_is_refused() -> None:
    training, row = spread(3)
    with pytest.raises(InvalidInput, match="no probabilities"):
        KernelShap(training, link="logit").explain(row, lambda r: r.sum(1) + 50)


def test_numbers_of_classes_cannot_be_attributed() -> None:
    """Half of class 2 is not class 1; unless it is said that they are amounts."""
    training, row = spread(3)

    def labels(rows: Any) -> Any:
        return np.digitize(rows[:, 0], [-0.5, 0.5])

    with pytest.raises(InvalidInput, match=r"predict_proba.*output: values"):
        KernelShap(training).explain(row, labels)
    found = KernelShap(training, output="values").explain(row, labels).data
    np.testing.assert_allclose(
        found["shap_values"], shapley(labels, row, training.rows).T, atol=1e-9
    )


def test_labels_of_two_classes_are_a_probability_for_certain() -> None:
    training, row = spread(3)
    found = KernelShap(training).explain(row, lambda rows: (rows.sum(1) > 0).astype(int)).data
    assert 0 < found["expected_value"][0] < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_the_models_fault(bad: float) -> None:
    training, row = spread(1)
    with pytest.raises(ModelError, match=r"NaN|not finite"):
        KernelShap(training).explain(row, lambda rows: np.full(len(rows), bad))


def test_another_number_of_outputs_in_the_middle_is_the_models_fault() -> None:
    training, row = spread(3)
    answers = iter([(13, 2)])

    def model(rows: Any) -> Any:
        return np.ones(next(answers, (len(rows), 3)))

    with pytest.raises(ModelError, match="3 numbers per row where it was 2"):
        KernelShap(training).explain(row, model)


def test_a_background_as_wide_as_a_picture_is_refused_before_it_is_paid_for() -> None:
    training = Training(np.zeros((2, 4000)), [f"f{i}" for i in range(4000)])
    with pytest.raises(InvalidInput, match="4000 features; values of 3000"):
        KernelShap(training).explain(np.ones(4000), lambda rows: rows[:, 0])


def test_a_large_number_of_samples_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from penstock.explain import kernel_shap

    monkeypatch.setattr(kernel_shap, "_MAX_CELLS", 30_000)
    training, row = spread(30, rows=2)
    found = KernelShap(training, samples=1_000_000).explain(row, lambda rows: rows.sum(1)).data
    assert found["samples"] <= 2 * 1000 + 3


# -- trees


def forest(rows: int = 300) -> tuple[Any, np.ndarray]:
    from sklearn.ensemble import GradientBoostingRegressor

    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 5))
    return GradientBoostingRegressor(n_estimators=20, random_state=0).fit(
        x, x[:, 0] * x[:, 1] + x[:, 2]
    ), x


def test_trees_against_the_definition() -> None:
    """With a background set, TreeSHAP's values are the Shapley values of the model itself."""
    model, x = forest()
    background = x[:30]
    found = TreeShap(model, background=background).explain(x[100], no_model).data
    np.testing.assert_allclose(
        found["shap_values"], shapley(model.predict, x[100], background).T, atol=1e-6
    )
    assert found["raw_prediction"][0] == pytest.approx(model.predict(x[100:101])[0])


def test_trees_of_many_classes() -> None:
    from sklearn.ensemble import RandomForestClassifier

    training, _ = iris()
    from sklearn.datasets import load_iris

    model = RandomForestClassifier(10, random_state=0).fit(training.rows, load_iris().target)
    found = TreeShap(model, names=training.names).explain(training.rows[77], no_model).data
    assert np.shape(found["shap_values"]) == (3, 4)
    np.testing.assert_allclose(
        found["raw_prediction"], model.predict_proba(training.rows[77:78])[0], atol=1e-6
    )
    assert found["feature_names"] == list(training.names)


def expected(tree: Any, row: np.ndarray, known: Any, node: int = 0) -> float:
    """What a tree says when only some features are known: elsewhere, as many rows as went either way."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left < 0:
        return float(tree.value[node].item())
    feature = tree.feature[node]
    if feature in known:
        went = left if np.float32(row[feature]) <= tree.threshold[node] else right
        return expected(tree, row, known, went)
    rows = tree.weighted_n_node_samples
    parts = (expected(tree, row, known, child) * rows[child] for child in (left, right))
    return float(sum(parts) / rows[node])


def by_definition(value: Any, features: int) -> np.ndarray:
    """Shapley values of `value`, of coalitions, by their definition."""
    from itertools import permutations

    out = np.zeros(features)
    orders = list(permutations(range(features)))
    for order in orders:
        for i, feature in enumerate(order):
            out[feature] += value(set(order[: i + 1])) - value(set(order[:i]))
    return out / len(orders)


@pytest.mark.parametrize(
    "options", [{}, {"init": "zero"}, {"subsample": 0.5, "learning_rate": 0.3}]
)
def test_boosting_of_many_classes_against_the_definition(options: Any) -> None:
    """A class's score is a sum of its own trees, and each of those has Shapley values of its own."""
    model, says = skl(
        X, CLASSES, "GradientBoostingClassifier", "decision_function", **FEW, **options
    )
    explainer = TreeShap(model)
    for row in X[:3]:
        found = explainer.explain(row, no_model).data
        for k, own in enumerate(says(row[None])[0]):
            trees = [t.tree_ for t in model.estimators_[:, k]]

            def value(known: set[int], trees: Any = trees, row: Any = row) -> float:
                return float(model.learning_rate * sum(expected(t, row, known) for t in trees))

            np.testing.assert_allclose(found["shap_values"][k], by_definition(value, 4), atol=1e-9)
            assert found["raw_prediction"][k] == pytest.approx(own)


def test_boosting_upon_another_model_is_refused() -> None:
    """What that one adds is no tree's."""
    from sklearn.linear_model import LogisticRegression

    model, _ = skl(
        X, CLASSES, "GradientBoostingClassifier", "predict", init=LogisticRegression(), **FEW
    )
    with pytest.raises(LoadError, match="add up to"):
        TreeShap(model)


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("scaler", ["StandardScaler", "MinMaxScaler", "PowerTransformer"])
def test_a_pipeline_s_trees_behind_what_changes_each_feature_by_itself(
    scaler: str, framed: bool
) -> None:
    """Its values are those of the same trees over the rows as they came."""
    import pandas as pd
    from sklearn import preprocessing
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeRegressor

    rows = pd.DataFrame(X, columns=list("abcd")) if framed else X
    scale = getattr(preprocessing, scaler)()
    model = make_pipeline(scale, "passthrough", DecisionTreeRegressor(max_depth=3, random_state=0))
    model.fit(rows, Y)
    explainer = TreeShap(model)
    assert list(explainer.names) == (list("abcd") if framed else [])
    tree = model[-1].tree_
    for i in range(3):
        found = explainer.explain(X[i], no_model).data
        seen = scale.transform(rows[i : i + 1])[0]
        values = by_definition(lambda known, seen=seen: expected(tree, seen, known), 4)
        np.testing.assert_allclose(found["shap_values"][0], values, atol=1e-9)
        assert found["raw_prediction"][0] == pytest.approx(model.predict(rows[i : i + 1])[0])
        assert found["instance"] == X[i].tolist()


def test_a_pipeline_with_a_background_against_the_definition() -> None:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler

    model = make_pipeline(RobustScaler(), RandomForestRegressor(5, max_depth=3, random_state=0))
    model.fit(X, Y)
    found = TreeShap(model, background=X[:20]).explain(X[50], no_model).data
    np.testing.assert_allclose(
        found["shap_values"], shapley(model.predict, X[50], X[:20]).T, atol=1e-6
    )


@pytest.mark.parametrize("step", ["PCA", "FunctionTransformer"])
def test_a_pipeline_that_mixes_features_is_refused(step: str) -> None:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.tree import DecisionTreeRegressor

    first = {"PCA": PCA, "FunctionTransformer": FunctionTransformer}[step]()
    model = make_pipeline(first, DecisionTreeRegressor()).fit(X, Y)
    with pytest.raises(LoadError, match=f"'{step.lower()}' of a pipeline, a {step}.*KernelShap"):
        TreeShap(model)


def test_what_has_no_trees_is_refused() -> None:
    _, model = iris()
    with pytest.raises(LoadError, match="LogisticRegression"):
        TreeShap(model)


def test_a_row_of_another_width_is_refused() -> None:
    model, _ = forest()
    with pytest.raises(InvalidInput, match="5 numbers"):
        TreeShap(model).explain(np.zeros(4), no_model)


# -- trees of every kind, held against what the model itself says


def data(*, missing: bool = False, categories: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4))
    y = x[:, 0] * x[:, 1] + x[:, 2]
    if categories:
        x[:, 3] = random.integers(0, 6, 200)
        y = x[:, 0] + 3 * np.isin(x[:, 3], [1, 4])
    if missing:
        x = np.where(random.random(x.shape) < 0.2, np.nan, x)
    return x, y


def xgb(x: np.ndarray, y: np.ndarray, **options: Any) -> tuple[Any, Any]:
    import xgboost

    def matrix(rows: np.ndarray) -> Any:
        return xgboost.DMatrix(rows)

    options = {"max_depth": 3, **options}
    model = xgboost.train(options, xgboost.DMatrix(x, label=y), 8)
    return model, lambda rows: model.predict(matrix(rows), output_margin=True)


def lgb(x: np.ndarray, y: np.ndarray, **options: Any) -> tuple[Any, Any]:
    import lightgbm

    categories = options.pop("categories", "auto")
    options = {"verbose": -1, "num_leaves": 6, "num_threads": 1, **options}
    table = lightgbm.Dataset(x, label=y, categorical_feature=categories)
    model = lightgbm.train(options, table, 8)
    return model, lambda rows: model.predict(rows, raw_score=True)


def cat(x: np.ndarray, y: np.ndarray, kind: str) -> tuple[Any, Any]:
    import catboost

    model = getattr(catboost, kind)(8, verbose=0, allow_writing_files=False, thread_count=1)
    model.fit(x, y)
    return model, lambda rows: model.predict(rows, prediction_type="RawFormulaVal")


def skl(x: np.ndarray, y: np.ndarray, kind: str, says: str, **options: Any) -> tuple[Any, Any]:
    from sklearn import ensemble, tree

    model = getattr(ensemble if hasattr(ensemble, kind) else tree, kind)(random_state=0, **options)
    model.fit(x, y)
    return model, getattr(model, says)


X, Y = data()
NAN, _ = data(missing=True)
CLASSES = np.digitize(Y, [-1, 1])
FEW = {"n_estimators": 5}
_BOOSTED, _FOREST = "HistGradientBoostingClassifier", "RandomForestClassifier"
TREES = {
    "sklearn tree": (X, lambda: skl(X, Y, "DecisionTreeRegressor", "predict")),
    "sklearn tree of NaN": (NAN, lambda: skl(NAN, Y, "DecisionTreeRegressor", "predict")),
    "sklearn forest": (X, lambda: skl(X, np.c_[Y, -Y], "RandomForestRegressor", "predict", **FEW)),
    "sklearn classes": (X, lambda: skl(X, CLASSES, "ExtraTreesClassifier", "predict_proba", **FEW)),
    "sklearn texts": (X, lambda: skl(X, np.array(["a", "b", "c"])[CLASSES], _FOREST, "predict_proba")),
    "sklearn one class": (X, lambda: skl(X, np.zeros(200), _FOREST, "predict_proba", **FEW)),
    "sklearn boosted": (X, lambda: skl(X, Y > 0, "GradientBoostingClassifier", "decision_function", **FEW)),
    "sklearn histograms": (NAN, lambda: skl(NAN, CLASSES, _BOOSTED, "decision_function", max_iter=5)),
    "xgboost": (NAN, lambda: xgb(NAN, Y)),
    "xgboost classes": (X, lambda: xgb(X, CLASSES, objective="multi:softprob", num_class=3)),
    "xgboost one class": (X, lambda: xgb(X, Y > 0, objective="binary:logistic")),
    "xgboost dart": (X, lambda: xgb(X, Y, booster="dart", rate_drop=0.5)),
    "lightgbm": (NAN, lambda: lgb(NAN, Y)),
    "lightgbm classes": (X, lambda: lgb(X, CLASSES, objective="multiclass", num_class=3)),
    "lightgbm categories": (X, lambda: lgb(*data(categories=True), categories=[3], min_data_per_group=1)),
    "catboost": (NAN, lambda: cat(NAN, Y, "CatBoostRegressor")),
    "catboost classes": (X, lambda: cat(X, CLASSES, "CatBoostClassifier")),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rows", "made"), TREES.values(), ids=TREES)
def test_values_of_trees_add_up_to_the_models_own_answer(rows: np.ndarray, made: Any) -> None:
    model, says = made()
    explainer = TreeShap(model)
    for row in rows[:10]:
        found = explainer.explain(row, no_model).data
        assert np.shape(found["shap_values"]) == (len(found["raw_prediction"]), 4)
        own = np.ravel(says(row[None]))
        np.testing.assert_allclose(found["raw_prediction"], own, rtol=1e-4, atol=1e-5)


def test_all_trees_are_explained_when_training_stopped_early() -> None:
    """The served model asks all trees; shap alone would explain those up to the best iteration."""
    import xgboost

    train, other = xgboost.DMatrix(X, label=Y), xgboost.DMatrix(X, label=-Y)
    model = xgboost.train(
        {"max_depth": 3},
        train,
        30,
        evals=[(other, "v")],
        early_stopping_rounds=2,
        verbose_eval=False,
    )
    found = TreeShap(model).explain(X[0], no_model).data
    assert found["raw_prediction"][0] == pytest.approx(
        model.predict(xgboost.DMatrix(X[:1]))[0], abs=1e-5
    )


def of_categories() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, y = data(categories=True)
    return HistGradientBoostingRegressor(max_iter=5, categorical_features=[3]).fit(x, y)


def catboost_of_categories() -> Any:
    import catboost
    import pandas as pd

    x, y = data(categories=True)
    frame = pd.DataFrame(x).astype({3: int})
    return catboost.CatBoostRegressor(
        4, verbose=0, allow_writing_files=False, cat_features=[3], thread_count=1
    ).fit(frame, y)


UNREADABLE = {
    "sklearn categories": (of_categories, {}, "splits of categories"),
    "catboost categories": (catboost_of_categories, {}, "splits of categories"),
    "lightgbm forest": (
        lambda: lgb(X, Y, boosting="rf", bagging_freq=1, bagging_fraction=0.5)[0], {}, "mean of trees",
    ),
    "lightgbm linear trees": (lambda: lgb(X, Y, linear_tree=True)[0], {}, "linear trees"),
    "catboost classes with rows": (
        lambda: cat(X, CLASSES, "CatBoostClassifier")[0],
        {"background": X[:30], "model_output": "probability"}, "raw only",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("made", "options", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_trees_that_shap_reads_wrongly_are_refused(made: Any, options: Any, said: str) -> None:
    """With what explains them instead; silently wrong values, or a dead process, are what shap has."""
    with pytest.raises(LoadError, match=said) as caught:
        TreeShap(made(), **options)
    assert "KernelShap" in str(caught.value)


def test_values_that_do_not_add_up_are_refused() -> None:
    """shap 0.51 misses some rows of histogram boosting with a background: those are not answered."""
    x = np.random.default_rng(0).normal(size=(300, 5))
    model, says = skl(x, x[:, 0] * x[:, 1] + x[:, 2] > 0, _BOOSTED, "predict_proba", max_iter=5)
    with pytest.raises(LoadError, match="add up to"):
        TreeShap(model, background=x[20:28], model_output="probability")
    explainer = TreeShap(model, background=x[:8], model_output="probability")
    refused = 0
    for row in x[:120]:
        try:
            found = explainer.explain(row, no_model).data
        except ModelError as e:
            assert "add up to" in str(e)  # noqa: PT017 - either is right
            refused += 1
        else:
            assert found["raw_prediction"][0] == pytest.approx(says(row[None])[0, 1], abs=3e-3)
    assert refused


@pytest.mark.parametrize(
    "made", [lambda: xgb(X, Y), lambda: lgb(X, Y), lambda: cat(X, Y, "CatBoostRegressor")]
)
@pytest.mark.parametrize("row", [X[0, :3], np.r_[X[0], 1.0], np.full(4, np.inf)])
def test_a_row_that_a_booster_does_not_take_is_refused(made: Any, row: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        TreeShap(made()[0]).explain(row, no_model)


def test_trees_that_know_no_nan_refuse_it() -> None:
    model, _ = skl(X, Y, "GradientBoostingRegressor", "predict", **FEW)
    with pytest.raises(InvalidInput, match="NaN"):
        TreeShap(model).explain(np.array([1.0, np.nan, 0, 0]), no_model)


def test_the_models_own_names_are_told() -> None:
    import lightgbm
    import pandas as pd

    frame = pd.DataFrame(X, columns=["age", "size", "sum", "day"])
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(frame, label=Y), 3)
    assert TreeShap(model).explain(X[0], no_model).data["feature_names"] == [
        "age",
        "size",
        "sum",
        "day",
    ]
    with pytest.raises(LoadError, match="2 feature names"):
        TreeShap(model, names=["a", "b"])

"""What an explainer is given: several instances are checked before one is explained, features have names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier

from penstock.errors import InvalidInput, PenstockError
from penstock.explain.base import Explainer
from penstock.explain.registry import build
from penstock.gateway.seldon.explain import request_of
from penstock.protocols import v2
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.seldon_message import message_of
from penstock.runtimes.base import CallContext, TensorSpec
from penstock.runtimes.explainer import ExplainerRuntime

IRIS = load_iris()
NAMES = ["sl", "sw", "pl", "pw"]
ROW = IRIS.data[120].tolist()
OTHER = IRIS.data[0].tolist()


class StandIn:
    """A predictor that asks nobody: 1 where the first number of a row, or the text's length, is above 5."""

    def __init__(self, inputs: list[str] | None = None, datatype: str = "FP64") -> None:
        self.specs = tuple(TensorSpec(n, datatype, (-1,)) for n in inputs or [])
        self.rows: list[Any] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    async def inputs(self, *, fresh: bool = False) -> tuple[TensorSpec, ...]:
        return self.specs

    async def infer(self, request: InferRequest, headers: Any) -> InferResponse:
        first = next(iter(request.inputs.values()))
        self.rows.append(request.inputs)
        if first.dtype == object:
            above = np.array([len(v) > 5 for v in first.ravel()])
        else:
            above = first.reshape(len(first), -1)[:, 0] > 5
        return InferResponse({"y": above.astype(np.int64)})


def network() -> Any:
    torch = pytest.importorskip("torch")
    return torch.nn.Linear(4, 2)


MODELS: dict[str, Any] = {
    "TreeShap": lambda: DecisionTreeClassifier().fit(IRIS.data, IRIS.target),
    "IntegratedGradients": network,
}
CONFIG: dict[str, dict[str, Any]] = {
    "AnchorTabular": {"max_samples": 500},
    "AnchorImages": {"max_samples": 200, "segments": 4},
    "AnchorText": {"max_samples": 200},
    "Counterfactuals": {"samples": 50},
    "KernelShap": {"nsamples": 50},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data whose last feature is a category of three."""
    found = tmp_path_factory.mktemp("explainer")
    rows = IRIS.data.copy()
    rows[:, 3] = np.arange(len(rows)) % 3
    lines = [",".join(NAMES)] + [",".join(map(str, r)) for r in rows]
    (found / "train.csv").write_text("\n".join(lines))
    (found / "explainer.json").write_text(json.dumps({"categorical_names": {"3": ["r", "g", "b"]}}))
    return found


def made(kind: str, folder: Path, **config: Any) -> Explainer:
    return build(kind, {**CONFIG.get(kind, {}), **config}, folder, MODELS.get(kind, lambda: None))


async def asked(
    explainer: Explainer, payload: Any, predictor: StandIn | None = None
) -> list[dict[str, Any]]:
    """What is answered to a request that is decoded."""
    runtime = ExplainerRuntime(explainer, predictor or StandIn(), 30.0, None)  # type: ignore[arg-type]
    try:
        answer: Any = await runtime.call(payload, CallContext())
    finally:
        await runtime.stop()
    if isinstance(answer, InferResponse):
        return [json.loads(v) for v in answer.outputs["explanation"].ravel()]
    found: list[dict[str, Any]] = msgspec.json.decode(answer.body)["explanations"]
    return found


def seldon(**data: Any) -> dict[str, Any]:
    return request_of(message_of({"data": data}))


def tensor(datatype: str, shape: list[int], data: Any, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def of_v2(*inputs: dict[str, Any]) -> InferRequest:
    return v2.decode_infer(json.dumps({"inputs": list(inputs)}).encode(), None)


GOOD = [6.0, 3.0, 4.0, 1.0]
TABLES = ("AnchorTabular", "KernelShap", "Counterfactuals")
ROWS = (*TABLES, "TreeShap", "IntegratedGradients")
IMAGE = (np.arange(16.0).reshape(4, 4) / 2).tolist()
#: Explainers, what is sent, and what is said: of the last instance, the others are in order.
BAD: list[tuple[tuple[str, ...], Any, str]] = [
    (ROWS[:4], {"instances": [GOOD, GOOD, GOOD[:3]]}, "instance 2: an instance has 4 numbers"),
    (ROWS, {"instances": [GOOD, GOOD, ["a", "b", "c", "d"]]}, "instance 2: an instance is a"),
    (ROWS, {"instances": [GOOD, "a text"]}, "instance 1: an instance is a"),
    (ROWS, {"instances": [GOOD, {"a": 1}]}, "instance 1: .*not an object"),
    (ROWS, {"instances": [GOOD, [[1, 2], [3]]]}, "instance 1: .*ragged"),
    (ROWS, {"instances": [GOOD, [1, 2, 3, 10**400]]}, "instance 1: an instance is a"),
    (ROWS, {"instances": [GOOD, ["x" * 20_000, *[""] * 4_000]]}, "instance 1: 4001 texts"),
    (ROWS, {"instances": [GOOD, ["1", "2", "3", "1"]]}, "instance 1: an instance is a"),
    (ROWS, of_v2(tensor("BYTES", [2, 4], list("12311231"))), "instance 0: an instance is a"),
    (TABLES, {"instances": [GOOD, [1e300, 3.0, 4.0, 1.0]]}, "instance 1: .*beyond 1e\\+150"),
    (("IntegratedGradients",), {"instances": [GOOD, [1e39, 3.0, 4.0, 1.0]]}, "instance 1: .*float32"),
    ((*TABLES, "IntegratedGradients"), {"instances": [GOOD, [1, 2, 3, None]]}, "instance 1: .*NaN"),
    (TABLES, {"instances": [GOOD, [6.0, 3.0, 4.0, 3.0]]}, "instance 1: pw is 3, which is none of its 3"),
    (TABLES, {"instances": [GOOD, [6.0, 3.0, 4.0, 0.5]]}, "instance 1: pw is 0.5, which is none"),
    (ROWS[:4], of_v2(tensor("FP64", [2, 3], [1.0] * 6)), "instance 0: an instance has 4 numbers"),
    (ROWS, of_v2(tensor("BYTES", [2, 4], list("abcdefgh"))), "instance 0: an instance is a"),
    (("IntegratedGradients",), {"instances": [GOOD, GOOD[:3]]}, "instance 1: the model does not take"),
    (TABLES, seldon(ndarray=[GOOD, [6.0, 3.0, 4.0, 3.0]]), "instance 1: pw is 3"),
    (ROWS[:4], seldon(tensor={"shape": [2, 3], "values": [1.0] * 6}), "instance 0: an instance has"),
    (ROWS, seldon(ndarray=[list("abcd"), list("abcd")]), "instance 0: an instance is a"),
    (("AnchorText",), {"instances": ["a film", "a book", ""]}, "instance 2: the text has no words"),
    (("AnchorText",), {"instances": ["a film", " ... "]}, "instance 1: the text has no words"),
    (("AnchorText",), {"instances": ["a film", 3]}, "instance 1: an instance is a text"),
    (("AnchorText",), {"instances": ["a film", ["a", "b"]]}, "instance 1: an instance is one text"),
    (("AnchorText",), {"instances": ["a film", "w " * 501]}, "instance 1: the text has 501 words"),
    (("AnchorText",), {"instances": ["a film", "w" * 100_001]}, "instance 1: .*100001 characters"),
    (("AnchorText",), of_v2(tensor("BYTES", [2], ["a film", "?"])), "instance 1: the text has no"),
    (("AnchorText",), of_v2(tensor("FP32", [2], [1, 2])), "instance 0: an instance is a text"),
    (("AnchorText",), seldon(ndarray=["a film", ""]), "instance 1: the text has no words"),
    (("AnchorImages",), {"instances": [IMAGE, [1, 2, 3]]}, "instance 1: an image is"),
    (("AnchorImages",), {"instances": [IMAGE, "a text"]}, "instance 1: an instance is an image"),
    (("AnchorImages",), {"instances": [IMAGE, [[None]]]}, "instance 1: an instance is an image|NaN"),
    (("AnchorImages",), {"instances": [IMAGE, []]}, "instance 1: an image is"),
    (("AnchorImages",), of_v2(tensor("BYTES", [2, 1, 1], ["a", "b"])), "instance 0: .*of numbers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "payload", "said"), [(kind, *row) for kinds, *row in BAD for kind in kinds]
)
async def test_each_instance_is_checked_before_the_first_is_explained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, payload: Any, said: str
) -> None:
    explainer = made(kind, folder)

    def never(*_: Any) -> None:
        raise AssertionError("an instance was explained")

    monkeypatch.setattr(type(explainer), "explain", never)
    with pytest.raises(InvalidInput, match=said):
        await asked(explainer, payload)


async def test_a_single_instance_has_no_number(folder: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        await asked(made("AnchorTabular", folder), {"instances": [[1.0]]})
    assert caught.value.message.startswith("an instance has 4 numbers")


async def test_numbers_that_the_model_cannot_take_are_found_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second image has a half, which its UINT8 does not hold."""
    whole = np.arange(16).reshape(4, 4).tolist()
    explainer = made("AnchorImages", folder)
    predictor = StandIn(["x"], "UINT8")
    assert len(await asked(explainer, {"instances": [whole, whole]}, predictor)) == 2
    monkeypatch.setattr(type(explainer), "explain", lambda *_: pytest.fail("was explained"))
    with pytest.raises(InvalidInput, match=r"instance 1: the model takes numbers of uint8"):
        await asked(explainer, {"instances": [whole, IMAGE]}, predictor)


@pytest.mark.parametrize(
    ("datatype", "value", "said"),
    [
        ("INT64", 2.5, "takes INT64, which does not hold 2.5"),
        ("UINT8", -1.0, "takes UINT8, which does not hold -1"),
        ("FP32", 1e39, r"takes FP32, which does not hold 1e\+39"),
        ("FP16", 1e5, "takes FP16, which does not hold 100000"),
    ],
)
@pytest.mark.parametrize("kind", TABLES)
async def test_a_row_that_the_models_numbers_do_not_hold_is_refused(
    tmp_path: Path, kind: str, datatype: str, value: float, said: str
) -> None:
    """What is cut off or wrapped would be another row, and so would its explanation be."""
    np.save(tmp_path / "train.npy", np.arange(40.0).reshape(20, 2))
    explainer = made(kind, tmp_path)
    assert await asked(explainer, {"instances": [[6.0, 7.0]]}, StandIn(["x"], datatype))
    with pytest.raises(InvalidInput, match=said):
        await asked(explainer, {"instances": [[6.0, value]]}, StandIn(["x"], datatype))


async def test_training_data_that_the_models_numbers_do_not_hold_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.arange(40.0).reshape(20, 2) / 4)
    with pytest.raises(InvalidInput, match=r"INT64, which does not hold .*training data"):
        await asked(
            made("AnchorTabular", tmp_path), {"instances": [[6.0, 7.0]]}, StandIn(["x"], "INT64")
        )


async def test_a_class_that_an_instance_has_already_is_found_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = made("Counterfactuals", folder, target_class=0)
    monkeypatch.setattr(type(explainer), "explain", lambda *_: pytest.fail("was explained"))
    with pytest.raises(InvalidInput, match="instance 1: the instance is of the class 0 already"):
        await asked(explainer, {"instances": [GOOD, [4.0, 3.0, 4.0, 1.0]]})


async def test_what_the_predictor_says_against_an_instance_is_said_of_it(folder: Path) -> None:
    class Strict(StandIn):
        async def infer(self, request: InferRequest, headers: Any) -> InferResponse:
            rows = next(iter(request.inputs.values()))
            if (rows[:, 1] > 4).any() and len(rows) == 1:
                raise InvalidInput("sw is above 4")
            return await super().infer(request, headers)

    with pytest.raises(InvalidInput, match="instance 1: sw is above 4"):
        await asked(
            made("KernelShap", folder), {"instances": [GOOD, [6.0, 5.0, 4.0, 1.0]]}, Strict(["x"])
        )


async def test_a_category_that_the_data_has_needs_no_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b\n1,7\n2,0\n3,1\n6,0\n")
    (tmp_path / "explainer.json").write_text('{"categorical_names": {"b": ["x"]}}')
    explainer = made("AnchorTabular", tmp_path)
    assert len(await asked(explainer, {"instances": [[6, 7], [1, 0]]})) == 2
    with pytest.raises(InvalidInput, match="b is 2, which is none of its 1 categories"):
        await asked(explainer, {"instances": [[6, 2]]})


# -- names


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data without a word on its columns."""
    found = tmp_path_factory.mktemp("unnamed")
    np.save(found / "train.npy", IRIS.data)
    return found


def told(explanation: dict[str, Any]) -> Any:
    data = explanation["data"]
    if "feature_names" in data:
        return data["feature_names"]
    if "changes" in data:
        return [c["feature"] for c in data["changes"]]
    return [part for text in data["anchor"] for part in text.split()]


@pytest.mark.parametrize("kind", [*TABLES, "TreeShap"])
async def test_seldons_names_are_the_features_where_nobody_else_names_them(
    unnamed: Path, kind: str
) -> None:
    explainer = made(kind, unnamed)
    (named,) = await asked(explainer, seldon(names=NAMES, ndarray=[ROW]))
    (plain,) = await asked(explainer, seldon(ndarray=[ROW]))
    assert set(told(named)) & set(NAMES)
    assert not set(told(plain)) & set(NAMES)
    assert named["data"]["instance"] == plain["data"]["instance"] == ROW


@pytest.mark.parametrize("kind", TABLES)
async def test_names_that_the_explainer_has_go_before_seldons(folder: Path, kind: str) -> None:
    explainer = made(kind, folder)
    (found,) = await asked(explainer, seldon(names=list("abcd"), ndarray=[GOOD]))
    assert found == (await asked(explainer, seldon(names=NAMES, ndarray=[GOOD])))[0]
    assert found == (await asked(explainer, seldon(ndarray=[GOOD])))[0]
    assert set(told(found)) & set(NAMES)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["sw", "sl", "pl", "pw"], "'sw' is number 1 of the names, but the explainer's feature 2"),
        (["a", "b", "pw", "c"], "'pw' is number 3 of the names, but the explainer's feature 4"),
        (["sl", "sl", "pl", "pw"], "two features have the name 'sl'"),
    ],
)
async def test_names_in_another_order_are_refused_where_the_model_goes_by_places(
    folder: Path, names: list[str], said: str
) -> None:
    """The same message gets a prediction by the numbers' places; another one would be explained."""
    for predictor in (StandIn(), StandIn(["x"])):
        with pytest.raises(InvalidInput, match=said):
            await asked(made("KernelShap", folder), seldon(names=names, ndarray=[GOOD]), predictor)


async def test_names_in_another_order_are_followed_where_the_model_follows_them(
    folder: Path,
) -> None:
    """A model that takes an input a feature is asked by name, as its predictions are."""
    for kind in TABLES:
        predictor = StandIn(NAMES)
        message = seldon(names=NAMES[::-1], ndarray=[GOOD[::-1]])
        (found,) = await asked(made(kind, folder), message, predictor)
        assert found["data"]["instance"] == GOOD
        assert list(predictor.rows[0]) == NAMES


async def test_as_many_names_as_numbers(unnamed: Path) -> None:
    for kind in TABLES:
        with pytest.raises(InvalidInput, match="there are 2 names"):
            await asked(made(kind, unnamed), seldon(names=["a", "b"], ndarray=[ROW]))


async def test_names_of_texts_and_images_are_none_of_features(folder: Path) -> None:
    assert await asked(made("AnchorText", folder), seldon(names=["text"], ndarray=["a good film"]))
    assert await asked(made("AnchorImages", folder), seldon(names=["image"], ndarray=[IMAGE]))


async def test_names_that_are_no_texts(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="'names' is no list of strings"):
        await asked(made("KernelShap", folder), {"instances": [GOOD], "names": [1, 2, 3, 4]})


# -- V2's inputs of a feature each


def columns(rows: list[list[float]], names: list[str], shape: list[int]) -> InferRequest:
    return of_v2(
        *(tensor("FP64", shape, [row[i] for row in rows], name) for i, name in enumerate(names))
    )


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("kind", TABLES)
async def test_an_input_a_feature_is_a_row_by_the_names(
    folder: Path, kind: str, shape: list[int]
) -> None:
    rows = [GOOD, [4.5, 3.0, 4.0, 2.0]]
    backwards = columns([r[::-1] for r in rows], NAMES[::-1], shape)
    explainer = made(kind, folder)
    found = await asked(explainer, backwards, StandIn(NAMES))
    assert [f["data"]["instance"] for f in found] == rows
    assert found == await asked(explainer, {"instances": rows}, StandIn(NAMES))


async def test_the_predictors_inputs_name_features_that_nobody_else_does(unnamed: Path) -> None:
    (found,) = await asked(
        made("KernelShap", unnamed), columns([ROW[::-1]], NAMES[::-1], [1]), StandIn(NAMES)
    )
    assert found["data"]["instance"] == ROW
    assert found["data"]["feature_names"] == NAMES


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([tensor("FP64", [1], [1.0], n) for n in NAMES[:3]], "'pw' is missing"),
        ([tensor("FP64", [1], [1.0], n) for n in [*NAMES, "x"]], "'x' is none"),
        ([tensor("FP64", [1, 2], [1.0, 2], n) for n in NAMES], "each is one feature"),
        ([tensor("BYTES", [1], ["a"], n) for n in NAMES], "holds no numbers"),
    ],
)
async def test_inputs_that_are_no_features(folder: Path, inputs: Any, said: str) -> None:
    with pytest.raises(PenstockError, match=said):
        await asked(made("KernelShap", folder), of_v2(*inputs), StandIn(NAMES))


async def test_inputs_whose_order_nobody_knows_are_refused(unnamed: Path) -> None:
    with pytest.raises(InvalidInput, match="the explainer knows none"):
        await asked(made("KernelShap", unnamed), columns([ROW], NAMES, [1]), StandIn(["x"]))

"""Top classes in place of an output, as Triton's own clients ask for them and read them."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tritonclient import grpc, http

from penstock.errors import InvalidInput
from penstock.protocols import v2
from penstock.protocols.classification import Classes, class_count, top_classes
from penstock.protocols.grpc import infer as grpc_infer
from penstock.protocols.grpc.schema import ModelInferRequest, ModelInferResponse
from penstock.protocols.infer import InferRequest, InferResponse, RequestedOutput

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
X = np.zeros((2, 1), np.float32)


def by_rest(answer: InferResponse, outputs: list[Any], *, binary: bool = True) -> Any:
    tensor = http.InferInput("x", [2, 1], "FP32")
    tensor.set_data_from_numpy(X, binary_data=binary)
    body, length = http.InferenceServerClient.generate_request_body([tensor], outputs)
    request = v2.decode_infer(bytes(body), length, "m")
    headers, pieces = v2.encode_infer(answer, request)
    lines = dict(line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
    size = lines.get(b"inference-header-content-length")
    return http.InferenceServerClient.parse_response_body(
        b"".join(bytes(p) for p in pieces), header_length=None if size is None else int(size)
    )


def grpc_request(outputs: list[Any], *, raw: bool = True) -> InferRequest:
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[2, 1])
    if raw:
        message.raw_input_contents.append(X.tobytes())
    else:
        tensor.contents.fp32_contents.extend([0, 0])
    for output in outputs:
        made = message.outputs.add()
        made.ParseFromString(output._get_tensor().SerializeToString())
    return grpc_infer.decode_infer(message.SerializeToString(), "m")


def by_grpc(answer: InferResponse, outputs: list[Any], *, raw: bool = True) -> Any:
    pieces = grpc_infer.encode_infer(answer, grpc_request(outputs, raw=raw))
    message = ModelInferResponse()
    message.ParseFromString(b"".join(bytes(p) for p in pieces)[5:])
    return grpc.InferResult(message)


def classes(values: Any) -> list[Any]:
    """As text, which is what a client of JSON gets."""
    return np.vectorize(lambda v: v if isinstance(v, str) else v.decode())(values).tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_rest_client_reads_the_top_classes(binary: bool) -> None:
    outputs = [
        http.InferRequestedOutput("p", binary_data=binary, class_count=2),
        http.InferRequestedOutput("whole", binary_data=binary),
    ]
    answer = InferResponse({"p": SCORES, "other": X, "whole": SCORES}, {"p": "FP32"})
    result = by_rest(answer, outputs)
    assert classes(result.as_numpy("p")) == [
        ["0.700000:1", "0.200000:2"],
        ["0.500000:0", "0.250000:1"],
    ]
    described = result.get_output("p")
    assert (described["datatype"], described["shape"]) == ("BYTES", [2, 2])
    np.testing.assert_array_equal(result.as_numpy("whole"), SCORES)
    assert result.get_output("other") is None


@pytest.mark.parametrize("raw", [True, False])
def test_triton_s_grpc_client_reads_them_too(raw: bool) -> None:
    outputs = [grpc.InferRequestedOutput("p", class_count=1), grpc.InferRequestedOutput("whole")]
    result = by_grpc(InferResponse({"p": SCORES, "whole": SCORES}), outputs, raw=raw)
    assert classes(result.as_numpy("p")) == [["0.700000:1"], ["0.500000:0"]]
    assert result.get_output("p").datatype == "BYTES"
    if raw:  # it reads no numbers of typed contents, whoever sent them
        np.testing.assert_array_equal(result.as_numpy("whole"), SCORES)


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        (SCORES, 9, [["0.700000:1", "0.200000:2", "0.100000:0"], ["0.500000:0", "0.250000:1", "0.250000:2"]]),
        (np.array([3, 9, 9], np.int64), 2, ["9:1", "9:2"]),
        (np.array([0, 255, 7], np.uint8), 3, ["255:1", "7:2", "0:0"]),
        (np.array([-(2**63), 2**63 - 1, 0], np.int64), 3, [f"{2**63 - 1}:1", "0:2", f"{-(2**63)}:0"]),
        (np.array([[[1, 2], [3, 0]]], np.int32), 2, [["3:2", "2:1"]]),
        (np.array([np.nan, 1.5, np.inf], np.float64), 3, ["inf:2", "1.500000:1", "nan:0"]),
        (np.array([0.5, 0.25], np.float16), 1, ["0.500000:0"]),
        (np.array(2.5), 1, ["2.500000:0"]),
        (np.zeros((0, 3), np.float32), 2, np.zeros((0, 0)).tolist()),
        (np.zeros((2, 0), np.float32), 2, [[], []]),
        (np.zeros(0, np.float32), 2, []),
    ],
)  # fmt: skip
def test_each_row_gives_its_largest(values: Any, count: int, expected: Any) -> None:
    found = top_classes(values, count, "y")
    assert found.dtype == object
    assert [v.decode() if isinstance(v, bytes) else v for v in found.ravel().tolist()] == [
        v for row in expected for v in ([row] if isinstance(row, str) else row)
    ]
    assert found.ndim == max(1, min(values.ndim, 2))


_SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9))


@given(arrays(np.float32, _SHAPES, elements=st.floats(-1e6, 1e6, width=32)), st.integers(1, 12))
def test_values_fall_and_indexes_lead_to_them(values: Any, count: int) -> None:
    found = top_classes(values, count, "y")
    assert found.shape == (len(values), min(count, values.shape[1]))
    for row, top in zip(values, found, strict=True):
        indexes = [int(element.rpartition(b":")[2]) for element in top]
        assert len(set(indexes)) == len(indexes)
        kept = row[indexes].tolist()
        assert kept == sorted(row.tolist(), reverse=True)[: len(kept)]
        assert [element.rpartition(b":")[0] for element in top] == [b"%f" % v for v in kept]


LABELS = Classes((b"setosa", b"", "größer:x".encode()))


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        (SCORES[:1], LABELS, [["0.700000:1", "0.200000:2:größer:x", "0.100000:0:setosa"]]),
        (np.array([1, 2, 3, 4], np.int64), LABELS, ["4:3", "3:2:größer:x", "2:1", "1:0:setosa"]),
        (SCORES, LABELS._replace(labels=(b"a",)), [["0.700000:1", "0.200000:2", "0.100000:0:a"],
                                                   ["0.500000:0:a", "0.250000:1", "0.250000:2"]]),
        # A model that does not batch has one row, whatever its axes.
        (SCORES, LABELS._replace(batched=False), ["0.700000:1", "0.500000:3", "0.250000:4", "0.250000:5"]),
        (SCORES[:1], Classes((b"a", b"b"), batched=False), ["0.700000:1:b", "0.200000:2", "0.100000:0:a"]),
        (np.zeros((0, 3), np.float32), LABELS._replace(batched=False), []),
        (np.array(2.5), LABELS, ["2.500000:0:setosa"]),
        (np.array(2.5), LABELS._replace(batched=False), ["2.500000:0:setosa"]),
    ],
)  # fmt: skip
def test_classes_have_the_names_that_the_model_has_for_them(
    values: Any, classes: Classes, expected: Any
) -> None:
    """An empty name, and an index that has none, is no name; Triton leaves the last colon out, too."""
    found = top_classes(values, 4, "y", classes)
    assert np.vectorize(bytes.decode, otypes=[object])(found).tolist() == expected


def test_clients_read_names_over_rest_and_grpc() -> None:
    answer, known = InferResponse({"p": SCORES[:1]}), {"p": LABELS}
    request = v2.decode_infer(asked(classification=2))
    _, (text,) = v2.encode_infer(answer, request, known)
    assert json.loads(bytes(text))["outputs"][0]["data"] == ["0.700000:1", "0.200000:2:größer:x"]
    outputs = [grpc.InferRequestedOutput("p", class_count=3)]
    pieces = grpc_infer.encode_infer(answer, grpc_request(outputs), known)
    message = ModelInferResponse()
    message.ParseFromString(b"".join(bytes(p) for p in pieces)[5:])
    assert classes(grpc.InferResult(message).as_numpy("p"))[0][2] == "0.100000:0:setosa"


def test_names_that_came_with_an_answer_count_and_stay_out_of_it() -> None:
    answer = InferResponse(
        {"p": SCORES[:1], "q": X},
        output_parameters={
            "p": {"labels": ["a", "b"], "content_type": "np"},
            "q": {"labels": ["c"]},
        },
    )
    request = msgspec.structs.replace(
        v2.decode_infer(asked(classification=1)),
        outputs=(RequestedOutput("p", classes=1), RequestedOutput("q")),
    )
    _, (text,) = v2.encode_infer(answer, request)
    first, second = json.loads(bytes(text))["outputs"]
    assert first["data"] == ["0.700000:1:b"]
    assert first["parameters"] == {"content_type": "np"}
    assert "parameters" not in second


@pytest.mark.parametrize("labels", ["a", 7, None, ["a", 3], {"a": 1}])
def test_what_is_no_list_of_names_names_nothing(labels: Any) -> None:
    answer = InferResponse({"p": SCORES[:1]}, output_parameters={"p": {"labels": labels}})
    _, (text,) = v2.encode_infer(answer, v2.decode_infer(asked(classification=1)))
    assert json.loads(bytes(text))["outputs"][0]["data"] == ["0.700000:1"]


def test_a_bfloat16_output_has_classes() -> None:
    scores = SCORES.astype(ml_dtypes.bfloat16).astype(np.float32)
    result = by_rest(
        InferResponse({"p": scores}, {"p": "BF16"}),
        [http.InferRequestedOutput("p", class_count=1)],
    )
    assert result.get_output("p")["datatype"] == "BYTES"
    assert [e.rpartition(b":")[2] for e in result.as_numpy("p").ravel()] == [b"1", b"0"]


@pytest.mark.parametrize(
    "values", [np.array([[b"a", b"b"]], object), np.array([[True, False]])], ids=["text", "flags"]
)
def test_what_has_no_largest_has_no_classes(values: Any) -> None:
    answer = InferResponse({"p": values})
    with pytest.raises(InvalidInput, match=r"'p' has datatype B.*no largest"):
        by_rest(answer, [http.InferRequestedOutput("p", class_count=1)])
    with pytest.raises(InvalidInput, match="no largest"):
        by_grpc(answer, [grpc.InferRequestedOutput("p", class_count=1)])


def asked(**parameters: Any) -> bytes:
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    return json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "p", "parameters": parameters}]}
    ).encode()


@pytest.mark.parametrize("count", [-1, "2", 1.5, True, None])
def test_a_count_is_a_count(count: Any) -> None:
    with pytest.raises(InvalidInput, match="number of classes"):
        v2.decode_infer(asked(classification=count))


def test_none_is_the_output_itself() -> None:
    request = v2.decode_infer(asked(classification=0))
    _, (text,) = v2.encode_infer(InferResponse({"p": SCORES}), request)
    assert json.loads(bytes(text))["outputs"][0]["datatype"] == "FP32"


def test_classes_do_not_go_into_shared_memory() -> None:
    with pytest.raises(InvalidInput, match="does not go into shared memory"):
        class_count({"classification": 1, "shared_memory_region": "r"}, "p")


def test_an_output_that_is_not_there_is_said_to_be_none() -> None:
    with pytest.raises(InvalidInput, match="unexpected inference output 'q'"):
        by_rest(InferResponse({"p": SCORES}), [http.InferRequestedOutput("q", class_count=1)])

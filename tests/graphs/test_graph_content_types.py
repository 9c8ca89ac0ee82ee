"""Content types go along with tensors through a graph: to the steps, under new names, and to the client."""

from __future__ import annotations

import json
from typing import Any

from penstock.graphs import encoding
from penstock.graphs.values import Body, Part, Tensors, json_of, merge, of_request, of_response
from penstock.protocols import v2
from penstock.protocols.v2_client import decode_response


def body(*inputs: tuple[str, str | None]) -> bytes:
    tensors: list[dict[str, Any]] = []
    for name, kind in inputs:
        tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": ["YQ=="]}
        tensors.append(tensor | ({"parameters": {"content_type": kind, "x": 1}} if kind else {}))
    return json.dumps({"inputs": tensors}).encode()


def rendered(value: Any) -> v2.InferRequest:
    made = encoding._rendered(value)
    length = int(made.headers.rpartition(b": ")[2])
    return v2.decode_infer(made.body, length)


def test_a_step_is_told_what_the_request_said() -> None:
    request = v2.decode_infer(body(("a", "base64"), ("b", None)))
    sent = rendered(of_request(request)).input_parameters
    assert sent["a"]["content_type"] == "base64"
    assert "x" not in sent["a"]
    assert "content_type" not in sent["b"]


def test_joins_and_new_names_keep_it() -> None:
    first = of_request(v2.decode_infer(body(("a", "base64"), ("b", "str"))))
    second = Body(body(("c", "datetime")))
    joined = merge(
        [
            Part("one", first, tensor="a", rename="image"),
            Part("one", first, tensor="b"),
            Part("two", second, renames={"c": "when"}),
            Part("three", second, tensor="c"),
        ]
    )
    assert isinstance(joined, Tensors)
    assert joined.said == {
        "image": {"content_type": "base64"},
        "b": {"content_type": "str"},
        "when": {"content_type": "datetime"},
        "c": {"content_type": "datetime"},
    }
    assert set(rendered(joined).input_parameters) == {"image", "b", "when", "c"}


def test_the_client_is_told_what_the_last_step_said() -> None:
    answer = {
        "model_name": "m",
        "outputs": [
            {
                "name": "y",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"content_type": "str"},
                "data": ["t"],
            }
        ],
    }
    value = of_response(decode_response(json.dumps(answer).encode()))
    document = json_of(value)
    assert document["outputs"][0]["parameters"] == {"content_type": "str"}


def test_tensors_that_say_nothing_are_sent_as_ever() -> None:
    value = of_request(v2.decode_infer(body(("a", None))))
    assert value.said == {}
    assert set(rendered(value).input_parameters["a"]) == {"binary_data_size"}

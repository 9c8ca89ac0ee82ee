"""Seldon's gRPC: its messages are Seldon's own, on a model process, through the gateway, and for graphs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from benchmarks.peers import environment
from seldon_oracle import HERE
from seldon_platform import deployed, deployment, node, parameter

import grpc
from penstock.protocols.grpc import seldon
from penstock.protocols.grpc.schema import METHODS, SERVICE
from penstock.protocols.seldon_message import SeldonMessage
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.seldon_python import load

sys.path.insert(0, str(HERE.parent / "grpc"))
from grpc_peers import Doubling, model_process

_DUMP = """
import json
from seldon_core.proto import prediction_pb2
def fields(d):
    return sorted(
        [f.number, f.name, f.label, -1 if f.full_name.endswith('tftensor') else f.type] for f in d.fields
    )
found = {n: fields(d) for n, d in prediction_pb2.DESCRIPTOR.message_types_by_name.items()}
services = prediction_pb2.DESCRIPTOR.services_by_name.values()
services = {s.name: sorted(m.name for m in s.methods) for s in services}
print(json.dumps([found, services]))
"""


def rows(*values: Any, **meta: Any) -> Any:
    return seldon.to_proto(SeldonMessage(np.array(values), "ndarray", (), meta))


def array(proto: Any) -> Any:
    return seldon.from_proto(proto).value.tolist()


async def call(
    channel: grpc.aio.Channel,
    method: str,
    request: Any,
    kind: Any = seldon.MessageProto,
    **metadata: str,
) -> Any:
    stub = channel.unary_unary(
        f"/seldon.protos.{method}",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=kind.FromString,
    )
    return await stub(request, metadata=tuple(metadata.items()), timeout=20)


def channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def test_messages_are_those_of_seldons_package() -> None:
    """Names, numbers and kinds of every field; services and methods."""
    done = subprocess.run(
        [environment("seldon") / "python", "-W", "ignore", "-c", _DUMP],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    theirs, services = json.loads(done.stdout)
    for message in seldon.FILE.message_type:
        ours = sorted(
            [f.number, f.name, f.label, -1 if f.name == "tftensor" else f.type]
            for f in message.field
        )
        assert ours == theirs[message.name], message.name
    for service, methods in seldon.SERVICES.items():
        assert sorted(methods) == services[service]


def unit(cls: str) -> Any:
    options = {"class": f"seldon_units.py:{cls}", "unit": "node"}
    return lambda: load(HERE, LoadOptions("m", options=options))


async def test_every_call_of_a_unit(tmp_path: Path) -> None:
    listed = seldon.ListProto(seldonMessages=[rows([1.0]), rows([2.0])])
    async with (
        model_process(tmp_path, {"m": unit("Doubler")}) as (app, _, port),
        channel(port) as c,
    ):
        for service in ("Seldon", "Model"):
            answer = await call(
                c, f"{service}/Predict", rows([1.0, 2.0], puid="p", tags={"t": "u"})
            )
            assert array(answer) == [[2.0, 4.0]]
            assert answer.meta.puid == "p"
            assert {k: v.string_value or v.number_value for k, v in answer.meta.tags.items()} == {
                "t": "u",
                "mine": 1,
            }
            assert [m.key for m in answer.meta.metrics] == ["calls", "level", "took"]
        for service, method, expected in (
            ("Transformer", "TransformInput", [[2.0]]),
            ("OutputTransformer", "TransformOutput", [[0.0]]),
            ("Router", "Route", [[1]]),
            ("Generic", "Route", [[1]]),
        ):
            assert array(await call(c, f"{service}/{method}", rows([1.0]))) == expected
        assert array(await call(c, "Combiner/Aggregate", listed)) == [[3.0]]
        feedback = seldon.FeedbackProto(request=rows([1.0]), reward=0.5)
        feedback.response.meta.routing["node"] = 1
        await call(c, "Model/SendFeedback", feedback)
        runtime: Any = app.repository.get("m").runtime
        assert runtime._instance.learned == ([[1.0]], [], 0.5, [], 1)


async def test_payloads_that_are_no_arrays(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": unit("Doubler")}) as (_, _, port), channel(port) as c:
        for message in (
            SeldonMessage("text", "strData"),
            SeldonMessage(b"\0\1", "binData"),
            SeldonMessage({"a": [1.0, {"b": None}]}, "jsonData"),
        ):
            answer = seldon.from_proto(await call(c, "Model/Predict", seldon.to_proto(message)))
            assert (answer.kind, answer.value) == (message.kind, message.value)


async def test_a_model_of_arrays_predicts_and_counts_rewards(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (app, _, port), channel(port) as c:
        tensor = SeldonMessage(np.array([[1.0, 2.0]]), "tensor")
        answer = await call(c, "Seldon/Predict", seldon.to_proto(tensor))
        assert answer.data.WhichOneof("data_oneof") == "tensor"
        assert array(answer) == [[2.0, 4.0]]
        await call(c, "Seldon/SendFeedback", seldon.FeedbackProto(reward=2))
        family = app.metrics.registry.families["penstock_feedback_reward"]
        assert sum(g.value for g in family.children.values()) == 2


@pytest.mark.parametrize(
    ("method", "body", "code", "said"),
    [
        ("Seldon/Predict", b"", "INVALID_ARGUMENT", "one of data"),
        ("Seldon/Predict", b"\xff\xff", "INVALID_ARGUMENT", "no protobuf"),
        ("Seldon/Predict", bytes(seldon.MessageProto(data={"tftensor": b"x"}).SerializeToString()),
         "INVALID_ARGUMENT", "tftensor"),
        ("Seldon/Predict",
         seldon.MessageProto(data={"tensor": {"shape": [3], "values": [1]}}).SerializeToString(),
         "INVALID_ARGUMENT", "has 1 values"),
        ("Combiner/Aggregate", b"", "UNIMPLEMENTED", "no aggregate"),
        ("Router/Route", rows([1]).SerializeToString(), "UNIMPLEMENTED", "no route"),
        ("Router/Predict", b"", "UNIMPLEMENTED", "no method"),
    ],
)  # fmt: skip
async def test_bad_calls(tmp_path: Path, method: str, body: bytes, code: str, said: str) -> None:
    async with model_process(tmp_path, {"m": unit("Bare")}) as (_, _, port), channel(port) as c:
        stub = c.unary_unary(f"/seldon.protos.{method}")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub(body, timeout=20)
    assert failed.value.code().name == code
    assert said in (failed.value.details() or "")


def graph() -> Any:
    by = [parameter("by", "1", "FLOAT")]
    return deployment(
        node(
            "router",
            "ROUTER",
            "Chooses",
            children=[
                node("a", "MODEL", "Plus", parameters=by),
                node("b", "MODEL", "Tagged", parameters=by),
            ],
        )
    )


async def test_a_graph_predicts_and_learns(tmp_path: Path) -> None:
    async with deployed(tmp_path, graph()) as d, channel(d.port) as c:
        named = {"seldon": "dep", "namespace": "default"}
        request = rows([1.0], puid="p", tags={"x": "y"})
        answer = await call(c, "Seldon/Predict", request, **named)
        assert array(answer) == [[2.0]]
        assert dict(answer.meta.routing) == {"router": 1}
        assert dict(answer.meta.requestPath) == {"router": "dep-main-router", "b": "dep-main-b"}
        assert set(answer.meta.tags) == {"x", "by1"}
        feedback = seldon.FeedbackProto(request=request, response=answer, reward=0.25)
        await call(c, "Seldon/SendFeedback", feedback, **named)
        assert d.unit("dep-main-b").learned == [(0.25, None)]
        assert d.unit("dep-main-router").learned == [(0.25, 1)]
        assert d.unit("dep-main-a").learned == []


async def test_a_service_behind_the_gateway_predicts(tmp_path: Path) -> None:
    async with deployed(tmp_path, graph()) as d, channel(d.port) as c:
        answer = await call(c, "Seldon/Predict", rows([1.0]), seldon="dep-main-a")
        assert array(answer) == [[2.0]]
        answer = await call(c, "Router/Route", rows([1]), seldon="dep-main-router")
        assert array(answer) == [[1]]


async def test_v2_calls_of_a_graph_are_answered(tmp_path: Path) -> None:
    async with deployed(tmp_path, graph()) as d, channel(d.port) as c:
        request, answer_kind = METHODS["ModelInfer"]
        infer = c.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=request.SerializeToString,
            response_deserializer=answer_kind.FromString,
        )
        asked = request(model_name="dep")
        tensor = asked.inputs.add(name="x", datatype="FP64", shape=[1, 1])
        tensor.contents.fp64_contents.append(1.0)
        answer = await infer(asked, timeout=20)
        assert answer.outputs[0].contents.fp64_contents[:] == [2.0]
        assert not answer.parameters


@pytest.mark.parametrize(
    ("method", "metadata", "code", "said"),
    [
        ("Seldon/Predict", {}, "INVALID_ARGUMENT", "names no deployment"),
        ("Seldon/Predict", {"seldon": "other"}, "NOT_FOUND", "no service other"),
        ("Router/Route", {"seldon": "dep"}, "UNIMPLEMENTED", "for one of its units"),
    ],
)
async def test_calls_that_mean_nobody(
    tmp_path: Path, method: str, metadata: dict[str, str], code: str, said: str
) -> None:
    async with deployed(tmp_path, graph()) as d, channel(d.port) as c:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(c, method, rows([1.0]), **metadata)
        assert failed.value.code().name == code
        assert said in (failed.value.details() or "")


async def test_a_graphs_failure_is_a_status(tmp_path: Path) -> None:
    async with deployed(tmp_path, graph()) as d, channel(d.port) as c:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(c, "Seldon/Predict", rows([9.0]), seldon="dep")
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "answered branch 9" in (failed.value.details() or "")
        for body in (b"", b"\xff\xff"):
            stub = c.unary_unary("/seldon.protos.Seldon/Predict")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub(body, metadata=(("seldon", "dep"),), timeout=20)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_missing_number_is_one() -> None:
    """NaN in an ndarray, which protobuf's own way to JSON refuses."""
    proto = seldon.MessageProto()
    proto.data.ndarray.values.add().list_value.values.add(number_value=float("nan"))
    assert np.isnan(seldon.from_proto(proto).value).all()


def named_steps(trace: str) -> list[str]:
    return [step["step"] for step in json.loads(trace)["steps"]]


async def test_a_graphs_steps_are_told_to_who_asks(tmp_path: Path) -> None:
    """In a tag of the answer's meta, where Seldon's clients look, and the trace in a trailer, too."""
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Tagged")])
    async with deployed(tmp_path, deployment(graph)) as d, channel(d.port) as c:
        stub = c.unary_unary(
            "/seldon.protos.Seldon/Predict",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=seldon.MessageProto.FromString,
        )
        meant = (("seldon", "dep"), ("namespace", "default"))
        call = stub(rows([1.0]), metadata=(*meant, ("x-penstock-trace", "1")), timeout=20)
        answer = await call
        tags = {k: v.string_value or v.bool_value for k, v in answer.meta.tags.items()}
        assert named_steps(tags.pop("penstock_trace")) == ["main.t", "main.m"]
        assert tags == {"by1": True}
        trailers = dict(await call.trailing_metadata())
        assert named_steps(str(trailers["x-penstock-trace"])) == ["main.t", "main.m"]

        call = stub(rows([1.0]), metadata=(*meant, ("x-penstock-inspect", "1")), timeout=20)
        told = json.loads((await call).meta.tags["penstock_inspect"].string_value)
        assert [s["step"] for s in told["steps"]] == ["main.t", "main.m"]
        assert told["graph"] == "default/dep"
        assert "1.0" in json.dumps(told["request"])
        assert "x-penstock-trace" not in dict(await call.trailing_metadata())

        call = stub(rows([1.0]), metadata=meant, timeout=20)
        assert set((await call).meta.tags) == {"by1"}


async def test_a_failed_call_tells_its_steps_in_the_trailer(tmp_path: Path) -> None:
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Fails")])
    async with deployed(tmp_path, deployment(graph)) as d, channel(d.port) as c:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(c, "Seldon/Predict", rows([1.0]), seldon="dep", **{"x-penstock-trace": "1"})
        trailers = dict(failed.value.trailing_metadata())
        assert named_steps(str(trailers["x-penstock-trace"])) == ["main.t", "main.m"]


async def test_v2s_call_of_a_seldon_graph_shows_its_steps_as_a_parameter(tmp_path: Path) -> None:
    graph = node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Plus")])
    async with deployed(tmp_path, deployment(graph)) as d, channel(d.port) as c:
        takes, gives = METHODS["ModelInfer"]
        request = takes(model_name="dep")
        tensor = request.inputs.add(name="x", datatype="FP64", shape=[1, 1])
        tensor.contents.fp64_contents.append(1.0)
        stub = c.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=gives.FromString,
        )
        metadata = (("x-penstock-trace", "1"), ("x-penstock-inspect", "1"))
        answer = await stub(request, metadata=metadata, timeout=20)
        trace = answer.parameters["penstock_trace"].string_param
        assert named_steps(trace) == ["main.t", "main.m"]
        told = json.loads(answer.parameters["penstock_inspect"].string_param)
        assert [s["step"] for s in told["steps"]] == ["main.t", "main.m"]


async def test_metadata_of_a_model(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": unit("Doubler")}) as (_, _, port), channel(port) as c:
        for method, request in (
            ("Seldon/ModelMetadata", seldon.AboutRequestProto()),
            ("Seldon/ModelMetadata", seldon.AboutRequestProto(name="m")),
            ("Model/Metadata", seldon.MessageProto()),
        ):
            found = await call(c, method, request, seldon.ModelAboutProto)
            assert (found.name, list(found.versions), found.platform) == (
                "doubler", ["v1"], "seldon",
            )  # fmt: skip
        for method, request, code in (
            ("Seldon/ModelMetadata", seldon.AboutRequestProto(name="other"), "NOT_FOUND"),
            ("Seldon/GraphMetadata", seldon.MessageProto(), "UNIMPLEMENTED"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(c, method, request)
            assert failed.value.code().name == code


async def test_metadata_of_a_graph_and_its_nodes(tmp_path: Path) -> None:
    child = node("m", "MODEL", implementation="SKLEARN_SERVER", modelUri="x")
    graph = node("t", "TRANSFORMER", "Plus", children=[child])
    async with deployed(tmp_path, deployment(graph)) as d, channel(d.port) as c:
        found = await call(
            c, "Seldon/GraphMetadata", seldon.MessageProto(), seldon.GraphAboutProto, seldon="dep"
        )
        assert found.name == "dep"
        assert {n: m.custom["service"] for n, m in found.models.items()} == {
            "t": "dep-main-t",
            "m": "dep-main-m",
        }
        asked = seldon.AboutRequestProto(name="m")
        told = await call(c, "Seldon/ModelMetadata", asked, seldon.ModelAboutProto, seldon="dep")
        assert (told.name, told.platform) == ("m", "seldon")
        own = await call(
            c,
            "Seldon/ModelMetadata",
            seldon.AboutRequestProto(),
            seldon.ModelAboutProto,
            seldon="dep-main-m",
        )
        assert own.name == "dep-main-m"
        assert own.inputs[0].schema.struct_value.fields["names"].list_value.values
        for name in ("", "x"):
            asked = seldon.AboutRequestProto(name=name)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(c, "Seldon/ModelMetadata", asked, seldon="dep")
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_numbers_of_numpys_are_numbers_over_grpc(tmp_path: Path) -> None:
    """In JSON, tags and metrics; a metric that is no number is left out."""
    async with (
        model_process(tmp_path, {"m": unit("Numpy")}) as (_, _, port),
        channel(port) as c,
    ):
        for service, method in (("Seldon", "Predict"), ("Transformer", "TransformInput")):
            answer = await call(c, f"{service}/{method}", rows([1.0]))
            tags = seldon.from_proto(answer).meta["tags"]
            assert tags == {"f": 0.5, "i": 3, "l": [1.0, 2.0]}
            assert [(m.key, m.value) for m in answer.meta.metrics] == [("level", 2.0)]
            if method == "Predict":
                found = seldon.from_proto(answer).value
                assert found == {"a": 1.5, "b": [1, 2], "c": {"d": True}}

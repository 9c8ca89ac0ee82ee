"""The client against a real model process that serves a user's own classes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from penstock import AsyncClient, Client, InferRequest
from penstock.domain.process import ProcessSpec, ServedModel, encode
from penstock.errors import InvalidInput, ModelError, NotFound, Unavailable, Unsupported

MODELS = {
    "double": """
        batchable = True
        def predict(self, x: np.ndarray, note: list[str] = ()):
            if x.dtype == object: raise penstock.InvalidInput("numbers are expected")
            return {"y": x * 2, "note": np.array([list(note)] * len(x), object).reshape(len(x), -1)}
    """,
    "words": """
        def predict(self, payload):
            for word in payload["instances"]: yield word
        def explain(self, payload): return {"explanation": payload["instances"]}
    """,
    "faulty": """
        def predict(self, payload): raise KeyError("secret")
    """,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The socket of a model process with all of MODELS."""
    folder = tmp_path_factory.mktemp("client")
    served = []
    for name, body in MODELS.items():
        (folder / f"{name}.py").write_text(
            "import numpy as np, penstock\nclass M(penstock.Model):\n"
            + body.replace("        ", "    ", 1).replace("\n        ", "\n    ")
        )
        served.append(ServedModel(name, "custom", str(folder / f"{name}.py")))
    spec = folder / "spec.json"
    address = f"unix:{folder}/s"
    spec.write_bytes(encode(ProcessSpec(address, tuple(served))))
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.server", "--spec", spec, "--status-fd", str(writer)],
        pass_fds=[writer],
    ) as process:
        os.close(writer)
        try:
            with open(reader) as status:
                for line in status:
                    event = json.loads(line)
                    assert event["event"] != "failed", event
                    if event["event"] == "ready":
                        break
                yield address
        finally:
            process.terminate()


@pytest.fixture
def client(server):
    with Client(server) as client:
        yield client


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_go_and_come_back(client, binary):
    x = np.array([[0.1, 0.2], [0.3, np.inf if binary else 0.4]], np.float32)
    answer = client.infer("double", {"x": x, "note": ["é", "b"]}, id="7", binary=binary)
    assert (answer.model_name, answer.id) == ("double", "7")
    np.testing.assert_array_equal(answer.outputs["y"], x * 2)
    assert answer.outputs["y"].dtype == np.float32
    assert answer.outputs["note"].tolist() == [["é".encode(), b"b"]] * 2
    assert answer.datatypes == {"y": "FP32", "note": "BYTES"}


def test_nan_comes_back_from_json(client):
    request = InferRequest({"x": np.array([[np.nan, 1.0]])}, binary_output=False)
    answer = client.infer("double", request)
    np.testing.assert_array_equal(answer.outputs["y"], [[np.nan, 2.0]])


def test_only_the_outputs_asked_for(client):
    answer = client.infer("double", {"x": np.ones((1, 1))}, outputs=["y"])
    assert list(answer.outputs) == ["y"]


def test_v1_rows_and_columns(client):
    assert client.predict("double", [{"x": 1}, {"x": 2.5}])[1]["y"] == 5.0
    assert client.predict("double", inputs={"x": np.array([3])})[0]["y"] == 6
    for wrong in ({}, {"instances": [1], "inputs": [1]}, {"instances": [object()]}):
        with pytest.raises(InvalidInput):
            client.predict("double", **wrong)


def test_streams(client):
    assert b"".join(client.stream("words", {"instances": ["a", "b", "c"]})) == b"abc"
    with pytest.raises(NotFound):
        list(client.stream("nope", {"instances": []}))


def test_explanations(client):
    assert client.explain("words", [1]) == {"explanation": [1]}


def test_errors_are_those_of_the_server(client):
    with pytest.raises(NotFound, match="nope"):
        client.infer("nope", {"x": [1]})
    with pytest.raises(InvalidInput, match="numbers are expected"):
        client.infer("double", {"x": ["a"]})
    with pytest.raises(InvalidInput, match="unexpected inference output 'z'"):
        client.infer("double", {"x": [[1]]}, outputs=["z"])
    with pytest.raises(ModelError, match="failed in predict: KeyError") as caught:
        client.predict("faulty", [1])
    assert "secret" not in str(caught.value)
    with pytest.raises(Unsupported, match="streams"):
        client.infer("words", {"x": [1]})
    with pytest.raises(InvalidInput, match=r"no tensor|no V2 datatype"):
        client.infer("double", {"x": object()})


def test_health_and_metadata(client):
    assert client.ready()
    assert client.ready("double")
    assert not client.ready("nope")
    assert "binary_tensor_data" in client.metadata()["extensions"]
    assert client.metadata("double")["name"] == "double"


@pytest.fixture
def nobody():
    """An address that is taken, and where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_server_that_is_not_there(nobody):
    with Client(nobody) as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match="there is no answer"):
            client.predict("m", [1])


async def test_the_same_for_asyncio(server, nobody):
    async with AsyncClient(server) as client:
        assert await client.ready("double")
        answer = await client.infer("double", {"x": np.ones((1, 2))})
        assert answer.outputs["y"].tolist() == [[2, 2]]
        assert (await client.predict("double", [{"x": 1}]))[0]["y"] == 2
        assert [p async for p in client.stream("words", {"instances": ["a"]})] == [b"a"]
        assert await client.explain("words", [1]) == {"explanation": [1]}
        assert (await client.metadata("double"))["name"] == "double"
        with pytest.raises(NotFound):
            await client.infer("nope", {"x": [1]})
    async with AsyncClient(nobody) as client:
        assert not await client.ready()
        with pytest.raises(Unavailable):
            await client.metadata()


def test_names_are_escaped_and_tokens_sent():
    client = Client("http://h:1/", namespace="team a", service="s", token="t0")
    assert (
        client._v2("m/x", "1", "/infer")
        == "http://h:1/serving/team%20a/s/v2/models/m%2Fx/versions/1/infer"
    )
    assert client._http.headers["authorization"] == "Bearer t0"
    client.close()

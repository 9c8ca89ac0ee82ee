"""Transformers before a real predictor, over real sockets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from component_servers import Component, chain, error_of, running, write
from kserve_package import write_packages

from penstock.errors import InvalidInput, LoadError
from penstock.protocols.infer import InferRequest
from penstock.protocols.v2_client import decode_response, encode_request
from penstock.sdk.predictor import Predictor

#: Answers what it got, doubled; 13 makes it fail and 99 makes it wait.
PREDICTOR = """
import asyncio, threading
import numpy as np
import penstock

class Double(penstock.Model):
    inputs = [("x", "FP64", (-1, 2))]

    def predict(self, x: np.ndarray):
        if (x == 13).any():
            raise ValueError("unlucky")
        if (x == 14).any():
            raise penstock.InvalidInput("14 is not taken")
        if (x == 99).any():
            threading.Event().wait(3)
        return {"y": x * 2}
"""


def pair(tmp_path: Path, code: str, **kw: Any) -> Any:
    return chain(
        tmp_path,
        ("custom", write(tmp_path, "predictor", PREDICTOR)),
        ("transformer", write(tmp_path, "transformer", code)),
        **kw,
    )


SCALE = """
import penstock

class Scale(penstock.Transformer):
    def preprocess(self, payload, headers=None):
        return {"instances": [[v / 10 for v in row] for row in payload["instances"]]}

    def postprocess(self, result, headers=None):
        return {"answers": result["predictions"]}
"""

V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [10, 20]}]}


async def test_v1_goes_through_both(tmp_path: Path) -> None:
    async with pair(tmp_path, SCALE) as (_, front):
        answer = await front.v1({"instances": [[10, 20], [30, 40]]})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"answers": [[2.0, 4.0], [6.0, 8.0]]}


async def test_async_methods(tmp_path: Path) -> None:
    code = SCALE.replace("    def ", "    async def ")
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[10, 20]]})).json() == {"answers": [[2.0, 4.0]]}


async def test_nothing_overridden_passes_on(tmp_path: Path) -> None:
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    async with pair(tmp_path, code) as (behind, front):
        body = {"instances": [[1, 2]]}
        assert (await front.v1(body)).json() == (await behind.v1(body)).json()
        a, b = (await front.v2(V2)).json(), (await behind.v2(V2)).json()
        assert a["outputs"] == b["outputs"]


async def test_v2_tensors_reach_the_predictor_as_tensors(tmp_path: Path) -> None:
    code = """
    import numpy as np, penstock
    from penstock import InferRequest, InferResponse

    class T(penstock.Transformer):
        def preprocess(self, request: InferRequest, headers=None):
            x = request.as_numpy()
            assert x.dtype == np.float64
            return InferRequest({"x": x / 10})

        def postprocess(self, response, headers=None):
            assert isinstance(response, InferResponse)
            assert response.outputs["y"].dtype == np.float64
            return {"z": response.outputs["y"] + 1}
    """
    async with pair(tmp_path, code) as (_, front):
        answer = (await front.v2({"id": "7", **V2})).json()
        assert answer["outputs"] == [
            {"name": "z", "shape": [1, 2], "datatype": "FP64", "data": [3.0, 5.0]}
        ]
        assert answer["id"] == "7"
        # Binary tensors in and out.
        length, body = encode_request(
            InferRequest({"x": np.array([[10.0, 20.0]])}, binary_output=True)
        )
        raw = await front.client.post(
            "/v2/models/m/infer", content=b"".join(body),
            headers={"inference-header-content-length": str(length)},
        )  # fmt: skip
        size = int(raw.headers["inference-header-content-length"])
        assert decode_response(raw.content, size).outputs["z"].tolist() == [[3.0, 5.0]]


async def test_preprocess_from_tensors_to_tensors(tmp_path: Path) -> None:
    """Annotated methods get arrays whatever the protocol, and what they return goes on as tensors."""
    code = """
    import numpy as np, penstock

    class T(penstock.Transformer):
        def preprocess(self, a: np.ndarray, b: np.ndarray):
            return np.stack([a, b], axis=1) / 10
    """
    async with pair(tmp_path, code) as (_, front):
        body = {
            "inputs": [
                {"name": n, "shape": [2], "datatype": "FP64", "data": d}
                for n, d in (("a", [10, 30]), ("b", [20, 40]))
            ]
        }
        answer = (await front.v2(body)).json()
        assert answer["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]


async def test_kserve_style_classes_that_extend_nothing(tmp_path: Path) -> None:
    """KServe's and KFServing's names: `__init__(name, predictor_host)`, no predict of its own."""
    code = """
    class Old:
        def __init__(self, name: str, predictor_host: str):
            self.name = name
            self.predictor_host = predictor_host
            self.ready = False

        def load(self):
            assert self.predictor_host.startswith("unix:")
            self.ready = True

        def preprocess(self, inputs: dict, headers: dict = None) -> dict:
            return {"instances": [[v + 1 for v in row] for row in inputs["instances"]]}

        def postprocess(self, outputs: dict, headers: dict = None) -> dict:
            return {"predictions": [sum(row) for row in outputs["predictions"]]}
    """
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [10.0]}


async def test_kserves_annotations_mean_the_payload(tmp_path: Path) -> None:
    code = """
    from typing import Any, Dict, Union
    from penstock import InferRequest, InferResponse, Transformer

    class Annotated(Transformer):
        def preprocess(self, payload: Union[Dict, InferRequest], headers: Dict[str, str] = None):
            return payload

        def postprocess(self, result: Union[Dict, InferResponse], headers: Dict[str, str] = None):
            return result
    """
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [[2.0, 4.0]]}
        assert (await front.v2(V2)).json()["outputs"][0]["data"] == [20.0, 40.0]


async def test_kfserving_writes_list_and_passes_a_dict(tmp_path: Path) -> None:
    code = """
    from typing import Dict, List

    class Old:
        def __init__(self, name: str, predictor_host: str):
            self.name = name

        def preprocess(self, inputs: Dict) -> Dict:
            return inputs

        def postprocess(self, inputs: List) -> List:
            return {"by": self.name, **inputs}
    """
    async with pair(tmp_path, code) as (_, front):
        answer = (await front.v1({"instances": [[1, 2]]})).json()
        assert answer == {"by": "m", "predictions": [[2.0, 4.0]]}


@pytest.fixture
def kserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_packages(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in ("kserve", "kserve.errors"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("kserve")
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_class_that_extends_kserves_gets_and_gives_its_types(
    tmp_path: Path, kind: str
) -> None:
    code = """
    import numpy as np
    from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
    from kserve.errors import InvalidInput

    class Driver(Model):
        def __init__(self, name: str, predictor_host: str):
            super().__init__(name)
            self.predictor_host = predictor_host
            self.ready = True

        KIND preprocess(self, payload, headers=None):
            if isinstance(payload, InferRequest):
                x = payload.inputs[0].as_numpy()
            else:
                x = np.array(payload["instances"], np.float64)
            if x.shape[-1] != 2:
                raise InvalidInput("two columns are wanted")
            made = InferInput("input-0", list(x.shape), "FP64")
            made.set_data_from_numpy(x + 1)
            return InferRequest(self.name, [made])

        KIND postprocess(self, result, headers=None):
            assert isinstance(result, InferResponse), type(result)
            y = result.outputs[0].as_numpy()
            out = InferOutput("sum", [len(y)], "FP64", y.sum(axis=1))
            words = InferOutput("words", [1], "BYTES", np.array(["ä"], object))
            return InferResponse(result.id, self.name, [out, words])
    """.replace("KIND", kind)
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {
            "predictions": [{"sum": 10.0, "words": "ä"}]
        }
        answer = (await front.v2({**V2, "id": "7"})).json()
        assert answer["id"] == "7"
        outputs = {o["name"]: o["data"] for o in answer["outputs"]}
        assert outputs["words"] == ["ä"]
        refused = await front.v1({"instances": [[1, 2, 3]]})
        assert refused.status_code == 400
        assert "two columns are wanted" in refused.json()["error"]
        explained = await front.v1({"instances": [[1, 2]]}, "explain")
        assert explained.status_code == 501


@pytest.mark.usefixtures("kserve")
async def test_kserves_own_steps_are_none_of_a_class(tmp_path: Path) -> None:
    code = """
    import kserve

    class Before(kserve.Model):
        def preprocess(self, payload, headers=None):
            return {"instances": [[v + 1 for v in row] for row in payload["instances"]]}
    """
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [[4.0, 6.0]]}


@pytest.mark.usefixtures("kserve")
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("def", "super().predict(payload, headers)"),
        ("async def", "await super().predict(payload, headers=headers, response_headers=None)"),
    ],
)
@pytest.mark.parametrize("bases", ["kserve.Model", "Named, kserve.Model", "Own"])
async def test_kserves_own_predict_asks_the_predictor(
    tmp_path: Path, kind: str, call: str, bases: str
) -> None:
    """By V1 with a dict, by V2 with KServe's request, whatever the class extends besides."""
    code = """
    import kserve

    class Named:
        pass

    class Own(kserve.Model):
        pass

    class Asks(BASES):
        KIND predict(self, payload, headers=None):
            assert isinstance(payload, dict | kserve.InferRequest)
            return CALL
    """
    code = code.replace("BASES", bases).replace("KIND", kind).replace("CALL", call)
    if bases != "Own":
        code = code.replace("class Own(kserve.Model):", "class Own:")
    async with pair(tmp_path, code, **{"class": "Asks"}) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [[2.0, 4.0]]}
        assert (await front.v2(V2)).json()["outputs"][0]["data"] == [20.0, 40.0]


@pytest.mark.usefixtures("kserve")
async def test_a_class_that_nobody_may_extend_is_served(tmp_path: Path) -> None:
    code = """
    import kserve

    class Before(kserve.Model):
        def __init_subclass__(cls, *, licence):
            pass

        def preprocess(self, payload, headers=None):
            return {"instances": [[v + 1 for v in row] for row in payload["instances"]]}
    """
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [[4.0, 6.0]]}


async def test_predict_may_ask_more_than_once(tmp_path: Path) -> None:
    code = """
    import penstock

    class Twice(penstock.Transformer):
        async def predict(self, payload, headers=None):
            once = await self.predictor(payload, headers)
            return await self.predictor({"instances": once["predictions"]}, headers)
    """
    async with pair(tmp_path, code) as (_, front):
        assert (await front.v1({"instances": [[1, 2]]})).json() == {"predictions": [[4.0, 8.0]]}


async def test_synchronous_code_asks_from_its_thread(tmp_path: Path) -> None:
    code = """
    import penstock

    class Sync(penstock.Transformer):
        def predict(self, payload, headers=None):
            return self.predictor.ask(payload, headers)
    """
    async with pair(tmp_path, code) as (_, front):
        answers = await asyncio.gather(*(front.v1({"instances": [[i, 0]]}) for i in range(12)))
        assert [a.json()["predictions"][0][0] for a in answers] == [2.0 * i for i in range(12)]


async def test_headers_of_a_trace_go_on_and_others_stay(tmp_path: Path) -> None:
    """Who asked and which trace it is are passed on, a cookie is not."""
    code = """
    import json, penstock

    class Echo(penstock.Model):
        def predict(self, payload, headers=None):
            return {"predictions": [dict(headers)]}
    """
    front_code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    async with chain(
        tmp_path,
        ("custom", write(tmp_path, "predictor", code)),
        ("transformer", write(tmp_path, "transformer", front_code)),
    ) as (_, front):
        sent = {
            "x-request-id": "r1",
            "traceparent": "00-1-2-01",
            "cookie": "c=1",
            "authorization": "B t",
        }
        got = (await front.v1({"instances": [1]}, headers=sent)).json()["predictions"][0]
        assert got["x-request-id"] == "r1"
        assert got["traceparent"] == "00-1-2-01"
        assert got["authorization"] == "B t"
        assert "cookie" not in got
        assert int(got["x-request-timeout-ms"]) == 20_000


SAYS_WHAT_WAS_ASKED = """
import penstock

class Echo(penstock.Model):
    def predict(self, payload, headers=None, response_headers=None):
        response_headers["x-penstock-revision"] = "m-00002"
        return {"predictions": [headers.get("x-penstock-prefer"), headers.get("x-penstock-revision")]}
"""


@pytest.mark.parametrize(
    "method",
    [
        "async def predict(self, payload):\n        return await self.predictor(payload)",
        "def predict(self, payload):\n        return self.predictor.ask(payload)",
        "def preprocess(self, payload, headers=None):\n        return payload",
    ],
    ids=["awaits", "asks in a thread", "has preprocess only"],
)
async def test_the_revision_that_is_wanted_reaches_the_predictor_whatever_the_code_between(
    tmp_path: Path, method: str
) -> None:
    """And which one answered comes back, for the gateway; nothing of it where nothing was wanted."""
    code = f"import penstock\nclass T(penstock.Transformer):\n    {method}\n"
    async with chain(
        tmp_path,
        ("custom", write(tmp_path, "predictor", SAYS_WHAT_WAS_ASKED)),
        ("transformer", write(tmp_path, "transformer", code)),
    ) as (_, front):
        plain = await front.v1({"instances": [1]})
        assert plain.json() == {"predictions": [None, None]}
        assert "x-penstock-answered-by" not in plain.headers
        told = await front.v1({"instances": [1]}, headers={"x-penstock-prefer": "m-00002"})
        assert told.json() == {"predictions": ["m-00002", None]}
        assert told.headers["x-penstock-answered-by"] == "m-00002"
        told = await front.v1({"instances": [1]}, headers={"x-penstock-revision": "m-00001"})
        assert told.json() == {"predictions": [None, "m-00001"]}
        # What one request wanted is not another's.
        assert (await front.v1({"instances": [1]})).json() == {"predictions": [None, None]}


# -- what goes wrong


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [(13, 500, "ValueError"), (14, 400, "14 is not taken")],
)
async def test_the_predictors_errors_keep_their_kind(
    tmp_path: Path, value: int, status: int, said: str
) -> None:
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    async with pair(tmp_path, code) as (_, front):
        assert said in error_of(await front.v1({"instances": [[value, 0]]}), status)
        assert (await front.v1({"instances": [[1, 0]]})).status_code == 200


async def test_a_wrong_shape_is_the_callers_fault_through_both(tmp_path: Path) -> None:
    async with pair(tmp_path, SCALE) as (_, front):
        error_of(await front.v1({"instances": [[1, 2], [3]]}), 400)
        assert (await front.v1({"instances": [[1, 0]]})).status_code == 200


async def test_a_transformer_that_raises_says_where_not_what(tmp_path: Path) -> None:
    async with pair(tmp_path, SCALE) as (_, front):
        message = error_of(await front.v1({"wrong": "secret-value"}), 500)
        assert "preprocess" in message
        assert "KeyError" in message
        assert "secret" not in message
        assert (await front.v1({"instances": [[1, 0]]})).status_code == 200


@pytest.mark.parametrize("made", ["None", "{1, 2}", "'hello'", "7", "object()", "ValueError"])
async def test_what_only_preprocess_can_have_made_is_not_the_callers_fault(
    tmp_path: Path, made: str
) -> None:
    code = f"""
    import penstock

    class T(penstock.Transformer):
        def preprocess(self, payload, headers=None):
            return {made}
    """
    async with pair(tmp_path, code) as (_, front):
        message = error_of(await front.v1({"instances": [[1, 0]]}), 500)
        assert "a dict, an InferRequest or arrays, not" in message


async def test_a_slow_predictor_is_a_deadline(tmp_path: Path) -> None:
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    folder = write(tmp_path, "predictor", PREDICTOR)
    front_folder = write(tmp_path, "transformer", code)
    async with (
        running(f"{tmp_path}/p.sock", "custom", folder) as behind,
        running(
            f"{tmp_path}/t.sock",
            "transformer",
            front_folder,
            predictor=behind.socket,
            timeout_s=0.3,
        ) as front,
    ):
        assert "0.3 s" in error_of(await front.v1({"instances": [[99, 0]]}), 504)


async def test_a_predictor_that_is_gone_is_not_there_now(tmp_path: Path) -> None:
    async with pair(tmp_path, SCALE) as (behind, front):
        assert (await front.v1({"instances": [[1, 0]]})).status_code == 200
        behind.server.close()
        await _closed(behind)
        assert "cannot be reached" in error_of(await front.v1({"instances": [[1, 0]]}), 503)


async def _closed(behind: Component) -> None:
    """Its socket refuses connections."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(behind.socket)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "no JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello", "broke off"),
        (b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "status 302"),
    ],
)
async def test_a_predictor_that_answers_nonsense(tmp_path: Path, answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, f"{tmp_path}/p.sock")
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    front_folder = write(tmp_path, "transformer", code)
    async with (
        server,
        running(
            f"{tmp_path}/t.sock", "transformer", front_folder, predictor=f"{tmp_path}/p.sock"
        ) as front,
    ):
        assert said in error_of(await front.v1({"instances": [[1, 0]]}), 500)


async def test_a_transformer_alone_says_so(tmp_path: Path) -> None:
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    async with running(f"{tmp_path}/t.sock", "transformer", write(tmp_path, "t", code)) as front:
        assert "no predictor" in error_of(await front.v1({"instances": [1]}), 503)


async def test_a_client_that_hangs_up_stops_the_predictors_work(tmp_path: Path) -> None:
    """The exchange with the predictor is cancelled with the request."""
    stopped = asyncio.Event()
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # ends when the transformer closes the connection
        stopped.set()
        writer.close()

    server = await asyncio.start_unix_server(serve, f"{tmp_path}/p.sock")
    code = "import penstock\nclass T(penstock.Transformer):\n    pass\n"
    folder = write(tmp_path, "transformer", code)
    async with (
        server,
        running(
            f"{tmp_path}/t.sock", "transformer", folder, predictor=f"{tmp_path}/p.sock"
        ) as front,
    ):
        _, writer = await asyncio.open_unix_connection(front.socket)
        body = b'{"instances": [[1, 2]]}'
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nhost: m\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await asyncio.wait_for(asked.wait(), 30)
        writer.transport.abort()
        await asyncio.wait_for(stopped.wait(), 30)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import penstock\nclass T(penstock.Transformer):\n    def load(self): raise OSError('x')\n",
            "OSError",
        ),
        ("x = 1\n", "preprocess"),
        ("import penstock\nclass E(penstock.Explainer):\n    pass\n", "explain"),
        ("def (", "line 1"),
    ],
)
def test_classes_that_cannot_be_served(tmp_path: Path, code: str, said: str) -> None:
    from penstock import runtimes
    from penstock.runtimes.base import LoadOptions

    with pytest.raises(LoadError, match=said):
        runtimes.find("transformer").load(write(tmp_path, "t", code), LoadOptions("m"))


async def test_ask_on_the_loop_is_refused() -> None:
    predictor = Predictor(None, "m")
    predictor.open()
    with pytest.raises(RuntimeError, match="await"):
        predictor.ask({"instances": [1]})


# -- explainers of one's own

OCCLUSION = """
import penstock

class Occlusion(penstock.Explainer):
    def explain(self, payload, headers=None):
        (row,) = payload["instances"]
        variants = [row] + [[0 if i == j else v for i, v in enumerate(row)] for j in range(len(row))]
        whole, *parts = self.predictor.ask({"instances": variants})["predictions"]
        return {"importance": [sum(whole) - sum(p) for p in parts]}
"""


async def test_an_explainer_of_ones_own(tmp_path: Path) -> None:
    async with pair(tmp_path, OCCLUSION) as (_, front):
        answer = await front.v1({"instances": [[3, 4]]}, verb="explain")
        assert answer.json() == {"importance": [6.0, 8.0]}
        about = (await front.client.get("/v1/models/m:explain")).json()
        assert about == {"name": "m", "explainer": "Occlusion", "methods": ["explain"]}
        assert (await front.client.get("/v2/models/m/explain")).json() == about


async def test_a_model_without_explain_says_so(tmp_path: Path) -> None:
    async with pair(tmp_path, SCALE) as (behind, front):
        for component in (behind, front):
            assert "explain" in error_of(
                await component.v1({"instances": [[1, 2]]}, verb="explain"), 501
            )
            assert "explain" in error_of(await component.client.get("/v1/models/m:explain"), 501)
            assert "explain" in error_of(await component.v2(V2, verb="explain"), 501)


async def test_explain_takes_get_and_post_and_nothing_else(tmp_path: Path) -> None:
    async with pair(tmp_path, OCCLUSION) as (_, front):
        answer: httpx.Response = await front.client.put("/v1/models/m:explain", json={})
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, POST"


# -- without a platform


@pytest.mark.parametrize(
    ("url", "address", "prefix"),
    [
        (
            "http://localhost:8080/serving/default/iris/",
            "tcp:localhost:8080",
            "/serving/default/iris",
        ),
        ("10.0.0.1:9000", "tcp:10.0.0.1:9000", ""),
        ("http://iris-predictor", "tcp:iris-predictor:80", ""),
    ],
)
def test_a_predictors_address_on_the_command_line(url: str, address: str, prefix: str) -> None:
    from penstock.server.run import neighbour

    found = neighbour(url)
    assert found.addresses == (address,)
    assert found.prefix == prefix
    assert Predictor(found, "m").host == address.removeprefix("tcp:") + prefix


@pytest.mark.parametrize(
    "url", ["https://x", "http://", "http://x:99999", "ftp://x", "http://x?y=1"]
)
def test_what_is_no_address_of_a_predictor(url: str) -> None:
    from penstock.server.run import neighbour

    with pytest.raises(InvalidInput, match="predictor"):
        neighbour(url)


@pytest.mark.parametrize(
    ("model", "framework", "predictor", "expected"),
    [
        ("t.py:T", None, "http://x", "transformer"),
        ("t.py", None, "http://x", "transformer"),
        ("t.py:T", None, None, None),
        ("t.py:T", "custom", "http://x", "custom"),
        ("models/iris", None, "http://x", None),
    ],
)
def test_a_class_with_a_predictor_is_a_transformer(
    model: str, framework: str | None, predictor: str | None, expected: str | None
) -> None:
    from penstock.server.run import framework_of

    assert framework_of(model, framework, predictor) == expected

"""A predict that takes the request as its protocol has it, with all that may be around it."""

import asyncio
import json
import threading

import numpy as np
import pytest

from penstock.errors import InvalidInput, LoadError, ModelError, Unsupported
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import CallContext, PayloadRuntime, RawReply, StreamReply

HEAD = """
import asyncio
import numpy as np
import pandas as pd
import penstock
from penstock import Model, InferRequest, InferResponse

"""
V1 = {"instances": [[1, 2], [3, 4]]}
V2 = InferRequest({"x": np.array([[1, 2], [3, 4]])}, {"x": "INT64"}, id="r", model_name="m")


def body(reply):
    assert isinstance(reply, RawReply)
    assert reply.content_type == "application/json"
    return json.loads(reply.body)


async def pieces(reply):
    assert isinstance(reply, StreamReply)
    return [chunk async for chunk in reply.chunks]


async def test_the_payload_is_v1s_object(load, call):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, payload, headers=None):
        return {"predictions": [sum(r) for r in payload["instances"]]}
"""
    )
    assert isinstance(runtime, PayloadRuntime)
    await runtime.start()
    assert body(await call(runtime, V1)) == {"predictions": [3, 7]}
    await runtime.stop()


async def test_or_v2s_request(load, call):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, payload: InferRequest):
        return InferResponse({"y": payload.as_numpy("x").sum(axis=1)})
"""
    )
    reply = await call(runtime, V2, protocol="v2")
    assert isinstance(reply, InferResponse)
    assert reply.outputs["y"].tolist() == [3, 7]


async def test_or_the_raw_body(load, call):
    runtime = load(HEAD + "class M(Model):\n    def predict(self, body): return body[::-1]\n")
    reply = await call(runtime, b"abc")
    assert (reply.body, reply.content_type) == (b"cba", "application/octet-stream")


STEPS = """
class M(Model):
    {a}def preprocess(self, payload, headers=None):
        return np.array(payload["instances"])
    {b}def predict(self, payload, headers=None):
        return payload * 10
    {c}def postprocess(self, result, headers=None):
        return {{"predictions": result.tolist(), "by": self.name}}
"""


@pytest.mark.parametrize(
    "asynchronous", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
)
async def test_each_step_may_be_sync_or_async(load, call, asynchronous):
    words = dict(zip("abc", ["async " if a else "" for a in asynchronous], strict=True))
    runtime = load(HEAD + STEPS.format(**words))
    assert body(await call(runtime, V1)) == {"predictions": [[10, 20], [30, 40]], "by": "m"}


@pytest.mark.parametrize(
    ("returned", "document"),
    [
        ("{'predictions': [1], 'more': 2}", {"predictions": [1], "more": 2}),
        ("{'anything': [1]}", {"anything": [1]}),
        ("[1, 2]", {"predictions": [1, 2]}),
        ("np.array([[0.5]])", {"predictions": [[0.5]]}),
        ("np.float32(0.5)", {"predictions": 0.5}),
        ("pd.DataFrame({'a': [1, 2]})", {"predictions": [{"a": 1}, {"a": 2}]}),
        ("InferResponse({'y': np.array([1])})", {"predictions": [1]}),
    ],
)
async def test_what_v1_answers(load, call, returned, document):
    runtime = load(HEAD + f"class M(Model):\n    def predict(self, payload): return {returned}\n")
    assert body(await call(runtime, V1)) == document


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        ("{'predictions': [1]}", {"output-0": [1]}),
        ("{'a': [1], 'b': ['x']}", {"a": [1], "b": ["x"]}),
        ("[1, 2]", {"output-0": [1, 2]}),
        ("np.array([[0.5]])", {"output-0": [[0.5]]}),
        ("pd.DataFrame({'a': [1, 2]})", {"a": [1, 2]}),
        ("InferResponse({'y': np.array([1])})", {"y": [1]}),
    ],
)
async def test_what_v2_answers(load, call, returned, outputs):
    runtime = load(HEAD + f"class M(Model):\n    def predict(self, payload): return {returned}\n")
    reply = await call(runtime, V2, protocol="v2")
    assert {k: v.tolist() for k, v in reply.outputs.items()} == outputs


async def test_a_v2_body_may_be_made_by_hand(load, call):
    document = {
        "model_name": "m",
        "outputs": [{"name": "y", "shape": [1], "datatype": "INT8", "data": [1]}],
    }
    runtime = load(HEAD + f"class M(Model):\n    def predict(self, payload): return {document!r}\n")
    assert body(await call(runtime, V2, protocol="v2")) == document


@pytest.mark.parametrize("protocol", ["v1", "v2"])
async def test_text_and_bytes_are_bodies_of_their_own(load, call, protocol):
    payload = V1 if protocol == "v1" else V2
    runtime = load(HEAD + "class M(Model):\n    def predict(self, payload): return 'héllo'\n")
    reply = await call(runtime, payload, protocol=protocol)
    assert (reply.body.decode(), reply.content_type) == ("héllo", "text/plain; charset=utf-8")


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(
    ("returned", "message"),
    [("None", "answered None"), ("{'a': object()}", "object"), ("1j", "complex|no V2 datatype")],
)
async def test_what_is_no_answer_is_the_models_fault(load, call, protocol, returned, message):
    runtime = load(HEAD + f"class M(Model):\n    def predict(self, payload): return {returned}\n")
    with pytest.raises(ModelError, match=message):
        await call(runtime, V1 if protocol == "v1" else V2, protocol=protocol)


@pytest.mark.parametrize("step", ["preprocess", "predict", "postprocess"])
@pytest.mark.parametrize("word", ["", "async "])
async def test_a_step_that_raises_tells_the_log_all_and_the_caller_its_kind(
    load, call, step, word, caplog
):
    steps = {
        s: f"    {word if s == step else ''}def {s}(self, value):\n"
        + ("        raise KeyError('secret')\n" if s == step else "        return value\n")
        for s in ("preprocess", "predict", "postprocess")
    }
    runtime = load(HEAD + "class M(Model):\n" + "".join(steps.values()))
    with pytest.raises(ModelError) as caught:
        await call(runtime, V1)
    assert str(caught.value) == (
        f"model 'm' failed in {step}: KeyError. Its log has the traceback."
    )
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text
    caplog.clear()


async def test_a_step_may_blame_the_caller(load, call):
    runtime = load(
        HEAD + "class M(Model):\n    def predict(self, p): raise penstock.InvalidInput('no rows')\n"
    )
    with pytest.raises(InvalidInput, match="no rows"):
        await call(runtime, V1)


@pytest.mark.parametrize("error", ["SystemExit(3)", "StopIteration()", "asyncio.TimeoutError()"])
async def test_errors_that_mean_something_to_asyncio_are_the_models_too(load, call, error):
    for word in ("", "async "):
        runtime = load(HEAD + f"class M(Model):\n    {word}def predict(self, p): raise {error}\n")
        with pytest.raises(ModelError, match="failed in predict"):
            await call(runtime, V1)


# --------------------------------------------------------------------------------- what is passed


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("payload", "None"),
        ("payload, headers", "abc"),
        ("payload, headers=None", "abc"),
        ("payload, headers: dict[str, str] | None = None", "abc"),
        ("payload, hdrs", "abc"),
        ("payload, other=None", "None"),
        ("payload, *, context", "abc"),
        ("payload, headers, response_headers", "abc"),
        ("payload: dict, headers: dict = None, response_headers: dict = None", "abc"),
        ("*args", "None"),
        ("payload, **kwargs", "None"),
    ],
)
async def test_headers_go_to_who_asks_for_them(load, call, signature, expected):
    runtime = load(
        HEAD
        + f"""
class M(Model):
    def predict(self, {signature}):
        given = locals()
        headers = given.get("headers") or given.get("hdrs") or (
            given["context"].headers if "context" in given else None)
        return [str(headers and headers["x-user"])]
"""
    )
    assert body(await call(runtime, V1, headers={"x-user": "abc"})) == {"predictions": [expected]}


async def test_a_model_may_set_response_headers(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, payload, headers, response_headers):
        response_headers["x-took"] = "3"
        return [1]
"""
    )
    context = CallContext()
    await runtime.call(V1, context)
    assert context.response_headers == {"x-took": "3"}


async def test_explain_is_a_verb_of_its_own(load, call):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, payload): return [1]
    def explain(self, payload, headers=None): return {"explanation": len(payload["instances"])}
"""
    )
    assert runtime.verbs == {"predict", "explain"}
    assert body(await call(runtime, V1, verb="explain")) == {"explanation": 2}
    plain = load(HEAD + "class M(Model):\n    def predict(self, payload): return [1]\n")
    with pytest.raises(Unsupported, match="model 'm' cannot explain"):
        await call(plain, V1, verb="explain")


TYPED = (
    HEAD
    + """
class M(Model):
    {word}def predict(self, x: np.ndarray, scale: float = 1.0, headers: dict = {{}}):
        return x * scale
"""
)


@pytest.mark.parametrize("word", ["", "async "])
async def test_tensors_by_name_work_with_headers_too(load, call, word):
    runtime = load(TYPED.format(word=word))
    assert isinstance(runtime, PayloadRuntime)
    assert body(await call(runtime, V1 | {"scale": 2})) == {"predictions": [[2, 4], [6, 8]]}
    assert body(await call(runtime, {"instances": [{"x": 1}, {"x": 2}]})) == {"predictions": [1, 2]}
    reply = await call(runtime, V2, protocol="v2")
    assert reply.outputs["output-0"].tolist() == [[1, 2], [3, 4]]
    for bad in ({}, {"instances": []}, b"raw", {"instances": [{"x": 1, "y": 2}]}):
        with pytest.raises(InvalidInput):
            await call(runtime, bad)


async def test_a_preprocess_may_make_the_tensors(load, call):
    for made in (
        "{'x': payload['rows']}",
        "np.array(payload['rows'])",
        "pd.DataFrame({'x': payload['rows']})",
    ):
        runtime = load(
            HEAD
            + f"""
class M(Model):
    def preprocess(self, payload): return {made}
    def predict(self, x: np.ndarray): return x + 1
"""
        )
        assert body(await call(runtime, {"rows": [1, 2]})) == {"predictions": [2, 3]}


# ------------------------------------------------------------------------------------------- loading


async def test_an_async_load_runs_on_the_serving_loop(load, call):
    runtime = load(
        HEAD
        + """
class M(Model):
    async def load(self):
        self.loop = asyncio.get_running_loop()
    async def predict(self, x: np.ndarray):
        return [self.loop is asyncio.get_running_loop()]
"""
    )
    await runtime.start()
    assert body(await call(runtime, V1)) == {"predictions": [True]}


async def test_an_async_load_may_fail(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    async def load(self): raise OSError("no weights")
    def predict(self, payload): return 1
"""
    )
    with pytest.raises(LoadError, match=r"M\.load line 10: OSError: no weights"):
        await runtime.start()


def test_a_model_without_predict_fails_the_load(load):
    with pytest.raises(LoadError, match=r"M in model.py has no predict of its own"):
        load(HEAD + "class M(Model):\n    pass\n")


async def test_an_example_may_be_a_request_or_arrays(load, call):
    texts = {
        "return {'instances': [[1]]}": ("payload", dict),
        "return InferRequest({'x': np.array([1])})": ("payload", InferRequest),
        "return {'x': [[1]]}": ("x: np.ndarray, headers: dict = {}", InferRequest),
        "return None": ("payload", type(None)),
    }
    for text, (signature, kind) in texts.items():
        runtime = load(
            HEAD
            + f"class M(Model):\n    def predict(self, {signature}): return [1]\n"
            + f"    def example(self): {text}\n"
        )
        example = runtime.example()
        assert isinstance(example, kind)
        if example is not None:
            protocol = "v2" if isinstance(example, InferRequest) else "v1"
            assert await call(runtime, example, protocol=protocol)


# ------------------------------------------------------------------------------------------- threads


async def test_a_synchronous_predict_does_not_hold_the_loop(load, call):
    runtime = load(
        HEAD
        + """
class M(Model):
    def predict(self, payload):
        assert payload["go"].wait(10)
        return [1]
"""
    )
    go = threading.Event()
    task = asyncio.create_task(call(runtime, {"go": go}))
    for _ in range(3):  # the loop turns while predict waits
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    assert body(await task) == {"predictions": [1]}


async def test_the_servers_thread_is_used_where_it_lends_one(load):
    runtime = load(
        HEAD
        + """
class M(Model):
    def preprocess(self, p): return p
    def predict(self, payload): return [1]
"""
    )
    hops = []

    async def run(function):
        hops.append(1)
        return function()

    await runtime.call(V1, CallContext(run=run))
    assert len(hops) == 1, "steps that follow each other share a hop"


async def test_a_model_that_is_not_reentrant_has_one_call_at_a_time(load, call):
    text = (
        HEAD
        + """
import threading
class M(Model):
    def load(self): self.now = self.most = 0; self.gate = threading.Barrier(2, timeout=0.2)
    def predict(self, payload):
        self.now += 1
        self.most = max(self.most, self.now)
        try: self.gate.wait()
        except threading.BrokenBarrierError: pass
        self.now -= 1
        return [1]
"""
    )
    for reentrant, most in ((False, 1), (True, 2)):
        runtime = load(text.replace("def load", f"reentrant = {reentrant}\n    def load"))
        await asyncio.gather(call(runtime, V1), call(runtime, V1))
        assert runtime._model.instance.most == most


# ------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    "text",
    [
        "    def predict(self, payload):\n        yield 'a'; yield b'b'; yield {'c': 1}\n",
        "    async def predict(self, payload):\n        yield 'a'; yield b'b'; yield {'c': 1}\n",
        "    def predict(self, payload):\n        return iter(['a', b'b', {'c': 1}])\n",
        "    async def predict(self, payload):\n        return (v for v in ['a', b'b', {'c': 1}])\n",
        "    def predict(self, payload): return 0\n"
        "    def postprocess(self, r):\n        yield from ['a', b'b', {'c': 1}]\n",
        "    def predict(self, x: np.ndarray):\n        yield 'a'; yield b'b'; yield {'c': 1}\n",
    ],
)  # fmt: skip
async def test_a_generator_streams(load, call, text):
    runtime = load(HEAD + "class M(Model):\n" + text)
    assert await pieces(await call(runtime, V1)) == [b"a", b"b", b'{"c":1}\n']


async def test_an_empty_stream_is_a_stream(load, call):
    runtime = load(
        HEAD + "class M(Model):\n    def predict(self, payload):\n        yield from ()\n"
    )
    assert await pieces(await call(runtime, V1)) == []


@pytest.mark.parametrize("word", ["", "async "])
async def test_a_stream_that_fails_at_once_is_an_error_not_a_stream(load, call, word):
    runtime = load(
        HEAD
        + f"class M(Model):\n    {word}def predict(self, payload):\n        raise KeyError\n        yield\n"
    )
    with pytest.raises(ModelError, match="failed in predict: KeyError"):
        await call(runtime, V1)


@pytest.mark.parametrize("word", ["", "async "])
async def test_a_stream_that_fails_later_raises_after_its_pieces(load, call, word):
    runtime = load(
        HEAD
        + f"""
class M(Model):
    {word}def predict(self, payload):
        yield "a"
        raise KeyError
"""
    )
    reply = await call(runtime, V1)
    assert await anext(reply.chunks) == b"a"
    with pytest.raises(ModelError, match="failed in predict: KeyError"):
        await anext(reply.chunks)


@pytest.mark.parametrize("word", ["", "async "])
async def test_a_stream_that_is_given_up_ends_the_generator(load, call, word):
    runtime = load(
        HEAD
        + f"""
class M(Model):
    closed = False
    {word}def predict(self, payload):
        try:
            while True: yield "a"
        finally:
            self.closed = True
"""
    )
    reply = await call(runtime, V1)
    async for _ in reply.chunks:
        break
    await reply.chunks.aclose()
    assert runtime._model.instance.closed


async def test_v2_over_rest_has_no_streams(load, call):
    runtime = load(HEAD + "class M(Model):\n    def predict(self, payload):\n        yield 'a'\n")
    with pytest.raises(Unsupported, match=r"streams its answer.*V1"):
        await call(runtime, V2, protocol="v2")

"""The gateway's gRPC port: routing, waiting, deadlines, cancellation, retries, metrics."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_peers import (
    METHOD,
    Doubling,
    Slow,
    floats,
    gateway,
    model_process,
    request,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
from penstock.domain.routes import Address, Route, Snapshot, Sticky
from penstock.http.server import HttpServer


def stub(channel: grpc.aio.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def dial(port: int, *options: tuple[str, Any]) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    found: grpc.StatusCode = refused.value.code()
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_namespace_is_named_by_metadata_or_by_the_authority(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path, namespace="team")
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer
            metadata = (("penstock-namespace", "team"),)
            assert floats(await call(request(), metadata=metadata, timeout=10)) == [2, 4]
            assert await code_of(call(request(), timeout=10)) is grpc.StatusCode.NOT_FOUND
            metadata = (("penstock-namespace", "other"),)
            assert await code_of(call(request(), metadata=metadata, timeout=10)) is (
                grpc.StatusCode.NOT_FOUND
            )
        for authority in ("m.team.example.com", "m-team.example.com"):
            async with dial(front.port, ("grpc.default_authority", authority)) as channel:
                assert floats(await stub(channel).ModelInfer(request(), timeout=10)) == [2, 4]
                # Under the service's own name, its process answers for the server.
                index = await stub(channel).RepositoryIndex(
                    service_pb2.RepositoryIndexRequest(), timeout=10
                )
                assert [(m.name, m.version) for m in index.models] == [("m", "1")]


async def test_the_seldon_header_names_the_service(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("svc", path)
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer
            assert floats(await call(request(), metadata=(("seldon-model", "svc"),), timeout=10))
            assert await code_of(call(request(), timeout=10)) is grpc.StatusCode.NOT_FOUND


async def test_what_a_kept_table_does_not_have_may_be_there(tmp_path: Path) -> None:
    async with gateway() as front, dial(front.port) as channel:
        front.gateway.restore(Snapshot(1, ()))
        call = stub(channel).ModelInfer
        assert await code_of(call(request(), timeout=10)) is grpc.StatusCode.UNAVAILABLE
        metadata = (("penstock-namespace", "other"),)
        told = call(request(), metadata=metadata, timeout=10)
        assert await code_of(told) is grpc.StatusCode.UNAVAILABLE
        front.gateway.apply(Snapshot(2, ()))
        assert await code_of(call(request(), timeout=10)) is grpc.StatusCode.NOT_FOUND


async def test_a_call_waits_for_a_sleeping_service(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m")
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer(request(), timeout=10)
            await until(lambda: bool(front.wakes))
            assert front.wakes[0].key == "default/m"
            front.route("m", path)
            assert floats(await call) == [2, 4]


async def test_a_service_that_cannot_run_says_why() -> None:
    async with gateway() as front, dial(front.port) as channel:
        front.route("m", message="no such file")
        with pytest.raises(grpc.aio.AioRpcError, match="no such file") as refused:
            await stub(channel).ModelInfer(request(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_component_that_is_late_is_named_with_its_own_limit() -> None:
    async with gateway() as front, dial(front.port) as channel:
        entered = Route("default", "m", (), entry="transformer")
        asleep = Route("default", "m", (), component="transformer", timeout_s=0.05)
        front.gateway.apply(Snapshot(1, (entered, asleep)))
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"spec\.transformer\.timeout raises"
        ) as late:
            await stub(channel).ModelInfer(request())
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_callers_deadline_counts_in_the_gateway_and_at_the_model(tmp_path: Path) -> None:
    """A call that nobody waits for any more leaves the model's queue."""
    slow = Slow()
    async with model_process(tmp_path, {"m": lambda: slow}) as (app, path, own), gateway() as front:
        front.route("m", path)
        batcher = app.repository.get("m").batcher
        assert batcher is not None
        for port in (front.port, own):
            async with dial(port) as channel:
                call = stub(channel).ModelInfer(request(), timeout=0.2)
                assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not front.gateway.active)
        slow.gate.set()


async def test_the_gateway_itself_ends_a_call_in_time(tmp_path: Path) -> None:
    """Also for a client that sends a deadline and does not keep it."""
    slow = Slow()
    async with model_process(tmp_path, {"m": lambda: slow}) as (_, path, _), gateway() as front:
        front.route("m", path)
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer(request(), metadata=(("grpc-timeout", "100m"),))
            with pytest.raises(grpc.aio.AioRpcError, match=r"answered in 0\.\d+ s") as late:
                await call
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        slow.gate.set()


async def test_a_cancelled_call_is_cancelled_at_the_replica(tmp_path: Path) -> None:
    slow = Slow()
    async with model_process(tmp_path, {"m": lambda: slow}) as (app, path, _), gateway() as front:
        front.route("m", path)
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer(request())
            await asyncio.wait_for(slow.entered.wait(), 10)
            assert len(front.gateway.active) == 1
            call.cancel()
            await until(lambda: not front.gateway.active)
            counted = app.metrics.requests("m", "grpc", 499)
            await until(lambda: counted.value == 1)
        slow.gate.set()


async def test_a_replica_that_is_gone_is_not_tried_twice(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", str(tmp_path / "nobody.sock"), path)
        async with dial(front.port) as channel:
            for _ in range(3):
                assert floats(await stub(channel).ModelInfer(request(), timeout=10)) == [2, 4]


async def test_a_replica_that_speaks_no_grpc_gives_a_status_by_its_own(tmp_path: Path) -> None:
    """A container that serves HTTP only."""
    path = str(tmp_path / "http.sock")
    server = HttpServer(lambda e: e.send(404, b"content-type: text/html\r\n", b"<p>no</p>"))
    await server.listen(Address(path=path))
    async with gateway() as front, dial(front.port) as channel:
        front.route("m", path)
        with pytest.raises(grpc.aio.AioRpcError, match="HTTP 404") as refused:
            await stub(channel).ModelInfer(request(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.close()


async def test_calls_are_counted_as_grpc_with_their_revision(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (app, path, _), gateway() as front:
        front.route("m", path)
        async with dial(front.port) as channel:
            for _ in range(3):
                await stub(channel).ModelInfer(request(), timeout=10)
            bad = request()
            bad.raw_input_contents.append(b"")
            assert await code_of(stub(channel).ModelInfer(bad, timeout=10)) is (
                grpc.StatusCode.INVALID_ARGUMENT
            )
        labels = ("default", "m", "predictor", "m-1", "grpc")
        counted = front.gateway._requests
        assert counted.labels(*labels, "200").value == 3
        assert counted.labels(*labels, "400").value == 1
        assert app.metrics.requests("m", "grpc", 200).value == 3


async def test_a_message_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with (
        model_process(tmp_path, {"m": Doubling}) as (_, path, _),
        gateway(max_body=10_000) as front,
    ):
        front.route("m", path)
        async with dial(front.port) as channel:
            call = stub(channel).ModelInfer
            large = request(data=[[1, 2]] * 2000)
            assert await code_of(call(large, timeout=10)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            packed = call(large, timeout=10, compression=grpc.Compression.Gzip)
            assert await code_of(packed) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert floats(await call(request(), timeout=10)) == [2, 4]


async def test_plain_http2_on_the_port_is_served_like_http(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--http2-prior-knowledge", "-d"),
            '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
            f"http://127.0.0.1:{front.port}/v2/models/m/infer",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 20)
        assert b'"data":[2.0,4.0]' in out


async def test_kserves_load_names_the_model_first(tmp_path: Path) -> None:
    """KServe's message has the model's name where Triton's has the repository's."""
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, own), gateway() as front:
        front.route("m", path)
        for port in (own, front.port):
            async with dial(port) as channel:
                load = channel.unary_unary(METHOD + "RepositoryModelLoad")
                assert await load(b"\x0a\x01m", timeout=10) == b"\x0a\x01m\x10\x01"


async def test_every_message_cut_in_two_reaches_the_same_answer(tmp_path: Path) -> None:
    """Model names that come late in the message are found as well."""
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        nameless = request("").SerializeToString()
        async with dial(front.port) as channel:
            call = channel.unary_unary(METHOD + "ModelInfer")
            answer = await call(nameless + b"\x0a\x01m", timeout=10)
            assert floats(service_pb2.ModelInferResponse.FromString(answer)) == [2, 4]


async def test_shares_stickiness_and_a_named_revision_hold_for_calls_too(tmp_path: Path) -> None:
    async with (
        model_process(tmp_path, {"m": Doubling}, "one") as (_, one, _),
        model_process(tmp_path, {"m": Doubling}, "two") as (_, two, _),
        gateway() as front,
        dial(front.port) as channel,
    ):

        async def revisions(*metadata: tuple[str, str]) -> list[str]:
            found = []
            for _ in range(10):
                call = stub(channel).ModelInfer(request(), metadata=metadata, timeout=10)
                assert floats(await call) == [2, 4]
                found.append(dict(await call.initial_metadata())["x-penstock-revision"])
            return found

        front.weighted("m", a=one, b=two)
        assert sorted(await revisions()) == ["a"] * 5 + ["b"] * 5
        assert set(await revisions(("x-penstock-revision", "b"))) == {"b"}
        front.weighted("m", sticky=Sticky(header="x-user"), a=one, b=two)
        chosen = [await revisions(("x-user", f"user-{i}")) for i in range(12)]
        assert all(len(set(c)) == 1 for c in chosen)
        assert {c[0] for c in chosen} == {"a", "b"}
        front.weighted("m", sticky=Sticky(), a=one, b=two)
        call = stub(channel).ModelInfer(request(), timeout=10)
        await call
        told = dict(await call.initial_metadata())["x-penstock-route"]
        assert set(await revisions(("x-penstock-route", told))) == {told}
        assert len(set(await revisions())) == 2


async def test_open_streams_do_not_hold_up_a_drain(tmp_path: Path) -> None:
    """A stream with nothing under way ends at once; a health watch says the last word and ends."""
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        async with dial(front.port) as channel:
            stream = stub(channel).ModelStreamInfer()
            await stream.write(request())
            assert floats((await stream.read()).infer_response) == [2, 4]
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == 1
            front.front.draining = True
            drained = asyncio.get_running_loop().create_task(front.server.drain(60))
            assert (await watch.read()).status == 2
            assert await code_of(watch.read()) is grpc.StatusCode.UNAVAILABLE
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(20):
            assert await drained


async def test_grpc_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    server.set_alpn_protocols(["h2", "http/1.1"])
    trust = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with (
        model_process(tmp_path, {"m": Doubling}) as (_, path, _),
        gateway(tls=server) as front,
        grpc.aio.secure_channel(f"localhost:{front.port}", trust) as channel,
    ):
        front.route("m", path)
        large = request(data=[[1, 2]] * 50_000)
        assert floats(await stub(channel).ModelInfer(large, timeout=20)) == [2, 4] * 50_000

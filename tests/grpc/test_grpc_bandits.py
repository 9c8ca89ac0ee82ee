"""Bandits over gRPC: the message's id, the arm in the metadata, features in a tensor or in the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grpc_peers import Doubling, Failing, floats, gateway, model_process, request
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.routes import Replica, Route, Snapshot, Target

UCB = Bandit(PolicyName.UCB1)


def arms(path: str) -> tuple[Target, ...]:
    """Two arms on one process."""
    return tuple(Target(f"m-{i}", 50, (Replica(f"{path}-{i}", f"unix:{path}"),)) for i in range(2))


def learns(front: Any, path: str, bandit: Bandit = UCB, trial: str = "") -> None:
    route = Route("default", "m", arms(path), bandit=bandit, uid="u", trial=trial)
    front.gateway.apply(Snapshot(front.gateway.table.sequence + 1, (route,)))


async def test_an_answer_has_the_id_and_the_arm(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        learns(front, path)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = stub.ModelInfer(request(), timeout=10)
            answer = await call
            assert floats(answer) == [2, 4]
            said = dict(await call.initial_metadata())
            assert said["x-request-id"] == answer.id
            assert said["x-penstock-arm"] == said["x-penstock-revision"]
            bandits = front.gateway.bandits
            issued = bandits.ids.read(answer.id)
            assert issued is not None
            (chosen,) = issued.chosen
            assert bandits.find(chosen.key, chosen.arm)[1] == said["x-penstock-arm"]
            # An id of the client's own comes back, and is known.
            call = stub.ModelInfer(request(id="mine"), timeout=10)
            answer = await call
            assert answer.id == "mine"
            said = dict(await call.initial_metadata())
            assert bandits.known("default/m", "mine") == said["x-request-id"]
            # What is no prediction is no request of an arm's.
            before = dict(bandits._pulls)
            assert (
                await stub.ModelReady(service_pb2.ModelReadyRequest(name="m"), timeout=10)
            ).ready
            assert bandits._pulls == before


async def test_a_failure_has_no_id(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Failing}) as (_, path, _), gateway() as front:
        learns(front, path)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.ModelInfer(request(), timeout=10)
            assert "x-request-id" not in dict(failed.value.initial_metadata())


@pytest.mark.parametrize("place", ["tensor", "header"])
async def test_features_of_a_call(tmp_path: Path, place: str) -> None:
    bandit = Bandit(PolicyName.LINUCB, features=2, **{place: "x"})
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        learns(front, path, bandit)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            metadata = (("x", "1, 2"),) if place == "header" else ()
            answer = await stub.ModelInfer(request(), metadata=metadata, timeout=10)
            issued = front.gateway.bandits.ids.read(answer.id)
            assert issued is not None
            assert issued.chosen[0].features == (1, 2, 1)
            if place == "header":
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.ModelInfer(request(), metadata=(("x", "1"),), timeout=10)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_revision_that_is_rolled_out_has_its_share_and_ids_of_nothing(
    tmp_path: Path,
) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        learns(front, path, trial="m-1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            seen = []
            for _ in range(10):
                call = stub.ModelInfer(request(), timeout=10)
                answer = await call
                said = dict(await call.initial_metadata())
                assert said["x-request-id"] == answer.id
                issued = front.gateway.bandits.ids.read(answer.id)
                assert issued is not None
                tried = said["x-penstock-revision"] == "m-1"
                assert len(issued.chosen) == (0 if tried else 1)
                assert ("x-penstock-arm" in said) != tried
                seen.append(tried)
            assert sum(seen) == 5

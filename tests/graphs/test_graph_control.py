"""Graphs in the control plane: routes, readiness by what they name, events, names shared with services."""

from __future__ import annotations

from typing import Any

from graph_world import PIPELINE, GraphWorld, service, world

from penstock.backends.base import Phase
from penstock.observe.metrics import Registry
from penstock.store.base import Key

__all__ = ["world"]


def pipeline(*steps: str, name: str = "chain", **spec: Any) -> dict[str, Any]:
    listed = [{"name": s, **({"inputs": [steps[i - 1]]} if i else {})} for i, s in enumerate(steps)]
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"steps": listed, **spec},
    }


async def test_a_graph_is_ready_when_its_services_are(world: GraphWorld) -> None:
    await world.apply(pipeline("a", "b"))
    condition = await world.ready()
    assert (condition["status"], condition["reason"]) == ("False", "ServiceMissing")
    assert condition["message"] == "a does not exist; b does not exist"
    await world.apply(service("a"))
    assert (await world.ready())["message"] == "b does not exist"
    await world.apply(service("b"))
    assert (await world.ready())["status"] == "True"
    obj = await world.store.get(Key(PIPELINE, "default", "chain"))
    assert obj["status"]["url"] == "http://127.0.0.1:8080/serving/default/chain"
    assert obj["status"]["observedGeneration"] == 1
    assert (await world.events())[-1] == (
        "Ready",
        "All services that the graph names are ready.",
    )


async def test_it_says_which_service_is_not_ready_and_why(world: GraphWorld) -> None:
    world.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if spec.service == "b" else Phase.READY
    )
    for obj in (service("a"), service("b"), pipeline("a", "b")):
        await world.apply(obj)
    condition = await world.ready()
    assert (condition["status"], condition["reason"]) == ("False", "ServicesNotReady")
    assert condition["message"].startswith("b is not ready: ")
    assert "EOFError" in condition["message"]


async def test_its_route_carries_it_and_goes_with_it(world: GraphWorld) -> None:
    await world.apply(pipeline("a", timeout="7s"))
    route = world.plane.routes.get("default/chain")
    assert route is not None
    assert route.graph is not None
    assert (route.timeout_s, [s.name for s in route.graph.flows[0].steps]) == (7, ["a"])
    await world.apply(pipeline("b"))
    route = world.plane.routes.get("default/chain")
    assert route is not None
    assert route.graph is not None
    assert route.graph.services() == (("default", "b"),)
    await world.delete(pipeline("b"))
    assert world.plane.routes.get("default/chain") is None
    assert not list(world.plane.graphs.users(("default", "b")))


async def test_what_ended_gateways_counted_of_it_goes_with_it(world: GraphWorld) -> None:
    await world.apply(pipeline("a"))
    registry = Registry()
    steps = registry.counter("penstock_graph_steps", "Steps.", ("namespace", "graph"))
    for name in ("chain", "other"):
        steps.labels("default", name).inc()
    merger = world.plane.metrics._merger
    merger.put("gateway", registry.snapshot())
    merger.retire("gateway")
    await world.delete(pipeline("a"))
    assert merger.total()["penstock_graph_steps"]["samples"] == [[["default", "other"], 1]]


async def test_a_graph_is_stopped_by_an_annotation_until_that_is_removed(world: GraphWorld) -> None:
    await world.apply(service("a"))
    await world.apply(pipeline("a"))
    outer = pipeline("x", name="outer")
    outer["spec"]["steps"][0] = {"name": "x", "pipeline": "chain"}
    await world.apply(outer)
    stopped = pipeline("a")
    stopped["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}
    await world.apply(stopped)
    route = world.plane.routes.get("default/chain")
    assert route is not None
    assert route.graph is None
    assert route.message == "it is stopped (annotation serving.kserve.io/stop)"
    obj = await world.store.get(Key(PIPELINE, "default", "chain"))
    shown = {c["type"]: (c["status"], c["reason"]) for c in obj["status"]["conditions"]}
    assert shown == {"Ready": ("False", "Stopped"), "Stopped": ("True", "Stopped")}
    assert (await world.events())[-1] == ("Stopped", "Stopped on request.")
    assert (await world.ready("outer"))["message"] == "chain is not ready: Stopped on request"
    stopped["metadata"]["annotations"] = {"serving.kserve.io/stop": "false"}
    await world.apply(stopped)
    assert (await world.ready())["status"] == "True"
    assert (await world.ready("outer"))["status"] == "True"


async def test_a_graph_of_a_graph(world: GraphWorld) -> None:
    outer = pipeline("x", name="outer")
    outer["spec"]["steps"][0] = {"name": "x", "pipeline": "chain"}
    await world.apply(outer)
    assert (await world.ready("outer"))["message"] == "chain does not exist"
    await world.apply(service("a"))
    await world.apply(pipeline("a"))
    assert (await world.ready("outer"))["status"] == "True"


async def test_a_restarted_control_plane_says_the_same(world: GraphWorld) -> None:
    for obj in (service("a"), pipeline("a")):
        await world.apply(obj)
    before = await world.store.get(Key(PIPELINE, "default", "chain"))
    events = await world.events()
    await world.restart()
    await world.settled()
    assert await world.store.get(Key(PIPELINE, "default", "chain")) == before
    assert await world.events() == events
    assert world.plane.routes.get("default/chain") is not None


async def test_a_name_may_become_a_graphs_after_a_service(world: GraphWorld) -> None:
    await world.apply(service("a"))
    await world.apply(service("chain"))
    assert [r for r in world.backend.replicas if "chain" in r]
    await world.delete(service("chain"))
    await world.apply(pipeline("a"))
    route = world.plane.routes.get("default/chain")
    assert route is not None
    assert route.graph is not None
    await world.clock.advance(60)
    await world.settled()
    assert not [r for r in world.backend.replicas if "chain" in r]


def seldon(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


async def test_a_pipeline_says_what_it_listens_to_in_vain(world: GraphWorld) -> None:
    """It is ready for its own requests all the same."""
    heard = ["other.outputs", "other.step.b.outputs", "a.outputs"]
    obj = seldon("Pipeline", "ear", input={"externalInputs": heard}, steps=[{"name": "a"}])
    await world.apply(service("a"))
    await world.apply(obj)

    async def status() -> tuple[str, list[str]]:
        stored = (await world.store.get(world.key(obj)))["status"]
        ready = next(c["status"] for c in stored["conditions"] if c["type"] == "Ready")
        return ready, stored["penstock"]["warnings"]

    in_vain = "it is not run for its requests"
    a_model = f"input: a is no graph: {in_vain}"
    assert await status() == ("True", [f"input: other does not exist: {in_vain}", a_model])
    await world.apply(seldon("Pipeline", "other", steps=[{"name": "a"}]))
    assert await status() == ("True", ["input: other has no step b", a_model])


async def test_an_experiments_members_are_of_one_kind(world: GraphWorld) -> None:
    await world.apply(service("a"))
    await world.apply(pipeline("a"))
    for resource, wrong in (("model", "chain is a pipeline"), ("pipeline", "a is a model")):
        members = [{"name": n, "weight": 1} for n in ("a", "chain")]
        trial = seldon("Experiment", "trial", resourceType=resource, candidates=members)
        await world.apply(trial)
        conditions = (await world.store.get(world.key(trial)))["status"]["conditions"]
        ready = next(c for c in conditions if c["type"] == "Ready")
        assert (ready["status"], ready["message"]) == (
            "False",
            f"{wrong}; resourceType says {resource}",
        )


async def test_an_experiment_is_stopped_by_an_annotation_until_that_is_removed(
    world: GraphWorld,
) -> None:
    await world.apply(service("a"))
    trial = seldon("Experiment", "trial", default="a", candidates=[{"name": "a", "weight": 1}])

    async def shown() -> dict[str, tuple[str, str]]:
        conditions = (await world.store.get(world.key(trial)))["status"]["conditions"]
        return {c["type"]: (c["status"], c.get("reason", "")) for c in conditions}

    trial["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}
    await world.apply(trial)
    route = world.plane.routes.get("default/trial")
    assert route is not None
    assert route.experiment is None
    assert route.message == "it is stopped (annotation serving.kserve.io/stop)"
    assert (await shown())["Ready"] == ("False", "Stopped")
    assert (await shown())["Stopped"] == ("True", "Stopped")
    trial["metadata"]["annotations"] = {"serving.kserve.io/stop": "false"}
    await world.apply(trial)
    route = world.plane.routes.get("default/trial")
    assert route is not None
    assert route.experiment is not None
    assert (await shown())["Ready"] == ("True", "")
    assert "Stopped" not in await shown()


async def test_warnings_are_events_once(world: GraphWorld) -> None:
    graph = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "InferenceGraph",
        "metadata": {"name": "k", "namespace": "default"},
        "spec": {
            "nodes": {"root": {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}},
            "minReplicas": 1,
        },
    }
    await world.apply(graph)
    await world.apply(service("a"))
    stored = await world.store.get(world.key(graph))
    assert stored["status"]["penstock"]["warnings"] == [
        "spec.minReplicas: graphs run in the gateways; they have no process of their own"
    ]
    found = await world.store.events(about=world.key(graph))
    assert [e["count"] for e in found if e["reason"] == "NoEffect"] == [1]


def runs(name: str, *graphs: str) -> dict[str, Any]:
    """A pipeline of pipelines."""
    obj = pipeline(*(f"s{i}" for i in range(len(graphs))), name=name)
    for step, graph in zip(obj["spec"]["steps"], graphs, strict=True):
        step["pipeline"] = graph
    return obj


async def test_what_closes_a_circle_of_graphs_is_refused_with_its_path(world: GraphWorld) -> None:
    await world.apply(runs("a", "b"))
    await world.apply(runs("b", "c", "d"))
    (problem,) = await world.plane.graphs.problems(runs("c", "x", "a"))
    assert problem.path == "spec.steps[1].pipeline"
    assert problem.message == "the graphs call each other in a circle: c -> a -> b -> c"
    assert await world.plane.graphs.problems(runs("c", "d")) == []
    # One that is no circle any more is none.
    await world.apply(runs("b", "d"))
    assert await world.plane.graphs.problems(runs("c", "x", "a")) == []


async def test_a_circle_that_came_to_be_is_said_once_and_comes_to_rest(world: GraphWorld) -> None:
    """As when two of them are applied at once, or are of an older release."""
    await world.apply(runs("a", "b"))
    await world.apply(runs("b", "a"))
    for name, said in (("a", "a -> b -> a"), ("b", "b -> a -> b")):
        condition = await world.ready(name)
        assert (condition["status"], condition["reason"]) == ("False", "Circle")
        assert condition["message"] == f"the graphs call each other in a circle: {said}"
    await world.apply(service("m"))
    await world.apply(pipeline("m", name="b"))
    assert (await world.ready("a"))["status"] == "True"

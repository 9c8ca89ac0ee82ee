"""One node of a SeldonDeployment that has a process, as Penstock's own InferenceService.

The node says which files and which server; its container in `componentSpecs`, found by name, the environment
and resources; the predictor the replicas. A deployment of one node is that service itself; of a graph, each
node becomes a service of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from penstock.dialects import penstock
from penstock.dialects.base import Manifest
from penstock.dialects.conversion import Converted
from penstock.dialects.kserve import annotations as notes
from penstock.dialects.schema import nearest, path
from penstock.dialects.seldon.v1_fields import PARAMETER_TYPES
from penstock.dialects.seldon.v1_servers import (
    MODEL_NAME,
    NO_IMAGES,
    SERVERS,
    UNIT_BLOCK,
    UNIT_FORMAT,
    Server,
    typed_parameters,
)
from penstock.dialects.seldon.v1_tree import Node
from penstock.domain.annotations import STOP
from penstock.domain.graph import Verb
from penstock.errors import FieldProblem

V2: Final = ("v2", "kfserving")
#: Milliseconds that a whole request of a graph may take, as Seldon's users say it.
TIMEOUTS: Final = ("seldon.io/rest-timeout", "seldon.io/rest-read-timeout")
#: The label by which Seldon's own objects name their deployment.
DEPLOYMENT_LABEL: Final = "seldon-deployment-id"
#: The variable with a node's name.
_NODE: Final = "PREDICTIVE_UNIT_ID"
#: What a class has to have, by what its node is asked.
_NEEDED: Final = (
    Verb.PREDICT,
    Verb.TRANSFORM_INPUT,
    Verb.TRANSFORM_OUTPUT,
    Verb.ROUTE,
    Verb.AGGREGATE,
)


def part_name(deployment: str, predictor: str, node: str) -> str:
    """The name of a node's service: `DEPLOYMENT-PREDICTOR-NODE`, made to fit a service's rules."""
    wanted = f"{deployment}-{predictor}-{node}"
    name = re.sub(r"[^a-z0-9-]+", "-", wanted.lower()).strip("-")
    if name == wanted and len(name) <= 63:
        return name
    digest = sha256(wanted.encode()).hexdigest()[:8]
    return f"{name[:54].rstrip('-')}-{digest}"


def part_metadata(
    deployment: Manifest, name: str, annotations: Mapping[str, str]
) -> dict[str, Any]:
    """The metadata of a service that is made for a deployment."""
    whole = deployment["metadata"]
    made: dict[str, Any] = {
        "name": name,
        "labels": {DEPLOYMENT_LABEL: whole.get("name") or ""},
    }
    if whole.get("namespace"):
        made["namespace"] = whole["namespace"]
    if annotations:
        made["annotations"] = annotations
    return made


def container_of_explainer(
    given: Mapping[str, Any], at: str, problems: list[FieldProblem]
) -> dict[str, Any]:
    """What an explainer's container says: resources and environment; nothing else has a meaning here."""
    container: Mapping[str, Any] = given.get("containerSpec") or {}
    for key, value in container.items():
        if key not in ("name", "resources", "env") and value is not None:
            message = "only resources and env of an explainer's container have a meaning here"
            problems.append(FieldProblem(f"{at}.containerSpec.{path((key,))}", message))
    found = {k: container[k] for k in ("resources", "env") if container.get(k)}
    if given.get("resources"):
        found["resources"] = given["resources"]
    return found


def places_of_explainer(block: str, given: Mapping[str, Any], at: str) -> dict[str, str]:
    """Where the user wrote what is in the block of an explainer's container."""
    resources = f"{at}.resources" if given.get("resources") else f"{at}.containerSpec.resources"
    return {f"{block}.resources": resources, f"{block}.env": f"{at}.containerSpec.env"}


class NodeReader:
    """Converts one node; collects problems and warnings."""

    def __init__(
        self,
        manifest: Manifest,
        index: int,
        node: Node,
        problems: list[FieldProblem],
        warnings: list[FieldProblem],
        *,
        part: str = "",
        others: frozenset[str] = frozenset(),
    ) -> None:
        """`part` is the service's name where the deployment is a graph; `others` are its other nodes."""
        self._manifest = manifest
        self._spec: Mapping[str, Any] = manifest["spec"]
        self._node = node
        self._problems = problems
        self._warnings = warnings
        self._part = part
        self._others = others
        self._predictor: Mapping[str, Any] = self._spec["predictors"][index]
        self._at = f"spec.predictors[{index}]"
        self._places = {"spec": self._at, "spec.predictor": self._at}
        self._args: list[str] = []
        self._replicas_said: int | None = None

    def _wrong(self, at: str, message: str) -> None:
        self._problems.append(FieldProblem(at, message))

    def convert(self) -> Converted | None:
        given, graph = self._predictor, self._node.given
        server = SERVERS.get(self._node.implementation)
        if server is None and not self._node.is_class:
            return None  # said already
        name = UNIT_BLOCK if server is None else server.block
        if not self._part:
            self._protocol(graph)
        predictor: dict[str, Any] = {}
        block = self._pod(given, predictor, name)
        self._places.setdefault(f"spec.predictor.{name}", self._node.at)
        annotations: dict[str, str] = {}
        if not self._part:
            annotations = dict((self._manifest["metadata"].get("annotations")) or {})
        self._files(graph, name, block, predictor, annotations)
        options = (
            self._class(graph, block) if server is None else self._options(graph, server, block)
        )
        if server is not None and not self._part:
            # Seldon's clients ask about the model by its node's name.
            given_env = [v for v in block.get("env") or () if v.get("name") != _NODE]
            block["env"] = [*given_env, {"name": _NODE, "value": graph["name"]}]
        if self._args:
            block["args"] = [*(block.get("args") or ()), *self._args]
        if options:
            block["options"] = options
        if self._spec.get("protocol") in V2:
            block["protocolVersion"] = "v2"
        self._replicas(given, predictor, annotations)
        self._annotations(given, predictor, annotations)
        if given.get("labels"):
            predictor["labels"] = given["labels"]
        predictor[name] = block
        spec = {"predictor": predictor}
        if not self._part:
            spec |= self._explainer(given.get("explainer") or {})
        return Converted(
            {
                "apiVersion": penstock.DIALECT.api_version,
                "kind": "InferenceService",
                "metadata": self._metadata(annotations),
                "spec": spec,
            },
            self._places,
        )

    def _metadata(self, annotations: dict[str, str]) -> dict[str, Any]:
        if not self._part:
            return {**self._manifest["metadata"], "annotations": annotations}
        return part_metadata(self._manifest, self._part, annotations)

    def _protocol(self, graph: Mapping[str, Any]) -> None:
        if self._spec.get("protocol") in (*V2, "tensorflow"):
            # In these protocols the node's name is in the path. `metadata.name` would be the default.
            self._args.append(f"--model_name={graph['name']}")

    def _pod(
        self, given: Mapping[str, Any], predictor: dict[str, Any], block_name: str
    ) -> dict[str, Any]:
        """The pod's fields into `predictor`; returns those of the node's container."""
        block: dict[str, Any] = {}
        components = given.get("componentSpecs") or ()
        for i, component in enumerate(components):
            at = f"{self._at}.componentSpecs[{i}].spec"
            pod = component.get("spec") or {}
            containers = pod.get("containers") or ()
            names = [c.get("name") for c in containers]
            ours = self._node.name in names or (not self._others and names in ([], [None]))
            if self._others and not ours:
                continue
            for key, value in pod.items():
                if key != "containers" and value is not None:
                    predictor[key] = value
                    self._places[f"spec.predictor.{key}"] = f"{at}.{key}"
            for j, container in enumerate(containers):
                here = f"{at}.containers[{j}]"
                name = container.get("name")
                if name == self._node.name or (name is None and len(containers) == 1):
                    block = {k: v for k, v in container.items() if k != "name"}
                    self._places[f"spec.predictor.{block_name}"] = here
                    self._replicas_said = component.get("replicas")
                    if self._node.is_class and container.get("image"):
                        self._problems[:] = [p for p in self._problems if p.path != f"{here}.image"]
                        self._wrong(f"{here}.image", NO_IMAGES)
                elif name not in self._others:
                    self._wrong(
                        here, "is the container of no node of the graph; nodes have theirs by name"
                    )
        if not self._others and self._replicas_said is None and components:
            self._replicas_said = components[0].get("replicas")
        return block

    def _files(
        self,
        graph: Mapping[str, Any],
        block_name: str,
        block: dict[str, Any],
        predictor: dict[str, Any],
        annotations: dict[str, str],
    ) -> None:
        at = self._node.at
        self._places[f"spec.predictor.{block_name}.storageUri"] = f"{at}.modelUri"
        if graph.get("modelUri"):
            block["storageUri"] = graph["modelUri"]
        elif self._node.is_class:
            if not any(p.message == NO_IMAGES for p in self._problems):
                self._wrong(
                    f"{at}.modelUri",
                    "is required: the folder of the node's Python class; or say an implementation, "
                    + ", ".join(SERVERS),
                )
            block["storageUri"] = "missing"
        if graph.get("serviceAccountName"):
            predictor["serviceAccountName"] = graph["serviceAccountName"]
            self._places["spec.predictor.serviceAccountName"] = f"{at}.serviceAccountName"
        if graph.get("envSecretRefName"):
            annotations[notes.STORAGE_SECRET] = graph["envSecretRefName"]

    def _class(self, graph: Mapping[str, Any], block: dict[str, Any]) -> dict[str, Any]:
        """A class for Seldon's wrapper: its name, its parameters, and what its node asks of it."""
        block["modelFormat"] = {"name": UNIT_FORMAT}
        given = graph.get("parameters") or ()
        parameters = typed_parameters(given, f"{self._node.at}.parameters", self._problems)
        named = parameters.pop(MODEL_NAME, "")
        for variable in block.get("env") or ():
            if variable.get("name") == MODEL_NAME and variable.get("value"):
                named = named or variable["value"]
        options: dict[str, Any] = {
            "unit": self._node.name,
            "methods": [str(v) for v in _NEEDED if v in self._node.verbs],
        }
        if named:
            options["class"] = str(named)
        if parameters:
            options["parameters"] = parameters
        env = [v for v in block.get("env") or () if v.get("name") not in _OWN_ENV]
        values = {
            _NODE: self._node.name,
            "PREDICTOR_ID": self._predictor["name"],
            "SELDON_DEPLOYMENT_ID": self._manifest["metadata"].get("name") or "",
        }
        block["env"] = [*env, *({"name": k, "value": v} for k, v in values.items())]
        return options

    def _options(
        self, graph: Mapping[str, Any], server: Server, block: dict[str, Any]
    ) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if server.block == "sklearn" and self._spec.get("protocol") not in V2:
            # The default of Seldon's own server; protocol v2 means MLServer, which predicts.
            options["method"] = "predict_proba"
        for i, parameter in enumerate(graph.get("parameters") or ()):
            at = f"{self._node.at}.parameters[{i}]"
            name, text = parameter["name"], parameter["value"]
            if name not in server.parameters:
                known = ", ".join(server.parameters) or "none"
                near = nearest(name, list(server.parameters))
                hint = f"did you mean {near}?" if near else f"known are {known}"
                self._wrong(f"{at}.name", f"unknown parameter of {graph['implementation']}; {hint}")
                continue
            try:
                value = PARAMETER_TYPES[parameter["type"]](text)
            except (ValueError, KeyError):
                self._wrong(f"{at}.value", f"is no {parameter['type']}")
                continue
            option = server.parameters[name]
            if option is None:
                message = "the model itself says what goes in and comes out"
                self._warnings.append(FieldProblem(at, message))
            elif option == "model_name":
                self._args = [f"--model_name={value}"]
            elif option == "pretrained_model":
                if "storageUri" in block:
                    self._wrong(at, "may not be given together with modelUri")
                block["storageUri"] = f"hf://{value}"
            else:
                options[option] = value
        return options

    def _explainer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """An explainer by its type, none when there is no type: Seldon's operator ignores it then too."""
        at = f"{self._at}.explainer"
        if not given.get("type"):
            return {}
        block = {"type": given["type"], "config": given.get("config") or {}}
        if given.get("modelUri"):
            block["storageUri"] = given["modelUri"]
        block |= container_of_explainer(given, at, self._problems)
        replicas = given.get("replicas") or 1
        self._places |= {
            "spec.explainer": at,
            "spec.explainer.alibi": at,
            **places_of_explainer("spec.explainer.alibi", given, at),
            "spec.explainer.alibi.storageUri": f"{at}.modelUri",
        }
        return {"explainer": {"minReplicas": replicas, "maxReplicas": replicas, "alibi": block}}

    def _replicas(
        self, given: Mapping[str, Any], predictor: dict[str, Any], annotations: dict[str, str]
    ) -> None:
        said = [self._replicas_said, given.get("replicas"), self._spec.get("replicas")]
        replicas = next((r for r in said if r is not None), 1)
        if replicas == 0:
            annotations[STOP] = "true"
            replicas = 1
        predictor["minReplicas"] = predictor["maxReplicas"] = replicas

    def _annotations(
        self, given: Mapping[str, Any], predictor: dict[str, Any], metadata: Mapping[str, str]
    ) -> None:
        merged: dict[str, str] = {}
        for at, found in (
            ("spec.annotations", self._spec.get("annotations") or {}),
            (f"{self._at}.annotations", given.get("annotations") or {}),
        ):
            merged |= found
            self._without_effect(at, found)
        self._without_effect("metadata.annotations", metadata)
        if merged:
            predictor["annotations"] = merged

    def _without_effect(self, at: str, annotations: Mapping[str, str]) -> None:
        for key in annotations:
            if key.startswith("seldon.io/") and not (self._part and key in TIMEOUTS):
                message = "Seldon's annotations have no effect here"
                self._warnings.append(FieldProblem(at + path((key,)), message))


#: Variables that are set for a class, whatever its container says.
_OWN_ENV: Final = frozenset((MODEL_NAME, _NODE, "PREDICTOR_ID", "SELDON_DEPLOYMENT_ID"))

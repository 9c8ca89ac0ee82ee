"""The fields of Seldon Core V1's SeldonDeployment, machinelearning.seldon.io v1, v1alpha2 and v1alpha3.

Source: reference of the API group machinelearning.seldon.io, types SeldonDeploymentSpec, PredictorSpec,
SeldonPodSpec and PredictiveUnit. The children of a graph's node are maps here, because they nest: each is
read by itself (`v1_tree`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.dialects.metadata import ObjectMeta
from penstock.dialects.pod import Loose, PodFields
from penstock.dialects.schema import Spec


class Parameter(Spec):
    name: str
    value: str
    type: Literal["INT", "FLOAT", "DOUBLE", "STRING", "BOOL"]


class PredictiveUnit(Spec):
    """A node of the graph."""

    name: Annotated[str, Field(min_length=1)]
    children: list[Loose] | None = None
    type: (
        Literal["UNKNOWN_TYPE", "ROUTER", "COMBINER", "MODEL", "TRANSFORMER", "OUTPUT_TRANSFORMER"]
        | None
    ) = None
    implementation: str | None = None
    methods: list[str] | None = None
    endpoint: Loose | None = None
    parameters: list[Parameter] | None = None
    model_uri: str | None = None
    service_account_name: str | None = None
    #: A Secret with the credentials for `modelUri`.
    env_secret_ref_name: str | None = None
    storage_initializer_image: str | None = None
    logger: Loose | None = None


class SeldonPodSpec(Spec):
    metadata: Loose | None = None
    spec: PodFields | None = None
    hpa_spec: Loose | None = None
    keda_spec: Loose | None = None
    pdb_spec: Loose | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None


class Explainer(Spec):
    """Alibi's explainers, by type."""

    type: str | None = None
    model_uri: str | None = None
    service_account_name: str | None = None
    env_secret_ref_name: str | None = None
    storage_initializer_image: str | None = None
    container_spec: Loose | None = None
    config: dict[str, str] | None = None
    endpoint: Loose | None = None
    #: JSON for the constructor of Alibi's class.
    init_parameters: str | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None
    resources: Loose | None = None


class PredictorSpec(Spec):
    name: Annotated[str, Field(min_length=1)]
    graph: PredictiveUnit
    component_specs: list[SeldonPodSpec] | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    engine_resources: Loose | None = None
    svc_orch_spec: Loose | None = None
    #: Percent.
    traffic: Annotated[int, Field(ge=0, le=100)] | None = None
    explainer: Explainer | None = None
    shadow: bool | None = None
    ssl: Loose | None = None
    progress_deadline_seconds: int | None = None


class SeldonDeploymentSpec(Spec):
    #: Deprecated by Seldon, and without a meaning there too.
    name: str | None = None
    predictors: Annotated[list[PredictorSpec], Field(min_length=1)]
    oauth_key: Annotated[str | None, Field(alias="oauth_key")] = None
    oauth_secret: Annotated[str | None, Field(alias="oauth_secret")] = None
    annotations: dict[str, str] | None = None
    protocol: Literal["seldon", "tensorflow", "kfserving", "v2"] | None = None
    transport: Literal["rest", "grpc"] | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None
    server_type: Literal["kafka", "rpc"] | None = None


class SeldonDeployment(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: SeldonDeploymentSpec
    status: Loose | None = None


#: Texts that Seldon takes for a BOOL.
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "y", "on", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "off", "f"), False),
}
#: What a parameter's text means, by its type.
PARAMETER_TYPES: dict[str, Any] = {
    "INT": int,
    "FLOAT": float,
    "DOUBLE": float,
    "STRING": str,
    "BOOL": lambda text: _BOOLEANS[text.lower()],
}

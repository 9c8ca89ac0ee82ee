"""What of a SeldonDeployment is understood and not done: the rows of its table."""

from __future__ import annotations

from penstock.dialects.conversion import moved_rows
from penstock.dialects.kserve.support import TABLE as KSERVE_TABLE
from penstock.dialects.pod import CLUSTER
from penstock.dialects.seldon.v1_fields import SeldonDeployment
from penstock.dialects.support import Table, no_effect, refused

_PREDICTOR = "spec.predictors.*"
_POD = f"{_PREDICTOR}.componentSpecs.*.spec"
_NO_ORCHESTRATOR = "there is no orchestrator beside the model; the gateway does its work"

TABLE = Table(
    (
        refused(f"{_PREDICTOR}.graph.logger", "logging of payloads is not supported yet"),
        no_effect(
            f"{_PREDICTOR}.graph.endpoint", "the gateway finds the unit by itself", harmless=({},)
        ),
        no_effect(f"{_PREDICTOR}.graph.storageInitializerImage", CLUSTER),
        refused(
            f"{_PREDICTOR}.explainer.initParameters",
            "is for Alibi's classes; settings of Penstock's explainers go into config",
            harmless=("", "{}"),
        ),
        refused(
            f"{_PREDICTOR}.explainer.{{serviceAccountName,envSecretRefName}}",
            "an explainer's files are opened with the credentials of the model's, which graph says",
            harmless=("",),
        ),
        no_effect(
            f"{_PREDICTOR}.explainer.endpoint",
            "the gateway finds the model by itself",
            harmless=({},),
        ),
        no_effect(f"{_PREDICTOR}.explainer.storageInitializerImage", CLUSTER),
        refused(
            f"{_PREDICTOR}.ssl", "certificates are the gateway's own", harmless=({},)
        ),
        no_effect(
            f"{_PREDICTOR}.{{svcOrchSpec,engineResources}}", _NO_ORCHESTRATOR, harmless=({},)
        ),
        no_effect(f"{_PREDICTOR}.progressDeadlineSeconds", CLUSTER),
        refused(
            f"{_PREDICTOR}.componentSpecs.*.{{hpaSpec,kedaSpec}}",
            "scaling by cpu or by a queue is not supported; set replicas",
            harmless=({},),
        ),
        no_effect(
            f"{_PREDICTOR}.componentSpecs.*.{{pdbSpec,metadata}}", CLUSTER, harmless=({},)
        ),
        refused(
            "spec.serverType",
            "reading requests from Kafka is not supported",
            harmless=("rpc",),
        ),
        no_effect(
            "spec.{oauth_key,oauth_secret}",
            "is not read (Seldon stopped reading it too)",
            only_processes=False,
        ),
        *(
            row
            for row in moved_rows(
                KSERVE_TABLE,
                {"spec.predictor": _POD, "spec.predictor.sklearn": f"{_POD}.containers.*"},
                SeldonDeployment,
            )
            # The container of a node has to have the node's name.
            if row.fields != f"{_POD}.containers.*.name"
        ),
    )
)  # fmt: skip

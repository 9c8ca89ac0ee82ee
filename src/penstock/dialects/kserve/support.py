"""What of KServe's InferenceService is refused, or accepted without effect. See `support`."""

from __future__ import annotations

from penstock.dialects import components
from penstock.dialects.kserve.fields import BLOCKS
from penstock.dialects.pod import model_container_rows, pod_rows
from penstock.dialects.support import Table, no_effect, refused

_BLOCKS = "{" + ",".join([*BLOCKS, "model"]) + "}"
_METRIC = (
    "cpu and memory do not scale replicas here, minReplicas of them run; concurrency and rps do"
)

TABLE = Table(
    (
        refused(
            "spec.explainer.art",
            "robustness attacks of ART are not supported; alibi with type Counterfactuals tells for tables"
            " what would change the answer",
        ),
        refused(
            "spec.explainer.aix",
            "LIME of AIX360 is not supported; alibi with type AnchorImages, AnchorText or KernelShap"
            " explains any model",
        ),
        *(
            row
            for role, blocks in (
                ("transformer", components.TRANSFORMER_BLOCKS),
                ("explainer", components.EXPLAINER_BLOCKS),
            )
            for row in (
                *components.rows(f"spec.{role}", blocks),
                *pod_rows(f"spec.{role}"),
                *model_container_rows(f"spec.{role}.{{{','.join(blocks)}}}"),
            )
        ),
        refused("spec.predictor.logger", "logging of payloads is not supported yet"),
        refused(
            "spec.predictor.autoScaling",
            "scaling by further metrics is not supported; set scaleMetric and scaleTarget",
        ),
        refused(
            "spec.predictor.batcher.timeout",
            "has no meaning (KServe never reads it); timeout of the predictor bounds a request",
        ),
        refused("spec.predictor.workerSpec", "models over several nodes are not supported"),
        refused(
            "spec.predictor.storageContainerName",
            "storage containers of one's own are not supported",
        ),
        refused(
            f"spec.predictor.{_BLOCKS}.confidential",
            "confidential models are not supported",
            harmless=({"enabled": False}, {}),
        ),
        refused(
            f"spec.predictor.{_BLOCKS}.storage.schemaPath", "ModelMesh's schemas are not supported"
        ),
        no_effect(
            "spec.predictor.scaleMetric",
            _METRIC,
            only_processes=False,
            harmless=("concurrency", "rps"),
        ),
        no_effect(
            "spec.predictor.scaleMetricType",
            "is for scaling by cpu and memory, which is not done here",
            only_processes=False,
        ),
        no_effect(
            f"spec.predictor.{_BLOCKS}.runtimeVersion",
            "the framework installed here runs the model, whatever its version",
        ),
        *pod_rows("spec.predictor"),
        *model_container_rows(f"spec.predictor.{_BLOCKS}"),
    )
)

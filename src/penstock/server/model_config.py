"""A model's configuration, as Triton's model configuration extension has it: what can be said truthfully.

The REST and the gRPC answer are made from it. Fields of Triton's that mean nothing here (instance groups,
optimisation, warm-up) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from penstock.runtimes.base import TensorSpec
    from penstock.server.loaded import Loaded


class TensorConfig(msgspec.Struct, frozen=True):
    """An input or output. Where requests are batched, `dims` leave the batch axis out."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class DynamicBatching(msgspec.Struct, frozen=True):
    max_queue_delay_microseconds: int = 0


class TransactionPolicy(msgspec.Struct, frozen=True):
    """Decoupled: a request may have any number of responses."""

    decoupled: bool = False


class ModelConfig(msgspec.Struct, frozen=True):
    """One version of a model. A `max_batch_size` of 0: requests are not batched."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    model_transaction_policy: TransactionPolicy
    dynamic_batching: DynamicBatching | msgspec.UnsetType = msgspec.UNSET


def model_config(loaded: Loaded) -> ModelConfig:
    """The configuration of a version that is loaded."""
    runtime = loaded.runtime
    rows = loaded.batch_rows
    return ModelConfig(
        name=loaded.name,
        platform=runtime.platform,
        backend=runtime.platform.partition("_")[0],
        max_batch_size=rows,
        input=_tensors(runtime.inputs, rows > 0),
        output=_tensors(runtime.outputs, rows > 0),
        model_transaction_policy=TransactionPolicy(loaded.decoupled),
        dynamic_batching=DynamicBatching(round(loaded.max_latency_s * 1e6))
        if rows
        else msgspec.UNSET,
    )


def _tensors(specs: Sequence[TensorSpec], batched: bool) -> list[TensorConfig]:
    return [
        TensorConfig(
            spec.name,
            f"TYPE_{'STRING' if spec.datatype == 'BYTES' else spec.datatype}",
            spec.shape[1:] if batched else spec.shape,
        )
        for spec in specs
    ]

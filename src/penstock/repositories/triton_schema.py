"""The fields of Triton's ModelConfig, as `config.pbtxt` writes them.

Source: the message ModelConfig of Triton's `model_config.proto` and its documentation. What of it is served,
and what is refused or has no effect, is in `triton`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from penstock.repositories.text_format import Field, Message

_S: Final = Field("string")
_I: Final = Field("int")
_B: Final = Field("bool")
_F: Final = Field("float")
_STRINGS: Final = Field("string", repeated=True)
_INTS: Final = Field("int", repeated=True)


def _message(**fields: Field) -> Field:
    return Field(MappingProxyType(fields))


def _messages(**fields: Field) -> Field:
    return Field(MappingProxyType(fields), repeated=True)


#: Triton's data types and V2's names for them.
DATATYPES: Final = MappingProxyType(
    {
        "TYPE_BOOL": "BOOL",
        "TYPE_UINT8": "UINT8",
        "TYPE_UINT16": "UINT16",
        "TYPE_UINT32": "UINT32",
        "TYPE_UINT64": "UINT64",
        "TYPE_INT8": "INT8",
        "TYPE_INT16": "INT16",
        "TYPE_INT32": "INT32",
        "TYPE_INT64": "INT64",
        "TYPE_FP16": "FP16",
        "TYPE_FP32": "FP32",
        "TYPE_FP64": "FP64",
        "TYPE_STRING": "BYTES",
        "TYPE_BF16": "BF16",
    }
)
_TYPE: Final = Field(("TYPE_INVALID", *DATATYPES))
_RESHAPE: Final = _message(shape=_INTS)
_QUEUE: Final = _message(
    timeout_action=Field(("REJECT", "DELAY")),
    default_timeout_microseconds=_I,
    allow_timeout_override=_B,
    max_queue_size=_I,
)
_CONTROLS: Final = _messages(
    name=_S,
    control=_messages(
        kind=Field(
            (
                "CONTROL_SEQUENCE_START",
                "CONTROL_SEQUENCE_READY",
                "CONTROL_SEQUENCE_END",
                "CONTROL_SEQUENCE_CORRID",
            )
        ),
        int32_false_true=_INTS,
        fp32_false_true=Field("float", repeated=True),
        bool_false_true=Field("bool", repeated=True),
        data_type=_TYPE,
    ),
)
_STATES: Final = _messages(
    input_name=_S,
    output_name=_S,
    data_type=_TYPE,
    dims=_INTS,
    initial_state=_messages(data_type=_TYPE, dims=_INTS, zero_data=_B, data_file=_S, name=_S),
    use_same_buffer_for_input_output=_B,
    use_growable_memory=_B,
)
_ACCELERATOR: Final = _messages(name=_S, parameters=Field("string", map=True))
_BATCH_KINDS: Final = (
    "BATCH_ELEMENT_COUNT",
    "BATCH_ACCUMULATED_ELEMENT_COUNT",
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
    "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
    "BATCH_ITEM_SHAPE",
    "BATCH_ITEM_SHAPE_FLATTEN",
    "BATCH_SCATTER_WITH_INPUT_SHAPE",
)

MODEL_CONFIG: Final[Message] = MappingProxyType(
    {
        "name": _S,
        "platform": _S,
        "backend": _S,
        "runtime": _S,
        "version_policy": _message(
            latest=_message(num_versions=_I),
            all=_message(),
            specific=_message(versions=_INTS),
        ),
        "max_batch_size": _I,
        "input": _messages(
            name=_S,
            data_type=_TYPE,
            format=Field(("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")),
            dims=_INTS,
            reshape=_RESHAPE,
            is_shape_tensor=_B,
            allow_ragged_batch=_B,
            optional=_B,
            is_non_linear_format_io=_B,
        ),
        "output": _messages(
            name=_S,
            data_type=_TYPE,
            dims=_INTS,
            reshape=_RESHAPE,
            label_filename=_S,
            is_shape_tensor=_B,
            is_non_linear_format_io=_B,
        ),
        "batch_input": _messages(
            kind=Field(_BATCH_KINDS), target_name=_STRINGS, data_type=_TYPE, source_input=_STRINGS
        ),
        "batch_output": _messages(
            target_name=_STRINGS, kind=Field(_BATCH_KINDS), source_input=_STRINGS
        ),
        "optimization": _message(
            graph=_message(level=_I),
            priority=Field(("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN")),
            cuda=_message(
                graphs=_B,
                busy_wait_events=_B,
                graph_spec=_messages(batch_size=_I),
                output_copy_stream=_B,
            ),
            execution_accelerators=_message(
                gpu_execution_accelerator=_ACCELERATOR, cpu_execution_accelerator=_ACCELERATOR
            ),
            input_pinned_memory=_message(enable=_B),
            output_pinned_memory=_message(enable=_B),
            gather_kernel_buffer_threshold=_I,
            eager_batching=_B,
        ),
        "dynamic_batching": _message(
            preferred_batch_size=_INTS,
            max_queue_delay_microseconds=_I,
            preserve_ordering=_B,
            priority_levels=_I,
            default_priority_level=_I,
            default_queue_policy=_QUEUE,
            priority_queue_policy=Field(_QUEUE.kind, map=True),
        ),
        "sequence_batching": _message(
            direct=_message(max_queue_delay_microseconds=_I, minimum_slot_utilization=_F),
            oldest=_message(
                max_candidate_sequences=_I,
                preferred_batch_size=_INTS,
                max_queue_delay_microseconds=_I,
                preserve_ordering=_B,
            ),
            max_sequence_idle_microseconds=_I,
            control_input=_CONTROLS,
            state=_STATES,
            iterative_sequence=_B,
        ),
        "ensemble_scheduling": _message(
            step=_messages(
                model_name=_S,
                model_version=_I,
                input_map=Field("string", map=True),
                output_map=Field("string", map=True),
                model_namespace=_S,
            ),
            max_inflight_requests=_I,
        ),
        "instance_group": _messages(
            name=_S,
            kind=Field(("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")),
            count=_I,
            rate_limiter=_message(
                resources=_messages(name=_S, **{"global": _B}, count=_I), priority=_I
            ),
            gpus=_INTS,
            secondary_devices=_messages(kind=Field(("KIND_NVDLA",)), device_id=_I),
            profile=_STRINGS,
            passive=_B,
            host_policy=_S,
        ),
        "default_model_filename": _S,
        "cc_model_filenames": Field("string", map=True),
        "metric_tags": Field("string", map=True),
        "parameters": Field(MappingProxyType({"string_value": _S}), map=True),
        "model_warmup": _messages(
            name=_S,
            batch_size=_I,
            inputs=Field(
                MappingProxyType(
                    {
                        "data_type": _TYPE,
                        "dims": _INTS,
                        "zero_data": _B,
                        "random_data": _B,
                        "input_data_file": _S,
                    }
                ),
                map=True,
            ),
            count=_I,
        ),
        "model_operations": _message(op_library_filename=_STRINGS),
        "model_transaction_policy": _message(decoupled=_B),
        "model_repository_agents": _message(
            agents=_messages(name=_S, parameters=Field("string", map=True))
        ),
        "response_cache": _message(enable=_B),
        "model_metrics": _message(
            metric_control=_messages(
                metric_identifier=_message(family=_S),
                histogram_options=_message(buckets=Field("float", repeated=True)),
            )
        ),
    }
)

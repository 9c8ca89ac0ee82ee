"""The gRPC messages, as .proto text that is read at import.

Message and field numbers are the Open Inference Protocol's, with Triton's and KServe's extensions of it;
a test compares them with the packages of both. The classes live in a descriptor pool of their own: a
client package in the same process (a user's model that calls another one) registers the same names in the
default pool, and one pool takes a name once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer

INFERENCE: Final = """
message ServerLiveRequest { }
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest { }
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest { }
message ServerMetadataResponse { string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message ModelMetadataResponse {
  message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
  string name = 1;
  repeated string versions = 2;
  string platform = 3;
  repeated TensorMetadata inputs = 4;
  repeated TensorMetadata outputs = 5;
}
message InferParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    double double_param = 4;
    uint64 uint64_param = 5;
  }
}
message InferTensorContents {
  repeated bool bool_contents = 1;
  repeated int32 int_contents = 2;
  repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4;
  repeated uint64 uint64_contents = 5;
  repeated float fp32_contents = 6;
  repeated double fp64_contents = 7;
  repeated bytes bytes_contents = 8;
}
message ModelInferRequest {
  message InferInputTensor {
    string name = 1;
    string datatype = 2;
    repeated int64 shape = 3;
    map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  message InferRequestedOutputTensor {
    string name = 1;
    map<string, InferParameter> parameters = 2;
  }
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5;
  repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message ModelInferResponse {
  message InferOutputTensor {
    string name = 1;
    string datatype = 2;
    repeated int64 shape = 3;
    map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferOutputTensor outputs = 5;
  repeated bytes raw_output_contents = 6;
}
message ModelStreamInferResponse { string error_message = 1; ModelInferResponse infer_response = 2; }
enum DataType {
  TYPE_INVALID = 0; TYPE_BOOL = 1; TYPE_UINT8 = 2; TYPE_UINT16 = 3; TYPE_UINT32 = 4; TYPE_UINT64 = 5;
  TYPE_INT8 = 6; TYPE_INT16 = 7; TYPE_INT32 = 8; TYPE_INT64 = 9; TYPE_FP16 = 10; TYPE_FP32 = 11;
  TYPE_FP64 = 12; TYPE_STRING = 13; TYPE_BF16 = 14;
}
message ModelInput { string name = 1; DataType data_type = 2; repeated int64 dims = 4; }
message ModelOutput { string name = 1; DataType data_type = 2; repeated int64 dims = 3; }
message ModelDynamicBatching {
  repeated int32 preferred_batch_size = 1;
  uint64 max_queue_delay_microseconds = 2;
}
message ModelTransactionPolicy { bool decoupled = 1; }
message ModelConfig {
  string name = 1;
  string platform = 2;
  int32 max_batch_size = 4;
  repeated ModelInput input = 5;
  repeated ModelOutput output = 6;
  ModelDynamicBatching dynamic_batching = 11;
  string backend = 17;
  ModelTransactionPolicy model_transaction_policy = 19;
}
message ModelConfigRequest { string name = 1; string version = 2; }
message ModelConfigResponse { ModelConfig config = 1; }
message ModelStatisticsRequest { string name = 1; string version = 2; }
message StatisticDuration { uint64 count = 1; uint64 ns = 2; }
message InferStatistics {
  StatisticDuration success = 1;
  StatisticDuration fail = 2;
  StatisticDuration queue = 3;
  StatisticDuration compute_input = 4;
  StatisticDuration compute_infer = 5;
  StatisticDuration compute_output = 6;
}
message InferBatchStatistics {
  uint64 batch_size = 1;
  StatisticDuration compute_input = 2;
  StatisticDuration compute_infer = 3;
  StatisticDuration compute_output = 4;
}
message ModelStatistics {
  string name = 1;
  string version = 2;
  uint64 last_inference = 3;
  uint64 inference_count = 4;
  uint64 execution_count = 5;
  InferStatistics inference_stats = 6;
  repeated InferBatchStatistics batch_stats = 7;
}
message ModelStatisticsResponse { repeated ModelStatistics model_stats = 1; }
message ModelRepositoryParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    bytes bytes_param = 4;
  }
}
message RepositoryIndexRequest { string repository_name = 1; bool ready = 2; }
message RepositoryIndexResponse {
  message ModelIndex { string name = 1; string version = 2; string state = 3; string reason = 4; }
  repeated ModelIndex models = 1;
}
message RepositoryModelLoadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelLoadResponse { string model_name = 1; bool isLoaded = 2; }
message RepositoryModelUnloadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelUnloadResponse { string model_name = 1; bool isUnloaded = 2; }
message SystemSharedMemoryStatusRequest { string name = 1; }
message SystemSharedMemoryStatusResponse {
  message RegionStatus { string name = 1; string key = 2; uint64 offset = 3; uint64 byte_size = 4; }
  map<string, RegionStatus> regions = 1;
}
message SystemSharedMemoryRegisterRequest {
  string name = 1;
  string key = 2;
  uint64 offset = 3;
  uint64 byte_size = 4;
}
message SystemSharedMemoryRegisterResponse { }
message SystemSharedMemoryUnregisterRequest { string name = 1; }
message SystemSharedMemoryUnregisterResponse { }
message CudaSharedMemoryStatusRequest { string name = 1; }
message CudaSharedMemoryStatusResponse {
  message RegionStatus { string name = 1; uint64 device_id = 2; uint64 byte_size = 3; }
  map<string, RegionStatus> regions = 1;
}
message CudaSharedMemoryRegisterRequest {
  string name = 1;
  bytes raw_handle = 2;
  int64 device_id = 3;
  uint64 byte_size = 4;
}
message CudaSharedMemoryRegisterResponse { }
message CudaSharedMemoryUnregisterRequest { string name = 1; }
message CudaSharedMemoryUnregisterResponse { }
message TraceSettingRequest {
  message SettingValue { repeated string value = 1; }
  map<string, SettingValue> settings = 1;
  string model_name = 2;
}
message TraceSettingResponse {
  message SettingValue { repeated string value = 1; }
  map<string, SettingValue> settings = 1;
}
message LogSettingsRequest {
  message SettingValue {
    oneof parameter_choice { bool bool_param = 1; uint32 uint32_param = 2; string string_param = 3; }
  }
  map<string, SettingValue> settings = 1;
}
message LogSettingsResponse {
  message SettingValue {
    oneof parameter_choice { bool bool_param = 1; uint32 uint32_param = 2; string string_param = 3; }
  }
  map<string, SettingValue> settings = 1;
}
service GRPCInferenceService {
  rpc ServerLive (ServerLiveRequest) returns (ServerLiveResponse);
  rpc ServerReady (ServerReadyRequest) returns (ServerReadyResponse);
  rpc ModelReady (ModelReadyRequest) returns (ModelReadyResponse);
  rpc ServerMetadata (ServerMetadataRequest) returns (ServerMetadataResponse);
  rpc ModelMetadata (ModelMetadataRequest) returns (ModelMetadataResponse);
  rpc ModelInfer (ModelInferRequest) returns (ModelInferResponse);
  rpc ModelStreamInfer (stream ModelInferRequest) returns (stream ModelStreamInferResponse);
  rpc ModelConfig (ModelConfigRequest) returns (ModelConfigResponse);
  rpc ModelStatistics (ModelStatisticsRequest) returns (ModelStatisticsResponse);
  rpc RepositoryIndex (RepositoryIndexRequest) returns (RepositoryIndexResponse);
  rpc RepositoryModelLoad (RepositoryModelLoadRequest) returns (RepositoryModelLoadResponse);
  rpc RepositoryModelUnload (RepositoryModelUnloadRequest) returns (RepositoryModelUnloadResponse);
  rpc SystemSharedMemoryStatus (SystemSharedMemoryStatusRequest)
    returns (SystemSharedMemoryStatusResponse);
  rpc SystemSharedMemoryRegister (SystemSharedMemoryRegisterRequest)
    returns (SystemSharedMemoryRegisterResponse);
  rpc SystemSharedMemoryUnregister (SystemSharedMemoryUnregisterRequest)
    returns (SystemSharedMemoryUnregisterResponse);
  rpc CudaSharedMemoryStatus (CudaSharedMemoryStatusRequest) returns (CudaSharedMemoryStatusResponse);
  rpc CudaSharedMemoryRegister (CudaSharedMemoryRegisterRequest)
    returns (CudaSharedMemoryRegisterResponse);
  rpc CudaSharedMemoryUnregister (CudaSharedMemoryUnregisterRequest)
    returns (CudaSharedMemoryUnregisterResponse);
  rpc TraceSetting (TraceSettingRequest) returns (TraceSettingResponse);
  rpc LogSettings (LogSettingsRequest) returns (LogSettingsResponse);
}
"""

HEALTH: Final = """
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
message HealthListRequest { }
message HealthListResponse { map<string, HealthCheckResponse> statuses = 1; }
service Health {
  rpc Check (HealthCheckRequest) returns (HealthCheckResponse);
  rpc List (HealthListRequest) returns (HealthListResponse);
  rpc Watch (HealthCheckRequest) returns (stream HealthCheckResponse);
}
"""

REFLECTION: Final = """
message ServerReflectionRequest {
  string host = 1;
  oneof message_request {
    string file_by_filename = 3;
    string file_containing_symbol = 4;
    ExtensionRequest file_containing_extension = 5;
    string all_extension_numbers_of_type = 6;
    string list_services = 7;
  }
}
message ExtensionRequest { string containing_type = 1; int32 extension_number = 2; }
message ServerReflectionResponse {
  string valid_host = 1;
  ServerReflectionRequest original_request = 2;
  oneof message_response {
    FileDescriptorResponse file_descriptor_response = 4;
    ExtensionNumberResponse all_extension_numbers_response = 5;
    ListServiceResponse list_services_response = 6;
    ErrorResponse error_response = 7;
  }
}
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ExtensionNumberResponse { string base_type_name = 1; repeated int32 extension_number = 2; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServiceResponse { string name = 1; }
message ErrorResponse { int32 error_code = 1; string error_message = 2; }
service ServerReflection {
  rpc ServerReflectionInfo (stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
}
"""

_TOKEN = re.compile(r"[A-Za-z_][\w.]*|\d+|[{}()=;<>,]")
_SCALARS: Final = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12,
    "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14


class _Reader:
    """Reads the part of proto3's grammar that the texts above use."""

    def __init__(self, name: str, package: str, text: str) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
        self._tokens: Iterator[str] = iter(_TOKEN.findall(text))
        self._enums = set(re.findall(r"enum (\w+)", text))
        self._nested = {
            (outer, inner)
            for outer, body in re.findall(
                r"^message (\w+) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE
            )
            for inner in re.findall(r"^  (?:message|enum) (\w+)", body, re.MULTILINE)
        }
        for word in self._tokens:
            if word == "message":
                self._message(self.file.message_type.add(), self.file.package)
            elif word == "enum":
                self._enum(self.file.enum_type.add())
            else:
                self._service(self.file.service.add())

    def _take(self, count: int) -> list[str]:
        return [next(self._tokens) for _ in range(count)]

    def _message(self, message: Any, scope: str) -> None:
        message.name, _ = self._take(2)
        scope = f"{scope}.{message.name}"
        oneof: int | None = None
        while (word := next(self._tokens)) != "}" or oneof is not None:
            if word == "}":
                oneof = None
            elif word == "message":
                self._message(message.nested_type.add(), scope)
            elif word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                message.oneof_decl.add(name=self._take(2)[0])
                oneof = len(message.oneof_decl) - 1
            else:
                self._field(message, word, oneof, scope)

    def _field(self, message: Any, kind: str, oneof: int | None, scope: str) -> None:
        label = 1
        if kind == "repeated":
            label, kind = 3, next(self._tokens)
        elif kind == "map":
            value = self._take(5)[3]
            label = 3
        name, _, number, _ = self._take(4)
        field = message.field.add(name=name, number=int(number), label=label)
        if kind == "map":
            entry = message.nested_type.add(
                name="".join(w.capitalize() for w in name.split("_")) + "Entry"
            )
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=1, type=9)
            self._typed(entry.field.add(name="value", number=2, label=1), value, scope)
            field.type = _MESSAGE
            field.type_name = f".{scope}.{entry.name}"
        else:
            self._typed(field, kind, scope)
        if oneof is not None:
            field.oneof_index = oneof

    def _typed(self, field: Any, kind: str, scope: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = _ENUM if kind in self._enums else _MESSAGE
            package = self.file.package
            outer = scope.removeprefix(f"{package}.").partition(".")[0]
            inside = f"{outer}." if (outer, kind) in self._nested else ""
            field.type_name = f".{package}.{inside}{kind}"

    def _enum(self, enum: Any) -> None:
        enum.name, _ = self._take(2)
        while (name := next(self._tokens)) != "}":
            _, number, _ = self._take(3)
            enum.value.add(name=name, number=int(number))

    def _service(self, service: Any) -> None:
        service.name, _ = self._take(2)
        while next(self._tokens) != "}":
            method = service.method.add(name=next(self._tokens))
            for side in ("client", "server"):
                words = []
                while (word := next(self._tokens)) != ")":
                    words.append(word)
                if "stream" in words:
                    setattr(method, f"{side}_streaming", True)
                name = f".{self.file.package}.{words[-1]}"
                setattr(method, "input_type" if side == "client" else "output_type", name)
            next(self._tokens)


#: Every file, by the name that reflection gives it.
FILES: Final[dict[str, Any]] = {
    reader.file.name: reader.file
    for reader in (
        _Reader("inference/grpc_service.proto", "inference", INFERENCE),
        _Reader("grpc/health/v1/health.proto", "grpc.health.v1", HEALTH),
        _Reader("grpc/reflection/v1/reflection.proto", "grpc.reflection.v1", REFLECTION),
        _Reader("grpc/reflection/v1alpha/reflection.proto", "grpc.reflection.v1alpha", REFLECTION),
    )
}
_pool = descriptor_pool.DescriptorPool()
for _file in FILES.values():
    _pool.AddSerializedFile(_file.SerializeToString())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


def message(name: str, package: str = "inference") -> Any:
    """The class of a message, by its name."""
    return _class(f"{package}.{name}")


def parse(kind: Any, data: Buffer) -> Any:
    """A message of class `kind` out of its bytes; InvalidInput when they are none."""
    try:
        return kind.FromString(data)
    except (DecodeError, RecursionError):
        raise InvalidInput("The message cannot be decoded.") from None


SERVICE: Final = "inference.GRPCInferenceService"
#: Names of all services, as reflection and health list them.
SERVICES: Final = tuple(
    f"{file.package}.{service.name}" for file in FILES.values() for service in file.service
)
#: Method -> request and response classes, of the inference service.
METHODS: Final[dict[str, tuple[Any, Any]]] = {
    method.name: (_class(method.input_type[1:]), _class(method.output_type[1:]))
    for method in FILES["inference/grpc_service.proto"].service[0].method
}

ModelInferRequest: Final = message("ModelInferRequest")
ModelInferResponse: Final = message("ModelInferResponse")

"""Wire formats: pure functions between bytes and arrays.

`infer` is a request and its answer without any format. Tensors are told by `datatypes` and travel as JSON
(`json_tensors`) or raw (`binary_tensors`, `shared_memory`); `codecs` has what their elements may stand for.
A protocol is a file: `v2`, `v1`, `tfserving`, `mlflow`, `seldon`, and gRPC's a package. Model processes call
them, and gateways where they have to see a body: for graphs, and for what they answer by themselves.
"""

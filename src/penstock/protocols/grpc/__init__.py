"""gRPC as a content type: the Open Inference Protocol's messages, framing, status codes, side services.

Nothing here knows a transport. `schema` has the messages, `wire` frames and statuses, `infer` turns a
request message into an `InferRequest` and arrays into an answer, `stream` serves a bidirectional call
message by message, `side` the health and reflection services.
"""

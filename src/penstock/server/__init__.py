"""The model process: one replica, its models and versions, and the protocols it answers.

`process` is its life; a request goes `application` (routes) -> `inference` or `payloads` (bytes to arrays or
payloads) -> `batching` -> `execution` -> a runtime's `predict`, and back the same way. `repository` loads
and unloads, `statistics` counts.
"""

"""The gateway: one address in front of every model process.

On the way of a request: `process` listens and owns the parts; `resolve` turns a request head into a plan
(which service, which path there), once per distinct head; `table` holds the services as the control plane
last described them (`channel` brings the changes, `load` tells what there was to do); `choosing` finds the
revision, `replicas` a replica and its connections; `proxy` moves the bytes, and puts requests that find no
replica into their service's waiting line. A body is not parsed on that way.

Beside it, loaded by who has use for it: gRPC (`grpc`); graphs and experiments, whose steps are requests of
the gateway's own (`graphs`, `experiment_front`, `seldon`); bandits (`learning`); one question to many models
(`queries`); and what the gateway answers by itself (`own`, `repository`).
"""

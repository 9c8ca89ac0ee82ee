"""The gateway: one address in front of every model process.

On the way of a request: `process` listens and owns the parts; `resolve` turns a request head into a plan
(which service, which path there), once per distinct head; `table` holds the services as the control plane
last described them (`channel` brings the changes); `replicas` chooses a replica and keeps its connections;
`proxy` moves the bytes, and puts requests that find no replica into their service's waiting line.

Bodies are not parsed here. Imported packages: `http`, `domain`, `observe`, `errors`, and `protocols` for
the shape of an error.
"""

"""The control plane: what decides, whatever it decides over.

On the way of a manifest: `manifests` keeps what the store tells; `loop` runs a look at each service that
something happened to; `services` gathers what is so, `plan` decides, and `services` carries it out through
`fetches` (files), the backend (`replicas`, `drains`) and `routes` (gateways). `plane` puts it together.
"""

"""The control plane: what decides, whatever it decides over.

On the way of a manifest: `manifests` keeps what the store tells; `loop` runs a look at each service that
something happened to; `services` gathers what is so (`observing`, `workloads`), `plan` decides, and
`services` carries it out through `fetches` (files), the backend (`starts`, `replicas`, `drains`) and `routes`
(gateways). `plane` puts it together.

Decisions are pure functions, each beside the file that carries it out: `autoscale` and `scaler`, `preemption`
and `placing`, `progress` (with `counting`, `evidence`, `gauges`) and `progressing`, `rollout`. Graphs have a
controller of their own (`graphs`, `assemblies`); `bandits` keeps what was learned; `metrics` adds up what all
processes count.
"""

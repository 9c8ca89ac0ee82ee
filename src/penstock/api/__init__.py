"""The control API over HTTP, by Kubernetes' wire conventions.

On the way of a request: `security` lets it in, `app` finds who answers its path, `verbs` what its method
means. A write goes through `admission` (is it right), `ownership` (may it change these fields) and `objects`
(over the store); `readings` has what is not stored, `streams` answers what goes on, `wire` gives errors
their shape. `process` is the program.
"""

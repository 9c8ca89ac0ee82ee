"""The control API over HTTP, by Kubernetes' wire conventions.

On the way of a request: `security` lets it in, `app` finds its verb, `admission` checks what is written,
`objects` does it over the store, `streams` answers what goes on, `wire` gives errors their shape.
`process` is the program.
"""

"""The graph executor: runs a `penstock.domain.graph.Graph` for one request at a time.

Pure execution: whoever uses it says how a service is called (`calls.Caller`) and gets the end by a plain
call; there are no tasks, no sockets and no clock of its own. The gateway gives it its own way of forwarding
requests, so that everything a service's clients have (waiting from zero, splits, retries, limits, metrics)
a graph's steps have too.

On the way of a request: `program` has made the graph ready to run, once per change; `execution` owns the
request as a whole (its calls, its bounds, its end); `flow` and `cyclic` decide what runs when; `values` are
what steps give to each other, `encoding` makes requests of them and takes answers apart.
"""

"""Many requests at a time on one connection between a gateway and a model process.

Under load, most of what a request costs on the hop between two processes of ours is system calls: one to
write it, one to read it, and the same for its answer. On a connection for each request under way every one
of them is paid by every request. Here requests share a connection, so what comes together in one turn of a
loop goes out with one write and is read with one read.

A stream is one request and its response, in HTTP/1.1's own bytes; `frames` says how they are cut. The
gateway's side is `upstream`, the model process's `connection`. It is asked for with HTTP's Upgrade on an
ordinary connection, so a server that does not know it just says so.
"""

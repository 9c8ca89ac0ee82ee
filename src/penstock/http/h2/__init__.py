"""HTTP/2 for clients: frames by hand, `hpack` for header blocks, the same exchanges as HTTP/1.1.

`server.Http2Server` takes the handlers that `penstock.http.server.HttpServer` takes. On the way of a
request: `connection` cuts frames and holds RFC 9113's rules and the limits against abuse, `fields` makes a
`RequestHead` of a header list, `exchange` is one stream as its handler sees it. `frames` has the numbers.
"""

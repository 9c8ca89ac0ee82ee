"""HTTP/1.1 on bare asyncio transports: `server` for those who answer, `client` for the hop between processes.

Strict where HTTP is ambiguous, and without a task, a future or a timer per request. `head` reads message
heads, `connection` and `exchange` are the server's two halves, `chunked` is the one transfer coding.
"""

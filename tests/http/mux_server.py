"""A server in a process of its own, to be killed: `python mux_server.py SOCKET`.

It says `ready` when it listens, and for each request, in order, the last part of its path. `/hang` never
comes back from its handler; `/last` is answered with all that are waiting from outside of the loop, as by a
watchdog, and ends the process; `/wait` is never answered; everything else is at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from penstock.domain.routes import Address
from penstock.errors import DeadlineExceeded
from penstock.http.mux import frames
from penstock.http.mux.connection import upgrade
from penstock.http.server import Exchange, HttpServer
from penstock.server.farewell import answer_all


async def main(path: str) -> None:
    waiting: list[Exchange] = []

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def handler(exchange: Exchange) -> None:
        head = exchange.head
        if head.path == frames.PATH:
            upgrade(exchange, server)
            return
        say(head.path[1:])
        if head.path == "/hang":
            threading.Event().wait()
        elif head.path == "/last":
            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
        elif head.path == "/wait":
            waiting.append(exchange)
        else:
            exchange.send(200, b"", b"ok")

    def end() -> None:
        say(str(answer_all(server, DeadlineExceeded("It hangs."))))
        os._exit(0)

    server = HttpServer(handler)
    await server.listen(Address(path=path))
    say("ready")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

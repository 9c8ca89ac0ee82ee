"""ModelStreamInfer: each request of a stream is answered as if it had come alone, by one response or many.

A request becomes a `StreamedCall`, which looks like an exchange, and goes to the same handler that takes
ModelInfer: so queueing, routing, retries and metrics exist once. A request that fails is an answer with an
`error_message`, after which the stream goes on.

Between a gateway and a model process, which speak HTTP/1.1, ModelStreamInfer carries one request. Its answer
is that of ModelInfer; or, from a model that yields, a header field says so (`STREAMED`), the framed responses
follow as they come, and last a frame with the flag of trailers (gRPC-Web's), because the status that ends
them is not known when the header fields are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import PenstockError
from penstock.http.exchange import ABORTED, ENDED, OPEN, STARTED
from penstock.http.head import RequestHead
from penstock.protocols.grpc.infer import parse
from penstock.protocols.grpc.schema import ModelInferRequest, ModelInferResponse
from penstock.protocols.grpc.stream import MessageStream
from penstock.protocols.grpc.wire import peek_strings, read_status, reply_error, varint

if TYPE_CHECKING:
    from penstock.http.h2.exchange import H2Exchange
    from penstock.http.incoming import Buffer

PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
#: Header line of an answer that is a stream.
STREAMED: Final = b"penstock-stream: 1\r\n"
TRAILERS_FLAG: Final = 0x80
_UNARY: Final = "grpc-unary-head"
#: A request's parameter by which a client of Triton's asks for a last, empty response.
_WANTS_LAST: Final = "triton_enable_empty_final_response"
_LAST: Final = "triton_final_response"


def _flag(value: bool) -> bytes:
    message = ModelInferResponse()
    message.parameters[_LAST].bool_param = value
    made: bytes = message.SerializeToString()
    return made


#: Appended to a response: protobuf adds up the fields of what is concatenated.
_FINAL: Final = _flag(True)
_NOT_FINAL: Final = _flag(False)


def trailers_frame(lines: bytes) -> bytes:
    """The frame that ends a streamed answer with a status."""
    return b"\x80%b%b" % (len(lines).to_bytes(4, "big"), lines)


class StreamedCall:
    """One request of a ModelStreamInfer, to a handler that expects an exchange with its whole body."""

    __slots__ = (
        "_answer", "_message", "_stream", "_streams", "_trailers", "body", "head",
        "on_abort", "on_drain", "state", "timeout",
    )  # fmt: skip

    def __init__(self, stream: MessageStream, head: RequestHead, message: bytes) -> None:
        self._stream = stream
        self._message = message
        self.head = head
        self.body: Buffer = b"\0%b%b" % (len(message).to_bytes(4, "big"), message)
        #: The stream has a deadline of its own.
        self.timeout: bytes | None = None
        self.state = OPEN
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        #: What came of the answer and was not sent on.
        self._answer = bytearray()
        #: The answer is a stream of responses.
        self._streams = False
        self._trailers: bytes | None = None
        stream.on_gone = self._gone
        stream.on_room = self._room

    scheme = "http"
    peer = ""

    def gather(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def _gone(self) -> None:
        """The stream's client has gone."""
        if self.state < ENDED:
            self.state = ABORTED
            if self.on_abort is not None:
                self.on_abort()

    def _room(self) -> None:
        if self.state == STARTED and self.on_drain is not None:
            self.on_drain()

    # -- the answer, as exchanges take it

    def send(
        self,
        status: int,
        headers: bytes,
        body: Buffer | Sequence[Buffer] = b"",
        trailers: bytes = b"",
    ) -> None:
        if self.state != OPEN:
            return
        self.start(status, headers)
        whole = isinstance(body, (bytes, bytearray, memoryview))
        self.write(body if whole else b"".join(body))  # type: ignore[arg-type]
        self.end(trailers or headers)

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        if self.state == OPEN:
            self.state = STARTED
            self._streams = STREAMED in headers

    def write(self, data: Buffer) -> bool:
        room = True
        if self.state == STARTED:
            self._answer += data
            if self._streams:
                room = self._send_on()
        return room

    def _send_on(self) -> bool:
        """Send the responses that are whole."""
        answer = self._answer
        room = True
        while len(answer) >= 5 and self._trailers is None:
            end = 5 + int.from_bytes(answer[1:5], "big")
            if len(answer) < end:
                break
            piece = bytes(answer[5:end])
            if answer[0] == TRAILERS_FLAG:
                self._trailers = piece
            else:
                room = self._respond((piece, _NOT_FINAL))
            del answer[:end]
        return room

    def end(self, trailers: bytes = b"") -> None:
        if self.state != STARTED:
            return
        if self._streams:
            if self._trailers is None:
                self._fail("The answer broke off.")
                return
            trailers = self._trailers
        status, message = read_status(trailers)
        if status:
            self._fail(message or f"The status is {status}.")
            return
        if not self._streams:
            self._respond((memoryview(self._answer)[5:], _FINAL))
        elif self._wants_last():
            self._respond((self._last(),))
        self._over()

    def abort(self) -> None:
        if self.state < ENDED:
            self._fail("The answer broke off.")

    def fault(self) -> None:
        if self.state < ENDED:
            self._fail("The server failed on this request; its log has the details.")

    # -- the stream's responses

    def _respond(self, pieces: tuple[Buffer, ...]) -> bool:
        size = sum([len(p) for p in pieces])
        return self._stream.send((b"\x12" + varint(size), *pieces))

    def _fail(self, message: str) -> None:
        text = message.encode()
        self._stream.send((b"\x0a" + varint(len(text)), text))
        self._over()

    def _over(self) -> None:
        self.state = ENDED
        stream = self._stream
        stream.on_gone = stream.on_room = None
        stream.done()

    def _wants_last(self) -> bool:
        if _WANTS_LAST.encode() not in self._message:
            return False
        parameters = parse(ModelInferRequest, self._message).parameters
        return _WANTS_LAST in parameters and bool(parameters[_WANTS_LAST].bool_param)

    def _last(self) -> bytes:
        names = peek_strings(self._message, (1, 2, 3))
        message = ModelInferResponse(
            model_name=names.get(1, ""), model_version=names.get(2, ""), id=names.get(3, "")
        )
        message.parameters[_LAST].bool_param = True
        made: bytes = message.SerializeToString()
        return made


def serve_stream_infer(exchange: H2Exchange, handler: Callable[[Any], None], most: int) -> None:
    """Serve a ModelStreamInfer; `handler` takes each of its requests as a `StreamedCall`."""
    head = exchange.head
    one = head.memo.get(_UNARY)
    if one is None:
        one = head.memo[_UNARY] = _of_one(head)

    def take(stream: MessageStream, message: bytes) -> None:
        call = StreamedCall(stream, one, message)
        try:
            handler(call)
        except PenstockError as error:
            reply_error(call, error)

    try:
        MessageStream(exchange, take, most)
    except PenstockError as error:  # a deadline that is none
        reply_error(exchange, error)


def _of_one(head: RequestHead) -> RequestHead:
    """The same head, for one request whose message is not compressed."""
    made = RequestHead()
    for name in ("raw", "method", "query", "host", "minor", "keep_alive", "expect_continue"):
        setattr(made, name, getattr(head, name))
    made.target = made.path = PATH
    made.headers = tuple(
        h for h in head.headers if h[0] not in (b"grpc-encoding", b"content-length")
    )
    made._fields = dict(made.headers)
    made.content_length = -1
    made.memo = {}
    return made

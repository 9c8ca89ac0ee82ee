"""ModelStreamInfer: each request of a stream is answered as if it had come alone, by one response or many.

A request becomes a `StreamedCall`, which looks like an exchange, and goes to the same handler that takes
ModelInfer: so queueing, routing, retries and metrics exist once. A request that fails is an answer with an
`error_message`, after which the stream goes on.

Several requests of a stream are under way at a time, so that they may share a batch. As with Triton, answers
of one response go out in the order of their requests; those of a model that yields go out as they come, each
request's own in their order. Requests with the same parameter `sequence_id` follow each other.

Between a gateway and a model process, which speak HTTP/1.1, ModelStreamInfer carries one request. Its answer
is that of ModelInfer; or, from a model that yields, a header field says so (`STREAMED`), the framed responses
follow as they come, and last a frame with the flag of trailers (gRPC-Web's), because the status that ends
them is not known when the header fields are sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import PenstockError
from penstock.http.exchange import ABORTED, ENDED, OPEN, STARTED
from penstock.http.head import RequestHead
from penstock.protocols.grpc.schema import ModelInferRequest, ModelInferResponse, parse
from penstock.protocols.grpc.stream import MessageStream
from penstock.protocols.grpc.wire import peek_strings, read_status, reply_error, varint

if TYPE_CHECKING:
    from penstock.http.h2.exchange import H2Exchange
    from penstock.http.incoming import Buffer

PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
#: Header line of an answer that is a stream.
STREAMED: Final = b"penstock-stream: 1\r\n"
TRAILERS_FLAG: Final = 0x80
#: Requests of one stream that are under way at a time,
AT_ONCE: Final = 32
#: and the bytes that they may come to, each taken for as large as the largest message until now.
AT_ONCE_BYTES: Final = 64 * 1024 * 1024
_UNARY: Final = "grpc-unary-head"
#: A request's parameter by which a client of Triton's asks for a last, empty response.
_WANTS_LAST: Final = "triton_enable_empty_final_response"
_LAST: Final = "triton_final_response"
_SEQUENCE: Final = "sequence_id"


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
        "_answer", "_message", "_requests", "_streams", "_trailers", "body", "head", "on_abort",
        "on_drain", "sequence", "single", "state", "timeout",
    )  # fmt: skip

    def __init__(self, requests: StreamRequests, head: RequestHead, message: bytes) -> None:
        self._requests = requests
        self._message = message
        #: Whose turn it was, where the request says so.
        self.sequence: int | str = 0
        #: The only response, once it is here.
        self.single: tuple[Buffer, ...] | None = None
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

    scheme = "http"
    peer = ""

    def gather(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def gone(self) -> None:
        """The stream's client has gone."""
        if self.state < ENDED:
            self.state = ABORTED
            if self.on_abort is not None:
                self.on_abort()

    def room(self) -> None:
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
            if self._streams:
                self._requests.streams(self)

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
        self.state = ENDED
        self._requests.done(self)

    def abort(self) -> None:
        if self.state < ENDED:
            self._fail("The answer broke off.")

    def fault(self) -> None:
        if self.state < ENDED:
            self._fail("The server failed on this request; its log has the details.")

    # -- the stream's responses

    def _respond(self, pieces: tuple[Buffer, ...]) -> bool:
        size = sum([len(p) for p in pieces])
        return self._say((b"\x12" + varint(size), *pieces))

    def _say(self, pieces: tuple[Buffer, ...]) -> bool:
        if self._streams:
            return self._requests.send(pieces)
        self.single = pieces
        return True

    def _fail(self, message: str) -> None:
        text = message.encode()
        # An answer without outputs tells which request it was.
        identity = self._identity().encode()
        named = b"\x1a%b%b" % (varint(len(identity)), identity) if identity else b""
        about = b"\x12%b%b" % (varint(len(named)), named) if named else b""
        self._say((b"\x0a" + varint(len(text)), text, about))
        self.state = ENDED
        self._requests.done(self)

    def _identity(self) -> str:
        try:
            return peek_strings(self._message, (3,)).get(3, "")
        except PenstockError:
            return ""

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


class StreamRequests:
    """The requests of one stream that are under way."""

    def __init__(self, handler: Callable[[Any], None], head: RequestHead) -> None:
        self._handler = handler
        self._head = head
        self._stream: MessageStream | None = None
        self._under_way: dict[StreamedCall, None] = {}
        #: Those of which one response is expected, in the order in which they came.
        self._order: deque[StreamedCall] = deque()
        self._sequences: set[int | str] = set()
        self._largest = 0

    def ready(self, message: bytes) -> bool:
        """Whether a request may be taken beside the others."""
        if not self._under_way:
            return True
        size = max(self._largest, len(message))
        if (len(self._under_way) + 1) * size > AT_ONCE_BYTES:
            return False
        return not self._sequences or _sequence_in(message) not in self._sequences

    def take(self, stream: MessageStream, message: bytes) -> None:
        """A request has come."""
        self._stream = stream
        self._largest = max(self._largest, len(message))
        call = StreamedCall(self, self._head, message)
        call.sequence = _sequence_in(message)
        if call.sequence:
            self._sequences.add(call.sequence)
        self._under_way[call] = None
        self._order.append(call)
        try:
            self._handler(call)
        except PenstockError as error:
            reply_error(call, error)

    def streams(self, call: StreamedCall) -> None:
        """The request is answered by any number of responses: nobody's turn waits for it."""
        self._order.remove(call)
        self._send_in_order()

    def send(self, pieces: tuple[Buffer, ...]) -> bool:
        """Send one response. False asks to wait for `room`."""
        assert self._stream is not None  # noqa: S101 - set with the first request
        self._largest = max(self._largest, sum([len(p) for p in pieces]))
        return self._stream.send(pieces)

    def done(self, call: StreamedCall) -> None:
        """The request is answered; its only response is sent in its turn."""
        if call.single is not None:
            self._send_in_order()
        elif call in self._under_way:
            self._leave(call)

    def _send_in_order(self) -> None:
        order = self._order
        while order and order[0].single is not None:
            call = order.popleft()
            assert call.single is not None  # noqa: S101 - the condition of the loop
            self.send(call.single)
            self._leave(call)

    def _leave(self, call: StreamedCall) -> None:
        del self._under_way[call]
        self._sequences.discard(call.sequence)
        assert self._stream is not None  # noqa: S101 - set with the first request
        self._stream.done()

    def gone(self) -> None:
        """The stream's client has gone, or its time is up."""
        self._order.clear()
        for call in list(self._under_way):
            call.gone()

    def room(self) -> None:
        """The client has read what it was sent."""
        for call in list(self._under_way):
            call.room()


def _sequence_in(message: bytes) -> int | str:
    """The sequence that a request belongs to; 0 where it belongs to none, or cannot be read."""
    if _SEQUENCE.encode() not in message:
        return 0
    try:
        found = parse(ModelInferRequest, message).parameters
    except PenstockError:
        return 0
    if _SEQUENCE not in found:
        return 0
    named: int | str = found[_SEQUENCE].int64_param or found[_SEQUENCE].string_param
    return named or 0


def serve_stream_infer(exchange: H2Exchange, handler: Callable[[Any], None], most: int) -> None:
    """Serve a ModelStreamInfer; `handler` takes each of its requests as a `StreamedCall`."""
    head = exchange.head
    one = head.memo.get(_UNARY)
    if one is None:
        one = head.memo[_UNARY] = _of_one(head)

    requests = StreamRequests(handler, one)
    try:
        MessageStream(
            exchange,
            requests.take,
            most,
            at_once=AT_ONCE,
            ready=requests.ready,
            gone=requests.gone,
            room=requests.room,
        )
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

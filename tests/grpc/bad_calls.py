"""Malformed ModelInfer calls, what Triton answers to each and what is answered here: data, and its page.

`test_grpc_bad_input` sends each, to a model process and through a gateway, and holds the answers and
docs/reference/grpc-bad-input.md to this table. `python tests/grpc/bad_calls.py` prints the page,
`python tests/grpc/bad_calls.py PORT` what a server at PORT with Triton's `iris` answers.
"""

from __future__ import annotations

import asyncio
import gzip
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import numpy as np
from tritonclient.grpc import service_pb2

METHOD = "/inference.GRPCInferenceService/ModelInfer"
#: Largest message of the servers under test.
MOST = 100_000
NAMES = {
    0: "OK", 1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND", 6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
    10: "ABORTED", 12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE",
}  # fmt: skip


def message(change: Callable[[Any], Any] | None = None) -> bytes:
    """One row for a model `iris` with the input `input-0`, [n, 4] of FP64."""
    values = np.array([[5.1, 3.5, 1.4, 0.2]])
    request = service_pb2.ModelInferRequest(
        model_name="iris",
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name="input-0", datatype="FP64", shape=[1, 4]
            )
        ],
        raw_input_contents=[values.tobytes()],
    )
    if change is not None:
        change(request)
    data: bytes = request.SerializeToString()
    return data


def typed(kind: str, shape: list[int], **contents: Any) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="iris")
    tensor = request.inputs.add(name="input-0", datatype=kind, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    data: bytes = request.SerializeToString()
    return data


def framed(data: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return bytes([flag]) + struct.pack(">I", len(data) if length is None else length) + data


def _bytes(raw: bytes) -> Callable[[Any], None]:
    """The input as one BYTES tensor of these raw contents."""

    def change(request: Any) -> None:
        request.inputs[0].datatype = "BYTES"
        request.raw_input_contents[0] = raw

    return change


def _parameter(entries: Any, **values: Any) -> None:
    for name, value in values.items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(entries[name], kind, value)


def _output(name: str, **parameters: Any) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        _parameter(request.outputs.add(name=name).parameters, **parameters)

    return change


@dataclass(frozen=True)
class Bad:
    """A call, Triton's status for it, ours, and our message (a part of it)."""

    name: str
    body: bytes
    triton: int | str
    status: int
    says: str
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


CALLS: tuple[Bad, ...] = (
    Bad("no message", b"", 13, 3, "The call has no message"),
    Bad("a frame cut off in its head", b"\0\0\0", 13, 3, "The call has no message"),
    Bad("a frame shorter than it says", framed(message(), length=500), 13, 3, "one whole message"),
    Bad("a frame longer than it says", framed(message(), length=10), 13, 3, "one whole message"),
    Bad("two messages", framed(message()) * 2, 0, 3, "one whole message"),
    Bad("an unknown flag", framed(message(), 2), 5, 3, "unknown flag"),
    Bad("compressed, by nothing that is named", framed(message(), 1), 0, 12, "compression"),
    Bad(
        "compressed by what is not served",
        framed(message(), 1),
        "RST_STREAM",
        12,
        "compression is not served",
        (("grpc-encoding", "br"),),
    ),
    Bad(
        "said to be gzip",
        framed(message(), 1),
        13,
        3,
        "no valid compressed data",
        (("grpc-encoding", "gzip"),),
    ),
    Bad(
        "gzip, cut off",
        framed(gzip.compress(message())[:-9], 1),
        13,
        3,
        "cut off",
        (("grpc-encoding", "gzip"),),
    ),
    Bad(
        "gzip of more than is taken",
        framed(gzip.compress(bytes(10 * MOST)), 1),
        13,
        8,
        f"over {MOST} bytes",
        (("grpc-encoding", "gzip"),),
    ),
    Bad("a message over the limit", framed(bytes(MOST + 1)), 13, 8, f"over {MOST} bytes"),
    Bad("no protobuf", framed(b"\xff" * 20), 13, 3, "no protobuf"),
    Bad("a message cut off", framed(message()[:-3]), 13, 3, "cut off|cannot be decoded"),
    Bad("a group", framed(b"\x0b\x0c"), 5, 3, "no protobuf|cannot be decoded|names no model"),
    Bad("field number 0", framed(b"\x02\x01a"), 13, 3, "names no model|cannot be decoded"),
    Bad("a length over 2^63", framed(b"\x0a" + b"\xff" * 9 + b"\x01"), 13, 3, "cut off"),
    Bad("a name that is no UTF-8", framed(b"\x0a\x02\xff\xfe"), 13, 3, "no UTF-8"),
    Bad("nothing in the message", framed(b""), 5, 3, "names no model"),
    Bad(
        "an unknown model",
        framed(message(lambda r: setattr(r, "model_name", "nope"))),
        5,
        5,
        "nope does not exist",
    ),
    Bad(
        "an unknown version",
        framed(message(lambda r: setattr(r, "model_version", "7"))),
        5,
        5,
        "has no version 7",
    ),
    Bad(
        "a version that is no number",
        framed(message(lambda r: setattr(r, "model_version", "../1"))),
        3,
        5,
        "has no version",
    ),
    Bad("no inputs", framed(message(lambda r: r.ClearField("inputs"))), 3, 3, "no inputs"),
    Bad(
        "an input twice",
        framed(
            message(
                lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.append(b"x" * 32))
            )
        ),
        3,
        3,
        "given twice",
    ),
    Bad(
        "an unknown datatype",
        framed(message(lambda r: setattr(r.inputs[0], "datatype", "FLOAT"))),
        3,
        3,
        "unknown datatype",
    ),
    Bad(
        "a negative size",
        framed(message(lambda r: r.inputs[0].shape.__setitem__(0, -1))),
        3,
        3,
        "negative size",
    ),
    Bad(
        "a shape of 2^80 elements",
        framed(message(lambda r: r.inputs[0].shape.extend([2**40, 2**40]))),
        3,
        3,
        "too large",
    ),
    Bad(
        "more elements than bytes",
        framed(message(lambda r: r.inputs[0].shape.__setitem__(0, 2))),
        3,
        3,
        "that is 64 bytes, but its binary data has 32",
    ),
    Bad(
        "more raw contents than inputs",
        framed(message(lambda r: r.raw_input_contents.append(b""))),
        0,
        3,
        "1 inputs, but 2 raw_input_contents",
    ),
    Bad(
        "contents beside raw contents",
        framed(message(lambda r: r.inputs[0].contents.fp64_contents.append(1))),
        3,
        3,
        "contents beside the request's raw_input_contents",
    ),
    Bad("no contents", framed(typed("FP64", [1, 4])), 3, 3, "its contents have 0"),
    Bad(
        "too few typed elements",
        framed(typed("FP64", [1, 4], fp64_contents=[1])),
        3,
        3,
        "4 elements, but its contents have 1",
    ),
    Bad(
        "elements in the wrong list",
        framed(typed("FP64", [1, 4], fp32_contents=[1, 2, 3, 4])),
        3,
        3,
        "belong into fp64_contents",
    ),
    Bad(
        "a typed element out of range",
        framed(typed("INT8", [1, 4], int_contents=[1, 2, 3, 200])),
        3,
        3,
        "INT8 cannot hold",
    ),
    Bad(
        "BYTES cut off in a length",
        framed(message(_bytes(b"\1\0\0\0a\1\0"))),
        3,
        3,
        "elements of at least|cut off in its length",
    ),
    Bad(
        "BYTES longer than their tensor",
        framed(message(_bytes(b"\xff\xff\xff\x7f" + bytes(16)))),
        3,
        3,
        "has length 2147483647",
    ),
    Bad(
        "a parameter without a value",
        framed(message(lambda r: r.parameters["p"].SetInParent())),
        3,
        3,
        "has no value",
    ),
    Bad(
        "an unknown output",
        framed(message(_output("nope"))),
        3,
        3,
        "unexpected inference output 'nope'",
    ),
    Bad(
        "shared memory, where it is not allowed",
        framed(
            message(
                lambda r: (
                    _parameter(
                        r.inputs[0].parameters,
                        shared_memory_region="r",
                        shared_memory_byte_size=32,
                    ),
                    r.ClearField("raw_input_contents"),
                )
            )
        ),
        5,
        12,
        "allow-shared-memory",
    ),
    Bad(
        "a deadline that is none",
        framed(message()),
        "RST_STREAM",
        3,
        "grpc-timeout is malformed",
        (("grpc-timeout", "soon"),),
    ),
    Bad(
        "messages that are no protobuf by their type",
        framed(message()),
        0,
        12,
        "protobuf",
        (("content-type", "application/grpc+json"),),
    ),
    Bad("another method than POST", framed(message()), 2, 3, "is a POST", method="PUT"),
)


async def send(
    port: int, body: bytes, headers: tuple[tuple[str, str], ...] = (), method: str = "POST"
) -> tuple[int | str, str]:
    """A call by hand: its status and message, or how the server ended it without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    fields = dict(
        [(":method", method), (":scheme", "http"), (":path", METHOD), (":authority", "a"),
         ("te", "trailers"), ("content-type", "application/grpc"), *headers]
    )  # fmt: skip
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, list(fields.items()), end_stream=not body)
    found: dict[str, str] = {}
    rest = body
    try:
        async with asyncio.timeout(20):
            while True:
                while rest and (room := connection.local_flow_control_window(stream)):
                    part = rest[: min(room, connection.max_outbound_frame_size)]
                    rest = rest[len(part) :]
                    connection.send_data(stream, part, end_stream=not rest)
                writer.write(connection.data_to_send())
                try:
                    data = await reader.readexactly(9)
                    data += await reader.readexactly(int.from_bytes(data[:3], "big"))
                except asyncio.IncompleteReadError:
                    return "closed", ""
                for event in connection.receive_data(data):
                    kind = type(event)
                    if kind in (h2.events.ResponseReceived, h2.events.TrailersReceived):
                        found |= dict(event.headers)
                    if kind is h2.events.StreamReset and "grpc-status" not in found:
                        return f"RST_STREAM {event.error_code}", ""
                    if kind is h2.events.ConnectionTerminated:
                        return f"GOAWAY {event.error_code}", ""
                if "grpc-status" in found:
                    return int(found["grpc-status"]), unquote(found.get("grpc-message", ""))
                if int(found.get(":status", 200)) != 200:
                    return f"HTTP {found[':status']}", ""
    finally:
        writer.close()


def _name(status: int | str) -> str:
    return NAMES.get(status, str(status)) if isinstance(status, int) else status


def page() -> str:
    """docs/reference/grpc-bad-input.md"""
    out = [
        "# gRPC: malformed calls",
        "<!-- made from tests/grpc/bad_calls.py, whose tests send every line; do not edit -->",
        "",
        "What a `ModelInfer` that is not right is answered with, and what Triton 2.51 (with its python",
        "backend) answers to the same bytes. A model process and a gateway answer alike.",
        "",
        "| call | Triton | status | message |",
        "|---|---|---|---|",
    ]
    for bad in CALLS:
        says = bad.says.partition("|")[0]
        out.append(f"| {bad.name} | {_name(bad.triton)} | {_name(bad.status)} | ... {says} ... |")
    return "\n".join(out) + "\n"


async def _survey(port: int) -> None:
    for bad in CALLS:
        try:
            status, said = await send(port, bad.body, bad.headers, bad.method)
        except (TimeoutError, ConnectionError, h2.exceptions.ProtocolError) as exc:
            status, said = type(exc).__name__, str(exc)
        print(f"{bad.name}: {status!r} {said[:100]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_survey(int(sys.argv[1])))
    else:
        print(page(), end="")

"""MLflow's scoring protocol: `/invocations` with JSON or CSV, `{"predictions": ...}` back.

JSON has exactly one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`, and perhaps
`params`. A table becomes one array per column, or one matrix where the model takes one whose columns have no
names. Errors are MLflow's `error_code` and `message`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import InvalidInput, PenstockError, Unsupported
from penstock.protocols.json_faults import JSON_FAULTS, json_fault
from penstock.protocols.v1 import to_arrays

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, TensorSpec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

FORMATS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")


class UnsupportedType(Unsupported):
    """The body's content type is none that MLflow's scoring protocol has."""

    status = 415
    reason = "UnsupportedMediaType"


def decode_invocation(
    body: Buffer, content_type: str, specs: Sequence[TensorSpec] = ()
) -> tuple[dict[str, Array], dict[str, Any]]:
    """(inputs, parameters) of an invocation. Raises InvalidInput, UnsupportedType."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/csv":
        return _table(*_csv(body), specs), {}
    if kind not in ("", "application/json"):
        raise UnsupportedType(
            f"The content type {kind[:80]} is not supported.",
            hint="Send application/json or text/csv.",
        )
    return _json(body, specs)


def _json(body: Buffer, specs: Sequence[TensorSpec]) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        payload = _decode(body)
    except JSON_FAULTS as e:
        raise json_fault(e, body) from None
    if type(payload) is not dict:
        raise InvalidInput(f"the body is no JSON object with one of {', '.join(FORMATS)}")
    given = [k for k in FORMATS if k in payload]
    unknown = sorted(set(payload) - {*FORMATS, "params"})
    if len(given) != 1 or unknown:
        said = ", ".join([*given, *unknown]) or "none of them"
        raise InvalidInput(
            f"the body must have exactly one of {', '.join(FORMATS)}, and perhaps params; it has {said}"
        )
    parameters = payload.get("params") or {}
    if type(parameters) is not dict:
        raise InvalidInput("'params' is no object")
    what = given[0]
    value = payload[what]
    if what == "dataframe_split":
        return _table(*_split(value), specs), parameters
    if what == "dataframe_records":
        return _table(*_records(value), specs), parameters
    return to_arrays({what: value}, specs).named(specs), parameters


def _split(value: Any) -> tuple[list[str] | None, list[Any]]:
    if type(value) is not dict or set(value) - {"columns", "index", "data"}:
        raise InvalidInput("'dataframe_split' must be an object of columns, index and data")
    columns, data = value.get("columns"), value.get("data")
    if type(data) is not list or any(type(row) is not list for row in data):
        raise InvalidInput("'dataframe_split.data' is no list of rows")
    if columns is None:
        return None, data
    if type(columns) is not list or any(type(c) not in (str, int) for c in columns):
        raise InvalidInput("'dataframe_split.columns' is no list of names")
    for i, row in enumerate(data):
        if len(row) != len(columns):
            raise InvalidInput(
                f"row {i} of 'dataframe_split.data' has {len(row)} values, there are "
                f"{len(columns)} columns"
            )
    return _unique([str(c) for c in columns]), data


def _records(value: Any) -> tuple[list[str] | None, list[Any]]:
    if type(value) is not list or not value or any(type(row) is not dict for row in value):
        raise InvalidInput("'dataframe_records' is no list of objects, one per row")
    # A column that a row leaves out is missing there, as pandas has it.
    columns = list(dict.fromkeys(k for row in value for k in row))
    if not columns:
        raise InvalidInput("'dataframe_records' has no columns")
    return columns, [[row.get(c) for c in columns] for row in value]


def _csv(body: Buffer) -> tuple[list[str] | None, list[Any]]:
    try:
        text = bytes(body).decode()
    except UnicodeDecodeError:
        raise InvalidInput("the CSV is no UTF-8 text") from None
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error as e:
        raise InvalidInput(f"the body is no CSV: {e}") from None
    if len(lines) < 2:
        raise InvalidInput("the CSV needs a line of column names and one row at least")
    columns = _unique(lines[0])
    for i, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            raise InvalidInput(
                f"line {i} of the CSV has {len(line)} values, there are {len(columns)} columns"
            )
    typed = [_typed([line[i] for line in lines[1:]]) for i in range(len(columns))]
    return columns, [list(row) for row in zip(*typed, strict=True)]


def _typed(column: list[str]) -> list[Any]:
    """A column's texts as the narrowest of int, float, bool and text; empty is missing."""
    given = [v for v in column if v != ""]
    for read in (int, float):
        try:
            values = {v: read(v) for v in given}
        except ValueError:
            continue
        if any("_" in v for v in given):
            break
        return [values[v] if v != "" else None for v in column]
    if given and all(v.lower() in ("true", "false") for v in given) and len(given) == len(column):
        return [v.lower() == "true" for v in column]
    return [v if v != "" else None for v in column]


def _unique(columns: list[str]) -> list[str]:
    if not columns or len(set(columns)) != len(columns):
        raise InvalidInput("the columns' names must be there, and each only once")
    return columns


def _table(
    columns: list[str] | None, rows: list[Any], specs: Sequence[TensorSpec]
) -> dict[str, Array]:
    if columns is not None and not (len(specs) == 1 and specs[0].name not in columns):
        rows = [dict(zip(columns, row, strict=True)) for row in rows]
    return to_arrays({"instances": rows}, specs).named(specs)


def mlflow_error(error: PenstockError) -> bytes:
    """MLflow's error object."""
    code = "BAD_REQUEST" if 400 <= error.status < 500 else "INTERNAL_ERROR"
    return _encode({"error_code": code, "message": str(error)})

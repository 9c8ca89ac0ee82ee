"""Protobuf's text format against Triton's schema: what is read, and where a mistake is."""

from __future__ import annotations

import pytest
from google.protobuf import text_format as protobuf_text
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from penstock.repositories.text_format import BadText, Field, parse
from penstock.repositories.triton_schema import MODEL_CONFIG


def test_every_way_to_write_the_same():
    ways = [
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4, -1 ] } ]',
        'input { name: "x", data_type: TYPE_FP32; dims: 4 dims: -1 }',
        "input: < name: 'x' data_type: TYPE_FP32 dims: [4] dims: [-1] >",
        'input: [{name:"" "x"\n# a comment }\ndata_type:TYPE_FP32 dims:[4,-1]}]',
    ]
    for text in ways:
        assert parse(text, MODEL_CONFIG) == {
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4, -1]}]
        }


def test_maps_enums_numbers_and_escapes():
    text = r"""
    parameters { key: "a\tb" value: { string_value: "\x41\102 \"q\"" } }
    parameters: { key: "c", value { string_value: 'd' } }
    metric_tags [ { key: "k" value: "v" }, { key: "l" value: "w" } ]
    sequence_batching { direct { minimum_slot_utilization: .5 max_queue_delay_microseconds: 0x10 } }
    dynamic_batching { }
    response_cache { enable: true }
    """
    assert parse(text, MODEL_CONFIG) == {
        "parameters": {"a\tb": {"string_value": 'AB "q"'}, "c": {"string_value": "d"}},
        "metric_tags": {"k": "v", "l": "w"},
        "sequence_batching": {
            "direct": {"minimum_slot_utilization": 0.5, "max_queue_delay_microseconds": 16}
        },
        "dynamic_batching": {},
        "response_cache": {"enable": True},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\nnmae: "x"', "line 2: unknown field 'nmae'; did you mean name?"),
        ("name: x", "line 1: name is text: quotes are expected"),
        ('name "x"', "line 1: ':' is expected after name"),
        ('name: "x" name: "y"', "line 1: name is given twice"),
        ("max_batch_size: 1.5", "line 1: max_batch_size is a whole number, not '1.5'"),
        ("max_batch_size: [1]", "line 1: max_batch_size is not repeated"),
        ("input { data_type: FP32 }", "data_type cannot be 'FP32'; did you mean TYPE_FP32?"),
        ("input {\n name: 'x'\n", "line 3: '}' is missing"),
        ("}", "line 1: a field's name is expected, not '}'"),
        ("input [ { } { } ]", "line 1: ',' or ']' is expected"),
        ("input [ { },", "line 1: ']' is missing"),
        ("response_cache { enable: 2 }", "enable is true or false"),
        ("name: 'x", 'line 1: "\'" has no meaning here'),
        ("input: 3", "line 1: input is a message: '{' is expected"),
        ("metric_tags { value: 'x' }", "an entry of metric_tags has no key"),
    ],
)
def test_mistakes_are_told_with_their_line(text, message):
    with pytest.raises(BadText) as told:
        parse(text, MODEL_CONFIG)
    assert message in told.value.message


def test_depth_is_bounded():
    nested: dict[str, Field] = {}
    nested["a"] = Field(nested)
    with pytest.raises(BadText, match="more than 32 messages"):
        parse("a {" * 1000, nested)


@given(st.text(max_size=60))
def test_no_text_ends_in_anything_but_a_message_or_a_mistake(text):
    try:
        found = parse(text, MODEL_CONFIG)
    except BadText:
        return
    assert isinstance(found, dict)


@given(st.text(max_size=30).filter(lambda t: "\ud800" not in t))
def test_strings_are_read_as_protobuf_writes_them(text):
    message = Struct()
    message["k"] = text
    written = protobuf_text.MessageToString(message)
    value = Field({"string_value": Field("string")})
    schema = {"fields": Field(value.kind, map=True)}
    assert parse(written, schema) == {"fields": {"k": {"string_value": text}}}

"""What a repository's own configuration says of a model's tensors, beside what the model's file says.

Triton's `config.pbtxt` and MLServer's `model-settings.json` declare inputs and outputs. Their clients read
those names and shapes in the metadata, so a model process shows them and holds requests to them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """One input or output. `shape` has -1 for any size, the batch axis first where the model batches."""

    name: str
    #: V2's name: FP32, INT64, BYTES, ...
    datatype: str
    shape: tuple[int, ...]
    #: The shape that the model's file has, where that is another one (Triton's `reshape`).
    model_shape: tuple[int, ...] | None = None
    #: A request may leave it out.
    optional: bool = False
    #: What its elements stand for, by MLServer's names: `base64`, `datetime`, ...; empty: nothing is said.
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class DeclaredClasses:
    """What the largest values of an output are counted over, and what they are called (Triton)."""

    #: A file with one name a line, in the order of the classes, from the model's folder on; empty: no names.
    labels: str = ""
    #: The first axis is the batch, and each row has classes; otherwise the whole output is one.
    batched: bool = True


@dataclass(frozen=True, slots=True)
class Declared:
    """A model's signature as its configuration has it. Empty: not declared."""

    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    #: Most rows in one request; 0 is no limit.
    max_rows: int = 0
    #: False: shown in the metadata only, as MLServer has it; requests are held to the model's own.
    held: bool = True
    #: What a request stands for where it does not say: `pd` for a table.
    content_type: str = ""

"""Repositories as other servers' users have them, written to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

ADD_SUB = """
import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.model_config = model_config = json.loads(args["model_config"])
        output0 = pb_utils.get_output_config_by_name(model_config, "OUTPUT0")
        self.dtype = pb_utils.triton_string_to_numpy(output0["data_type"])
        self.calls = []

    def execute(self, requests):
        responses = []
        for request in requests:
            in_0 = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            in_1 = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            responses.append(
                pb_utils.InferenceResponse(
                    output_tensors=[
                        pb_utils.Tensor("OUTPUT0", (in_0 + in_1).astype(self.dtype)),
                        pb_utils.Tensor("OUTPUT1", (in_0 - in_1).astype(self.dtype)),
                    ]
                )
            )
        return responses

    def finalize(self):
        pb_utils.Logger.log_info("Cleaning up...")
"""
ADD_SUB_CONFIG = """
# Two vectors in, sum and difference out.
name: "add_sub"
backend: "python"
input [
  { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "INPUT1" data_type: TYPE_FP32 dims: [ 4 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 4 ] }
]
instance_group [{ kind: KIND_CPU }]
"""


def write(root: Path, files: dict[str, str | bytes | dict[str, Any]]) -> Path:
    """Files by path; text is dedented, dicts are JSON."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            file.write_text(json.dumps(content))
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(dedent(content))
    return root


def add_sub(root: Path) -> Path:
    """A repository with Triton's `add_sub` example model."""
    return write(root, {"add_sub/config.pbtxt": ADD_SUB_CONFIG, "add_sub/1/model.py": ADD_SUB})

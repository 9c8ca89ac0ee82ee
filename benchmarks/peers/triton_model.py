"""The iris model for Triton's python backend, as its documentation has such models: batch in, batch out."""

import json

import joblib
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.model = joblib.load(config["parameters"]["model"]["string_value"])

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(r, "input-0").as_numpy() for r in requests]
        answers = self.model.predict(np.concatenate(inputs)).reshape(-1, 1)
        responses, at = [], 0
        for rows in inputs:
            part = answers[at : at + len(rows)]
            at += len(rows)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("predict", part)]))
        return responses

"""KServe's Python server with a scikit-learn model, as its sklearn runtime has it."""

import sys

import joblib
from kserve import InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import get_predict_input, get_predict_response


class SKLearnModel(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = path

    def load(self) -> bool:
        self._model = joblib.load(self._path)
        self.ready = True
        return True

    def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        return get_predict_response(
            payload, self._model.predict(get_predict_input(payload)), self.name
        )


if __name__ == "__main__":
    path = sys.argv.pop()
    model = SKLearnModel("iris", path)
    model.load()
    ModelServer().start([model])

"""A transformer on KServe's Python server: scales the rows and asks the predictor at --predictor_host."""

from kserve import Model, ModelServer


class Scale(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def preprocess(self, payload, headers=None):
        return {"instances": [[v / 10 for v in row] for row in payload["instances"]]}


if __name__ == "__main__":
    ModelServer().start([Scale("iris")])

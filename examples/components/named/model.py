"""A transformer: flowers as people describe them in, names of species out."""

import penstock

NAMES = ("setosa", "versicolor", "virginica")


class Named(penstock.Transformer):
    async def preprocess(self, payload, headers=None):
        rows = [[*flower["sepal"], *flower["petal"]] for flower in payload["flowers"]]
        return {"instances": rows}

    async def postprocess(self, result, headers=None):
        return {"species": [NAMES[p] for p in result["predictions"]]}

"""Small units for graphs of the tests."""

from __future__ import annotations

import numpy as np


class Plus:
    """Adds, on the way in or on the way out; remembers what it was told."""

    def __init__(self, by=1.0):
        self.by = by
        self.learned = []
        self.metas = []

    def predict(self, X, names, meta=None):
        self.metas.append(meta)
        return np.asarray(X) + self.by

    def transform_input(self, X, names, meta=None):
        self.metas.append(meta)
        return np.asarray(X) + self.by

    def transform_output(self, X, names, meta=None):
        return np.asarray(X) + self.by

    def send_feedback(self, X, names, reward, truth, routing=None):
        self.learned.append((reward, routing))


class Tagged(Plus):
    def tags(self):
        return {f"by{self.by:g}": True}

    def metrics(self):
        return [{"type": "COUNTER", "key": f"calls{self.by:g}", "value": 1}]

    def class_names(self):
        return [f"c{self.by:g}"]


class Chooses:
    """Routes by the first value."""

    def __init__(self):
        self.learned = []

    def route(self, X, names):
        return int(np.asarray(X).ravel()[0])

    def send_feedback(self, X, names, reward, truth, routing=None):
        self.learned.append((reward, routing))


class Sums:
    def aggregate(self, Xs, names):
        return np.sum([np.asarray(x) for x in Xs], axis=0)

    def tags(self):
        return {"summed": True}


class Joins:
    """Takes whatever there is, text too."""

    def aggregate(self, Xs, names):
        return "|".join(str(x) for x in Xs)


class Says:
    def __init__(self, what="hello"):
        self.what = what

    def predict(self, X, names):
        return f"{self.what}: {X}" if isinstance(X, str) else {"seen": np.asarray(X).tolist()}


class Fails:
    def predict(self, X, names):
        raise RuntimeError("not today")


class Shapes:
    def __init__(self, columns=1):
        self.columns = columns

    def predict(self, X, names):
        return np.ones((len(X), self.columns))


class Slow:
    def predict(self, X, names):
        import time

        time.sleep(3)
        return X


class Weighs:
    """A number for each row: its columns by their weights. Counts its calls."""

    def __init__(self, weights):
        self.weights = np.array([float(w) for w in weights.split()])
        self.seen = []

    def predict(self, X, names):
        if not isinstance(X, np.ndarray) or X.dtype.kind not in "if":
            return X
        self.seen.append(len(X))
        return np.asarray(X) @ self.weights[:, None]

    transform_input = predict


class Echoes:
    def transform_input(self, X, names):
        return X


class Lowers:
    def transform_input(self, X, names):
        return np.array([_text(x).lower() for x in np.asarray(X).ravel()])


class Finds:
    """1 where a text is good."""

    def predict(self, X, names):
        return np.array([[float("good" in _text(x))] for x in np.asarray(X).ravel()])


def _text(x):
    return x.decode() if isinstance(x, bytes) else str(x)


class Numpys:
    """Says what it says with numpy's numbers."""

    def transform_input(self, X, names):
        return X

    predict = transform_input

    def tags(self):
        return {"f": np.float32(0.5), "l": np.array([1, 2])}

    def metrics(self):
        return [
            {"type": "GAUGE", "key": "level", "value": np.float32(2.0)},
            {"type": "GAUGE", "key": "nan", "value": np.float32("nan")},
        ]


class RouteNan:
    def route_raw(self, msg):
        return {"data": {"tensor": {"shape": [1, 1], "values": [float("nan")]}}}

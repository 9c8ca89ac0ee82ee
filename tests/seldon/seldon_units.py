"""Classes as users write them for Seldon's Python wrapper; loaded here and in the real wrapper."""

from __future__ import annotations

import numpy as np


class Doubler:
    """Doubles numbers, hands on everything else, and says whatever can be said."""

    def predict(self, X, names, meta=None):
        return X * 2 if isinstance(X, np.ndarray) and X.dtype.kind in "if" else X

    def transform_input(self, X, names, meta=None):
        return X + 1

    def transform_output(self, X, names):
        return X - 1

    def route(self, X, names):
        return 1

    def aggregate(self, Xs, names):
        return Xs[0] + Xs[1]

    def send_feedback(self, X, names, reward, truth, routing=None):
        self.learned = (X.tolist(), list(names), reward, truth.tolist(), routing)
        return [reward]

    def tags(self):
        return {"mine": 1}

    def metrics(self):
        return [
            {"type": "COUNTER", "key": "calls", "value": 1},
            {"type": "GAUGE", "key": "level", "value": 22.5, "tags": {"a": "b"}},
            {"type": "TIMER", "key": "took", "value": 20.2},
        ]

    def health_status(self):
        return [1, 2]

    def init_metadata(self):
        return {"name": "doubler", "versions": ["v1"], "platform": "seldon"}


class Bare:
    """Only what it has to have."""

    def predict(self, X, names):
        return np.asarray(X)[:, :1]


class Named:
    """Names of its own, before and after."""

    def predict(self, X, names):
        return X

    def transform_input(self, X, names):
        return X

    def class_names(self):
        return ["first", "second"]

    def feature_names(self):
        return ["f1", "f2"]


class Raw:
    """Takes messages as they are."""

    def predict_raw(self, msg):
        rows = msg["data"]["ndarray"]
        return {"data": {"names": ["sum"], "ndarray": [[sum(r)] for r in rows]}}

    def aggregate_raw(self, msgs):
        return {"strData": str(len(msgs["seldonMessages"]))}


class Tuned:
    """Takes parameters of its node."""

    def __init__(self, scale=1.0, shift=0, label="x", loud=False):
        self.scale, self.shift, self.label, self.loud = scale, shift, label, loud

    def load(self):
        self.loaded = True

    def predict(self, X, names):
        assert self.loaded
        return np.asarray(X) * self.scale + self.shift

    def tags(self):
        return {"label": self.label, "loud": self.loud}


class Broken:
    """Every way to be wrong."""

    def predict(self, X, names):
        raise ValueError("secret rows 1,2,3")

    def route(self, X, names):
        return "left"

    def transform_input(self, X, names):
        return [[1], [1, 2]]

    def transform_output(self, X, names):
        return object()

    def aggregate(self, Xs, names):
        return sum(Xs)


def seldon_error(message, status_code, reason):
    from seldon_core.flask_utils import SeldonMicroserviceException

    return SeldonMicroserviceException(message, status_code=status_code, reason=reason)


class Refuses:
    """Says no in its own words; how is the first number."""

    def predict(self, X, names):
        status = int(X[0][0])
        raise seldon_error("rows are bad", status, "MY_REASON")

    def health_status(self):
        raise seldon_error("ill", 503, "ILL")


class RawFails:
    """Answers a failure as a message."""

    def predict_raw(self, msg):
        return {"status": {"code": 418, "info": "teapot", "reason": "TEA", "status": "FAILURE"}}


class RawOrNot:
    """Has a raw method in name only."""

    def predict_raw(self, msg):
        from seldon_core.user_model import SeldonNotImplementedError

        raise SeldonNotImplementedError("not raw")

    def predict(self, X, names):
        return X


class RawCounts:
    """A raw method with metrics, beside those that came."""

    def predict_raw(self, msg):
        meta = dict(msg.get("meta") or {})
        own = {"key": "raw", "type": "COUNTER", "value": 3}
        return {"data": msg["data"], "meta": {**meta, "metrics": [*meta.get("metrics", []), own]}}

    def health_status_raw(self):
        return {"strData": "raw and well"}


class RawWild(RawCounts):
    """Counts one more thing, which is no number."""

    def predict_raw(self, msg):
        answer = super().predict_raw(msg)
        answer["meta"]["metrics"].append({"key": "wild", "type": "COUNTER", "value": float("inf")})
        return answer


class Mixed:
    """Text beside numbers, and truth."""

    def predict(self, X, names):
        return [["a", 1], ["b", 2.5]]

    def transform_input(self, X, names):
        return np.array([[True, False]])

    def transform_output(self, X, names):
        return ["x", "y"]

    def tags(self):
        return None


class Told:
    """Says what it was told of the request, and keeps it."""

    def predict(self, X, names, meta=None):
        return {"meta": meta}


class Days:
    def predict(self, X, names):
        return np.array(["2020-01-31", "NaT"], dtype="datetime64[D]")

    def transform_input(self, X, names):
        return np.array([1 + 2j])


class Described:
    def __init__(self, what="inputs"):
        self.what = what

    def predict(self, X, names):
        return X

    def init_metadata(self):
        return {"name": "mine", self.what: 3}


class Numpy:
    """Numbers of numpy's wherever Python's are expected."""

    def predict(self, X, names):
        return {"a": np.float32(1.5), "b": np.array([1, 2]), "c": {"d": np.bool_(True)}}

    def transform_input(self, X, names):
        return X

    def tags(self):
        return {"f": np.float32(0.5), "i": np.int64(3), "l": np.array([1.0, 2.0])}

    def metrics(self):
        return [
            {"type": "GAUGE", "key": "level", "value": np.float32(2.0)},
            {"type": "GAUGE", "key": "nan", "value": float("nan")},
            {"type": "TIMER", "key": "inf", "value": float("inf")},
        ]


class One:
    def predict(self, X, names):
        return np.array(5.0)

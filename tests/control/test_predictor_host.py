"""What a transformer's process is told of its predictor: sockets, and an address for code of its own."""

from __future__ import annotations

import pytest

from penstock.control.process_spec import process_spec
from penstock.control.revisions import Kept
from penstock.domain.process import decode, encode
from penstock.domain.revision import Revision
from penstock.domain.service import Component, Model, ModelFormat, Role, Service, Storage
from penstock.sdk.predictor import Predictor


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080/serving/team/svc/components/predictor"),
        ("https://127.0.0.1:8080", "unix:/run/g0.sock/serving/team/svc/components/predictor"),
        ("", "unix:/run/g0.sock/serving/team/svc/components/predictor"),
    ],
)
def test_code_that_speaks_http_knows_a_gateway_without_tls(url: str, host: str) -> None:
    made = Component(Role.TRANSFORMER, model=Model(ModelFormat("transformer"), Storage("x")))
    kept = Kept(
        Revision("svc-transformer-00001", 1, "d", 1.0, made, runtime="r", framework="transformer"),
        asked="x",
        path="/models/x",
    )
    service = Service("team", "svc", made)
    spec = process_spec(
        kept, service, "r", env={}, cores=1, replicas=1,
        gateways=("unix:/run/g0.sock", "unix:/run/g1.sock"), inference_url=url,
    )  # fmt: skip
    assert decode(encode(spec)) == spec
    assert spec.predictor is not None
    assert spec.predictor.addresses == ("unix:/run/g0.sock", "unix:/run/g1.sock")
    assert Predictor(spec.predictor, "m").host == host

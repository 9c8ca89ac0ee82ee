import json
import random
from urllib.request import Request, urlopen

HOST = "http://127.0.0.1:8080"
#: How many of a hundred visitors like each offer.
LIKED = {"a notebook": 20, "a hot-air balloon": 80}


def post(path, document):
    request = Request(
        HOST + path, json.dumps(document).encode(), {"content-type": "application/json"}
    )
    with urlopen(request) as answer:
        return answer.headers, json.load(answer)


chance = random.Random(1)
for visitor in range(200):
    headers, answer = post("/v1/models/offers:predict", {"instances": [visitor]})
    (offer,) = answer["predictions"]
    liked = chance.random() * 100 < LIKED[offer]
    post("/feedback", {"id": headers["x-request-id"], "reward": int(liked)})

"""Fields of requests and answers by which gateways and components tell each other of revisions."""

from typing import Final

#: In a request: only this revision may answer. In an answer: the revision that did.
REVISION: Final = "x-penstock-revision"
#: From a component to the predictor: the revision that shall answer if it can.
PREFER: Final = "x-penstock-prefer"
#: In its place: any revision may answer, and shall be told; a bandit does not count it.
ANY: Final = "*"
#: In a component's answer: the revision that the predictor answered with.
ANSWERED: Final = "x-penstock-answered-by"

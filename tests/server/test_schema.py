"""Whatever fits the API's own description, or nearly, is answered: never with an error of the server's.

RETOUCH_CASES: examples of each operation (20); 250 make more than 5,000 requests in all.
"""

import os
from collections import Counter
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from retouch.server.limits import GB, Limits
from studios import BEARER, HOST, asking, created, studio

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = int(os.environ.get("RETOUCH_CASES", "20"))


GIVEN = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_request_breaks_the_server(tmp_path):
    limits = Limits(upload_burst=1000 * GB, sessions=4, jobs=4, wait=0.2)
    with asking(studio(tmp_path, limits)) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        operations = [found.ok() for found in schema.get_all_operations()]
        statuses: Counter[int] = Counter()
        id_ = created(client)
        for operation in operations:
            for mode in GenerationMode:
                every(client, id_, statuses, operation.as_strategy(generation_mode=mode))
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert len(operations) > 15
    assert sum(statuses.values()) > CASES * len(operations)
    assert len(statuses) > 5


def every(client, id_, statuses, cases):
    @GIVEN
    @given(cases)
    def asked(case):
        ask(client, id_, statuses, case)

    with suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parameters
        asked()


def ask(client, id_, statuses, case):
    ours = "id" in (case.path_parameters or {}) and case.operation.method != "delete" and statuses.total() % 4
    if ours:
        case.path_parameters["id"] = id_
    given_ = case.as_transport_kwargs(base_url=f"http://{HOST}")
    given_["headers"] = {**given_["headers"], **BEARER, "Host": HOST}
    reply = client.request(**{name: value for name, value in given_.items() if name != "cookies"})
    statuses[reply.status_code] += 1
    assert reply.status_code < 500 or reply.status_code in (503, 507), reply.text
    if reply.status_code >= 400 and not case.path.startswith("/v1/"):
        assert reply.headers["content-type"] == "application/problem+json"

"""The OpenAPI document: valid by a public validator, and true by schemathesis, which makes requests of it and judges answers."""

import json
import os
import urllib.request
from unittest import SkipTest

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from peers import DEADLINE, Mockforge
from rows.recordings import SESSION

# More with OPENAPI_EXAMPLES=500; the same ones each time, as many as asked for.
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "5"))
# It would end what is tested.
ENDS_THE_SERVER = ["Admin_Shutdown"]
# They answer when what was asked for came, or when as much time has passed as was asked for: not waited for here.
WAITS = ["Verification_WaitForMessages"]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def server():
    with Mockforge("--ring", "1m") as server:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.http}/__mockforge/recordings:import?name=known", data=SESSION, method="POST"
        )
        urllib.request.urlopen(request, timeout=DEADLINE).close()
        yield server


@pytest.fixture(scope="module")
def document(server):
    url = f"http://127.0.0.1:{server.http}/__mockforge/openapi.json"
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.load(answer)


@pytest.fixture(scope="module")
def api(server, document):
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=f"http://127.0.0.1:{server.http}")
    return schema


def test_the_document_is_valid_openapi(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def stays_open(operation):
    """What may go on for ever; test_control_parity.py hears the beginnings."""
    answer = operation.definition.raw["responses"]["200"]
    return "text/event-stream" in answer.get("content", {})


def test_answers_are_as_the_document_says(server, api):
    tried, wrong = 0, []
    for found in api.get_all_operations():
        operation = found.ok()
        if operation.definition.raw["operationId"] in ENDS_THE_SERVER or stays_open(operation):
            continue
        examples = settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        for mode in GenerationMode:

            @examples
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                nonlocal tried
                tried += 1
                waits = operation.definition.raw["operationId"] in WAITS
                try:
                    answer = case.call(timeout=0.5 if waits else DEADLINE)
                except requests.exceptions.ReadTimeout:
                    assert waits, "no answer"
                    return
                case.validate_response(answer, checks=CHECKS)

            try:
                ask()
            except (Unsatisfiable, SkipTest):
                assert mode == GenerationMode.NEGATIVE, operation.label  # of nothing there is no wrong form
            except Exception as error:  # whatever it is, the other operations have their turn
                wrong.append(f"{operation.label}: {error}")
    print(f"{tried} requests")
    assert server.child.poll() is None, server.output
    assert not wrong, "\n\n".join(wrong)

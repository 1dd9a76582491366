"""Every rpc over gRPC, by reflection, and over its REST twin, by curl: the same answers, and the same refusals."""

import base64

import grpc
import pytest

from contract import Contract, Refusal, differences
from pahoclient import V5, Client
from peers import Mockforge, wait_until
from rows import all_rows
from rows.recordings import pieces
from test_webhooks import Sink

ROWS = all_rows()
# They speak both ways at once, which HTTP as curl speaks it can't; what they do can be done by other rpcs.
WITHOUT_TWIN = {"Broker.PublishStream", "Replays.ControlReplay", "Scenarios.DriveScenario"}


class Scene:
    """A server under a bit of traffic: `device` is connected and subscribed to `parity/listened`."""

    def __init__(self, server, channel, sink):
        self.server, self.sink, self.contract = server, sink, Contract(channel)
        self.base = f"http://127.0.0.1:{server.http}"
        self.device = self.connect("device")
        self.device.subscribe("parity/listened", 1)

    def connect(self, name):
        client = Client(self.server, V5, name)
        client.connect()
        return client

    def ask(self, name, request):
        return self.contract.rpcs[name].grpc(request)

    def call(self, name, request):
        answer = self.ask(name, request)
        assert not isinstance(answer, Refusal), (name, request, answer)
        return answer

    def forget(self, name, what):
        """Deletes what may be there."""
        answer = self.ask(name, {"id": what})
        assert not isinstance(answer, Refusal) or answer.code == "NOT_FOUND", answer

    def wait(self, name, request, condition):
        wait_until(lambda: condition(self.call(name, request)), f"{name} {request}")


@pytest.fixture(scope="module")
def sink():
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def scene(sink):
    with Mockforge("--ring", "1m") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        scene = Scene(server, channel, sink)
        scene.call("Recordings.ImportRecording", pieces("parity"))
        yield scene


def test_every_rpc_has_a_row_and_a_twin(scene):
    rpcs = scene.contract.rpcs
    assert {name for name, rpc in rpcs.items() if not rpc.bindings} == WITHOUT_TWIN
    assert all(rpcs[name].takes_stream and rpcs[name].gives_stream for name in WITHOUT_TWIN)
    assert ROWS.keys() == rpcs.keys() - WITHOUT_TWIN
    # Whoever can be asked for nonsense is.
    unasked = [name for name, row in ROWS.items() if rpcs[name].input.DESCRIPTOR.fields and not row.bad and not row.any]
    assert not unasked, unasked


@pytest.mark.parametrize("name", sorted(ROWS))
def test_grpc_and_rest_answer_the_same(scene, name):
    row, rpc = ROWS[name], scene.contract.rpcs[name]
    if row.alone:
        said = alone(name, lambda rpc, scene: rpc.grpc(row.ask(scene)))
        heard = alone(name, lambda rpc, scene: rpc.rest(scene.base, row.ask(scene)))
    elif row.happen:
        happen = lambda: row.happen(scene)
        said = rpc.grpc_stream(row.ask(scene), happen, row.count)
        for events in [False, True]:
            heard = rpc.rest_stream(scene.base, row.ask(scene), happen, row.count, events)
            assert not differences(said, heard, row.differs), (said, heard)
        return
    else:
        said = rpc.grpc(row.ask(scene))
        heard = rpc.rest(scene.base, row.ask(scene))
    assert not isinstance(said, Refusal), said
    if rpc.output.DESCRIPTOR.full_name == "google.api.HttpBody":
        said = downloaded(said)
    assert not differences(said, heard, row.differs), (said, heard)


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.parts))
def test_patch_replaces_what_an_update_mask_names(scene, name):
    row, rpc = ROWS[name], scene.contract.rpcs[name]
    [put, patch] = rpc.bindings
    assert (put[0], patch[0]) == ("put", "patch")
    for part in row.parts:
        said = rpc.grpc(part(scene))
        assert not isinstance(said, Refusal), said
        assert not differences(said, rpc.rest(scene.base, part(scene), binding=1), row.differs)
        # What stands in the body says the same, unless the mask names more than that.
        request = part(scene)
        if len(request.pop("update_mask").split(",")) == len(request[patch[1].body]):
            assert not differences(said, rpc.rest(scene.base, request, binding=1), row.differs)


def test_every_update_takes_a_mask(scene):
    updates = {name for name, rpc in scene.contract.rpcs.items() if rpc.name.split(".")[1].startswith("Update")}
    assert updates == {name for name, row in ROWS.items() if row.parts}


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.bad))
def test_grpc_and_rest_refuse_the_same(scene, name):
    rpc = scene.contract.rpcs[name]
    for request, code, reason, fields in ROWS[name].bad:
        said, heard = rpc.grpc(request), rpc.rest(scene.base, request)
        assert isinstance(said, Refusal) and isinstance(heard, Refusal), (request, said, heard)
        assert (said.code, said.reason, said.fields) == (code, reason, fields), said
        assert said == heard


def test_messages_in_a_stream_are_answered_in_their_order(scene):
    rpc = scene.contract.rpcs["Broker.PublishStream"]
    messages = [{"topic": "a/#" if n % 10 == 3 else "parity/listened", "payload": str(n)} for n in range(100)]
    answers = rpc.grpc_both_ways(messages)
    assert ["published" if "published" in answer else answer["refused"]["fields"] for answer in answers] == [
        ["topic"] if n % 10 == 3 else "published" for n in range(100)
    ]
    # The same as in one call.
    assert answers == scene.call("Broker.PublishBatch", {"messages": messages})["results"]


def alone(name, call):
    """Makes a call to a server of its own."""
    with Mockforge() as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel, Sink() as sink:
        scene = Scene(server, channel, sink)
        return call(scene.contract.rpcs[name], scene)


def downloaded(pieces):
    """A file in pieces, as a download."""
    data = b"".join(base64.b64decode(piece["data"]) for piece in pieces)
    return {"content_type": pieces[0]["content_type"], "data": data.decode()}

"""gRPC-Web on the HTTP port, as browsers speak it over HTTP/1.1: binary and base64, one answer and many, allowed or not."""

import base64
import http.client
import json
import struct
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from contract import Contract
from peers import DEADLINE, Mockforge, needs_npm

import grpc

SERVICE = "/mockforge.mqtt.v1."
TRAILERS = 0x80


@pytest.fixture(scope="module")
def server():
    with Mockforge() as server:
        yield server


@pytest.fixture(scope="module")
def contract(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        yield Contract(channel)


def frames(data):
    while data:
        kind, length = struct.unpack(">BI", data[:5])
        yield kind, data[5 : 5 + length]
        data = data[5 + length :]


def call(port, rpc, request, text=False, **headers):
    """(HTTP status, messages, trailers) of a call."""
    message = rpc.message(request).SerializeToString()
    body = struct.pack(">BI", 0, len(message)) + message
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    service, method = rpc.name.split(".")
    connection.request(
        "POST",
        f"{SERVICE}{service}/{method}",
        body=base64.b64encode(body) if text else body,
        headers={"Content-Type": kind, "Accept": kind, "X-Grpc-Web": "1", **headers},
    )
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    # Trailers alone stand in the head.
    trailers = {name.lower(): value for name, value in answer.getheaders() if name.lower().startswith("grpc-")}
    messages = []
    if answer.status == 200 and data:
        assert answer.getheader("Content-Type").startswith("application/grpc-web")
        # Each piece of text is base64 by itself.
        data = b"".join(base64.b64decode(part) for part in padded(data)) if text else data
        for kind, content in frames(data):
            if kind == TRAILERS:
                lines = content.decode().strip().splitlines()
                trailers |= {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            else:
                messages.append(rpc.output.FromString(content))
    return answer.status, messages, trailers


def padded(text):
    """Pieces of base64 that follow each other, each with its padding."""
    piece = b""
    for at in range(0, len(text), 4):
        piece += text[at : at + 4]
        if text[at : at + 4].endswith(b"="):
            yield piece
            piece = b""
    yield piece


@pytest.mark.parametrize("text", [False, True])
def test_one_answer_many_answers_and_a_refusal(server, contract, text):
    status, [info], trailers = call(server.http, contract.rpcs["Admin.GetServerInfo"], {}, text)
    assert (status, trailers["grpc-status"], info.pid) == (200, "0", server.child.pid)

    publish = contract.rpcs["Broker.Publish"]
    for topic in ["web/a", "web/b", "web/c"]:
        request = {"topic": topic, "payload": {"v": 1}, "retain": True}
        assert call(server.http, publish, request, text)[2]["grpc-status"] == "0"
    subscribe = {"filter": ["web/#"], "limit": 3}
    _, answers, trailers = call(server.http, contract.rpcs["Broker.Subscribe"], subscribe, text)
    assert sorted(answer.message.topic for answer in answers) == ["web/a", "web/b", "web/c"]
    assert answers[0].message.payload == b'{"v":1}' and trailers["grpc-status"] == "0"

    status, answers, trailers = call(server.http, publish, {"topic": "a/#"}, text)
    assert (status, answers, trailers["grpc-status"]) == (200, [], "3") and "topic" in trailers["grpc-message"]


def test_foreign_pages_and_callers_without_a_token_are_refused(server, contract):
    rpc = contract.rpcs["Admin.GetServerInfo"]
    own = {"Origin": f"http://127.0.0.1:{server.http}"}
    assert call(server.http, rpc, {}, **own)[2]["grpc-status"] == "0"
    _, answers, trailers = call(server.http, rpc, {}, Origin="http://evil.example")
    assert answers == [] and trailers["grpc-status"] == str(grpc.StatusCode.PERMISSION_DENIED.value[0])
    with Mockforge(MOCKFORGE_API_TOKEN="a-token-that-is-long-enough") as guarded:
        _, answers, trailers = call(guarded.http, rpc, {})
        assert answers == [] and trailers["grpc-status"] == str(grpc.StatusCode.UNAUTHENTICATED.value[0])
        _, [info], _ = call(guarded.http, rpc, {}, Authorization="Bearer a-token-that-is-long-enough")
        assert info.pid == guarded.child.pid


def described(rpcs):
    """What the server says that its services are, with all that they refer to, each file behind those it needs."""
    files = {}

    def add(file):
        if file.name not in files:
            for needed in file.dependencies:
                add(needed)
            files[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(files[file.name])

    for rpc in rpcs.values():
        add(rpc.service.file)
    return descriptor_pb2.FileDescriptorSet(file=files.values())


def test_a_client_that_others_wrote(server, contract, tmp_path):
    node = needs_npm("@connectrpc/connect-web")
    file = tmp_path / "services.binpb"
    file.write_bytes(described(contract.rpcs).SerializeToString())
    command = [node, Path(__file__).with_name("grpcweb.js"), f"http://127.0.0.1:{server.http}", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert heard["version"] == contract.rpcs["Admin.GetServerInfo"].grpc({})["version"]
    assert (heard["message"], heard["left"]) == (["page/1", "hello"], "Canceled")
    assert heard["refused"] == ["NotFound", ["google.rpc.ErrorInfo"]]
    step = ["stepStarted", "stepEnded"]
    assert heard["events"] == ["started", *step, *step, "finished"]

"""What callers who mean harm get from the control plane, over REST, gRPC, and bytes made by hand.

Each attack is a row of a table: with `pytest -s`, or in the file that ATTACK_TABLE names.
"""

import http.client
import importlib
import json
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import time

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from peers import DEADLINE, ROOT, Mockforge, Process, binary, needs, run, wait_until

TOKENS = {"read": "r-3f9a27c1", "control": "c-81d04be6", "admin": "a-5520fe9d"}
CALLERS = json.dumps([{"name": role, "role": role, "token": token} for role, token in TOKENS.items()])
ROWS = []


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    lines = ["| attack | by | got |", "|---|---|---|"]
    lines += [f"| {attack} | {by} | {got} |" for attack, by, got in ROWS]
    text = "\n".join(lines)
    print(f"\n{text}")
    if named := os.environ.get("ATTACK_TABLE"):
        with open(named, "w") as file:
            file.write(text + "\n")


def tried(attack, by, got, *expected):
    ROWS.append((attack, by, got))
    assert got in expected, f"{attack} by {by}: got {got}"


# ---- callers


def rest(port, method, path, token=None, headers=(), body=None, tls=None):
    """Status and reason of an answer; `headers` may say Host, and the same name twice."""
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=tls)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        names = [name.lower() for name, _ in headers]
        connection.putrequest(method, path, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if token:
            connection.putheader("Authorization", f"Bearer {token}")
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body is not None:
            try:
                connection.send(body)
            except OSError:
                pass  # refused before it was through
        answer = connection.getresponse()
        status, text = answer.status, answer.read(65536)
        if status == 401:
            assert answer.getheader("WWW-Authenticate", "").startswith("Bearer")
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return "closed"
    finally:
        connection.close()
    try:
        details = json.loads(text).get("details", [])
    except ValueError:
        details = []
    reason = next((one["reason"] for one in details if "reason" in one), "")
    return f"{status} {reason}".strip()


def raw(port, data, seconds=DEADLINE):
    """The status line of what is answered to these bytes, or `closed`."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        try:
            connection.sendall(data)
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
    return answer.split(b"\r\n")[0].decode(errors="replace").removeprefix("HTTP/1.1 ") or "closed"


def call(method, request, token=None, take=1):
    """Status of a gRPC call, and the role it lacks."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        answer = method(request, metadata=metadata, timeout=DEADLINE)
        if take and hasattr(answer, "__next__"):
            next(answer)
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack-stubs")
    files = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto/mockforge").rglob("*.proto"))
    made = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}"]
        + [f"--grpc_python_out={folder}", *map(str, files)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"mockforge.mqtt.v1.{name}")
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def guarded():
    """A server with a caller of each role, and limits that a test can reach."""
    variables = {
        "MOCKFORGE_API_TOKENS": CALLERS,
        "MOCKFORGE_HTTP_LIMITS_CONNECTIONS": "40",
        "MOCKFORGE_HTTP_LIMITS_HEAD_TIMEOUT_SECS": "1",
        "MOCKFORGE_HTTP_LIMITS_BODY_TIMEOUT_SECS": "1",
        "MOCKFORGE_GRPC_LIMITS_STREAMS": "100",
    }
    with Mockforge(**variables) as server:
        yield server


@pytest.fixture(scope="module")
def local():
    """A server as it is by default: on loopback, for everybody there."""
    with Mockforge() as server:
        yield server


def still_there(server, token=None, tls=None):
    assert rest(server.http, "GET", "/__mockforge/mqtt/stats", token, tls=tls) == "200"


# ---- tokens and roles


def test_rest_roles(guarded):
    routes = [
        ("read a list", "GET", "/__mockforge/recordings", "read"),
        ("read metrics", "GET", "/__mockforge/metrics", "read"),
        ("read the index", "GET", "/__mockforge", "read"),
        ("publish", "POST", "/__mockforge/mqtt/publish", "control"),
        ("start a recording", "POST", "/__mockforge/recordings", "control"),
        ("replay", "POST", "/__mockforge/replays", "control"),
        ("write a mock", "POST", "/__mockforge/mocks", "control"),
        ("break things", "POST", "/__mockforge/chaos:enable", "control"),
        ("set state", "PUT", "/__mockforge/state/global/k", "control"),
        ("delete a recording", "DELETE", "/__mockforge/recordings/none", "admin"),
        ("write a webhook", "POST", "/__mockforge/webhooks", "admin"),
        ("shut down", "POST", "/__mockforge/shutdown", "admin"),
    ]
    order = list(TOKENS)
    for what, method, path, needed in routes:
        ask = lambda token: rest(guarded.http, method, path, token, body=b"" if method != "GET" else None)
        tried(f"{what}: REST", "no token", ask(None), "401 TOKEN_MISSING")
        tried(f"{what}: REST", "a wrong token", ask("x-3f9a27c1"), "401 TOKEN_WRONG")
        for role in order[: order.index(needed)]:
            tried(f"{what}: REST", f"role {role}", ask(TOKENS[role]), "403 ROLE_TOO_LOW")
        if needed == "read":
            tried(f"{what}: REST", "role read", ask(TOKENS["read"]), "200")
    events = [("Accept", "text/event-stream")]
    for by, token, expected in [("no token", None, "401 TOKEN_MISSING"), ("a wrong token", "x", "401 TOKEN_WRONG")]:
        tried("watch events: SSE", by, rest(guarded.http, "GET", "/__mockforge/events", token, events), expected)
    for what, headers in [
        ("the token as Basic", [("Authorization", f"Basic {TOKENS['admin']}")]),
        ("two tokens", [("Authorization", "Bearer x"), ("Authorization", f"Bearer {TOKENS['admin']}")]),
        ("the token's beginning", [("Authorization", f"Bearer {TOKENS['admin'][:-1]}")]),
        ("the token in the query", []),
    ]:
        path = f"/__mockforge/info?token={TOKENS['admin']}&access_token={TOKENS['admin']}"
        got = rest(guarded.http, "GET", path if not headers else "/__mockforge/info", headers=headers)
        tried("read who answers: REST", what, got, "401 TOKEN_MISSING", "401 TOKEN_WRONG")
    tried("health: REST", "no token", rest(guarded.http, "GET", "/__mockforge/health"), "200")


def test_grpc_roles(guarded, stubs):
    broker, admin, recordings = stubs("broker_pb2"), stubs("admin_pb2"), stubs("recordings_pb2")
    for port, which in [(guarded.grpc, "gRPC"), (guarded.http, "gRPC on the HTTP port")]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            of_admin = stubs("admin_pb2_grpc").AdminStub(channel)
            of_broker = stubs("broker_pb2_grpc").BrokerStub(channel)
            of_recordings = stubs("recordings_pb2_grpc").RecordingsStub(channel)
            for what, method, request, needed in [
                ("read who answers", of_admin.GetServerInfo, admin.GetServerInfoRequest(), "read"),
                ("publish", of_broker.Publish, broker.PublishRequest(topic="t"), "control"),
                ("delete a recording", of_recordings.DeleteRecording, recordings.DeleteRecordingRequest(id="x"), "admin"),
                ("shut down", of_admin.Shutdown, admin.ShutdownRequest(), "admin"),
            ]:
                tried(f"{what}: {which}", "no token", call(method, request), "UNAUTHENTICATED")
                tried(f"{what}: {which}", "a wrong token", call(method, request, "x"), "UNAUTHENTICATED")
                order = list(TOKENS)
                for role in order[: order.index(needed)]:
                    tried(f"{what}: {which}", f"role {role}", call(method, request, TOKENS[role]), "PERMISSION_DENIED")
            tried(f"watch events: {which}", "no token", call(of_admin.WatchEvents, admin.WatchEventsRequest()), "UNAUTHENTICATED")
            messages = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            tried(f"reflection: {which}", "no token", call(reflect, messages), "UNAUTHENTICATED")
            messages = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            tried(f"reflection: {which}", "role read", call(reflect, messages, TOKENS["read"]), "OK")
            check = health_pb2_grpc.HealthStub(channel).Check
            tried(f"health: {which}", "no token", call(check, health_pb2.HealthCheckRequest()), "OK")
            unknown = channel.unary_unary(
                "/mockforge.mqtt.v1.Admin/%53hutdown",
                request_serializer=empty_pb2.Empty.SerializeToString,
                response_deserializer=empty_pb2.Empty.FromString,
            )
            got = call(unknown, empty_pb2.Empty(), TOKENS["read"])
            tried(f"shut down, spelled %53hutdown: {which}", "role read", got, "UNIMPLEMENTED")


# ---- pages of others


def test_pages_of_others(local):
    evil = "http://evil.example"
    for what, method, path, headers in [
        ("fetch from another site", "POST", "/__mockforge/shutdown", [("Origin", evil)]),
        ("fetch from another port of this host", "POST", "/__mockforge/shutdown", [("Origin", "http://localhost:8080")]),
        ("a sandboxed frame", "POST", "/__mockforge/shutdown", [("Origin", "null")]),
        ("a text/plain form", "POST", "/__mockforge/mqtt/publish", [("Origin", evil), ("Content-Type", "text/plain")]),
        ("a CORS preflight", "OPTIONS", "/__mockforge/mqtt/publish", [("Origin", evil), ("Access-Control-Request-Method", "POST")]),
        ("an image or script", "GET", "/__mockforge/info", [("Sec-Fetch-Site", "cross-site")]),
        ("a WebSocket", "GET", "/__mockforge/events", [("Origin", evil), ("Connection", "Upgrade"), ("Upgrade", "websocket")]),
        ("two Origins", "GET", "/__mockforge/info", [("Origin", f"http://127.0.0.1:{local.http}"), ("Origin", evil)]),
    ]:
        tried(what, "a page of others", rest(local.http, method, path, headers=headers, body=b""), "403 FOREIGN_ORIGIN")
    get = lambda headers, path="/__mockforge/info": rest(local.http, "GET", path, headers=headers)
    for what, got in [
        ("DNS rebinding: Host evil.example", get([("Host", "evil.example")])),
        ("Host localhost.evil.example", get([("Host", "localhost.evil.example")])),
        ("Host evil@localhost", get([("Host", "evil@localhost")])),
        ("X-Forwarded-Host: localhost beside evil.example", get([("Host", "evil.example"), ("X-Forwarded-Host", "localhost")])),
        ("two Hosts", get([("Host", "localhost"), ("Host", "evil.example")])),
        ("absolute target evil.example, Host localhost", get([("Host", "localhost")], "http://evil.example/__mockforge/info")),
        ("absolute target localhost, Host evil.example", get([("Host", "evil.example")], "http://localhost/__mockforge/info")),
    ]:
        tried(what, "a page of others", got, "403 FOREIGN_HOST")
    got = raw(local.http, b"GET /__mockforge/info HTTP/1.1\r\n\r\n")
    tried("no Host at all", "bytes by hand", got, "403 Forbidden")
    frames = h2_request(local.http, authority=b"evil.example", path=b"/__mockforge/info")
    tried("HTTP/2 :authority evil.example", "bytes by hand", h2_status(local.http, frames), "403")
    frames = h2_request(local.http, authority=b"localhost", path=b"/__mockforge/info", extra=[(b"host", b"evil.example")])
    tried("HTTP/2 :authority localhost, host evil.example", "bytes by hand", h2_status(local.http, frames), "403", "reset")
    options = grpc.insecure_channel(f"127.0.0.1:{local.grpc}", options=[("grpc.default_authority", "evil.example")])
    with options as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        got = call(check, health_pb2.HealthCheckRequest())
    tried("gRPC :authority evil.example", "grpcio", got, "PERMISSION_DENIED")
    still_there(local)


# ---- paths


def test_path_tricks(guarded):
    reader = TOKENS["read"]
    for path in [
        "/__mockforge/health/../shutdown",
        "/__mockforge/health%2f..%2fshutdown",
        "/__mockforge/health/%2e%2e/shutdown",
        "/__mockforge/health;/../shutdown",
        "//__mockforge/health",
        "/__mockforge//shutdown",
        "/__mockforge/health%00",
        "/__MOCKFORGE/health",
        "/__mockforge/health/",
    ]:
        got = rest(guarded.http, "POST", path, body=b"")
        tried(f"POST {path}", "no token", got, "401 TOKEN_MISSING")
        got = rest(guarded.http, "POST", path, reader, body=b"")
        tried(f"POST {path}", "role read", got, "404 PATH_NOT_FOUND", "405 METHOD_NOT_ALLOWED")
    for path in [
        "/__mockforge/recordings/..%2f..%2f..%2fetc%2fpasswd",
        "/__mockforge/recordings/%2e%2e%2f%2e%2e:export",
        "/__mockforge/recordings/a%00b",
        "/__mockforge/recordings/%252e%252e",
        "/__mockforge/recordings/%c0%ae%c0%ae",
        "/__mockforge/recordings/x:export:stop",
        "/__mockforge/recordings/" + "a" * 8000,
    ]:
        got = rest(guarded.http, "GET", path, reader)
        short = path if len(path) < 80 else path[:40] + "… (8000 letters)"
        tried(f"GET {short}", "role read", got, "404 PATH_NOT_FOUND", "404 RECORDING_NOT_FOUND", "400 BAD_FIELD", "405 METHOD_NOT_ALLOWED")
    got = rest(guarded.http, "POST", "/__mockforge/recordings/x%3Astop", reader, body=b"")
    tried("POST …/recordings/x%3Astop (the verb encoded)", "role read", got, "404 PATH_NOT_FOUND", "405 METHOD_NOT_ALLOWED")
    got = rest(guarded.http, "POST", "/__mockforge/recordings/x:stop", reader, headers=[("X-HTTP-Method-Override", "GET")], body=b"")
    tried("POST …:stop, X-HTTP-Method-Override: GET", "role read", got, "403 ROLE_TOO_LOW")


# ---- too much, too slow


def test_oversized(guarded, stubs):
    admin = TOKENS["admin"]
    megabytes = b" " * ((16 << 20) + 1)
    publish = "/__mockforge/mqtt/publish"
    tried("a body of 16 MiB and a byte", "role admin", rest(guarded.http, "POST", publish, admin, body=megabytes), "413 BODY_TOO_LONG", "closed")
    head = f"POST {publish} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\n"
    got = raw(guarded.http, (head + "Content-Length: 1099511627776\r\n\r\n").encode())
    tried("a body that says it has 1 TiB", "role admin", got, "413 Payload Too Large")
    head = f"POST {publish} HTTP/1.1\r\nHost: localhost\r\n"
    got = raw(guarded.http, (head + "Content-Length: 1099511627776\r\n\r\n").encode())
    tried("a body that says it has 1 TiB", "no token", got, "401 Unauthorized")
    got = raw(guarded.http, (head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET").encode())
    tried("Content-Length beside chunked (smuggling)", "no token", got, "400 Bad Request", "401 Unauthorized")
    got = raw(guarded.http, (head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde").encode())
    tried("two Content-Lengths (smuggling)", "no token", got, "400 Bad Request")
    deep = b'{"topic": "t", "properties": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    tried("JSON a million levels deep", "role admin", rest(guarded.http, "POST", publish, admin, body=deep), "400 BAD_FIELD")
    got = raw(guarded.http, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    tried("a path of 100 kB", "no token", got, "414 URI Too Long", "431 Request Header Fields Too Large", "closed")
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(1000))
    got = raw(guarded.http, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
    tried("1,000 header lines", "no token", got, "431 Request Header Fields Too Large")
    got = raw(guarded.http, b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n")
    tried("a header line of 1 MB", "no token", got, "431 Request Header Fields Too Large", "closed")
    broker = stubs("broker_pb2")
    with grpc.insecure_channel(f"127.0.0.1:{guarded.grpc}") as channel:
        method = stubs("broker_pb2_grpc").BrokerStub(channel).Publish
        message = broker.PublishRequest(topic="t", payload=b"x" * (17 << 20))
        tried("a gRPC message of 17 MiB", "role admin", call(method, message, admin), "OUT_OF_RANGE", "RESOURCE_EXHAUSTED")
    still_there(guarded, TOKENS["read"])


def test_slow(guarded):
    """Each is let go in a second or so, as the limits of this server are."""

    def until_closed(data, drip=None):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", guarded.http), DEADLINE) as connection:
            connection.sendall(data)
            connection.settimeout(0.2)
            got = b""
            while time.monotonic() - began < DEADLINE:
                try:
                    if drip:
                        connection.sendall(drip)
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    got += piece
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                return "held"
        # Frames of HTTP/2 are no answer.
        status = got.split(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ") if got.startswith(b"HTTP/1") else ""
        return f"{status}, closed" if status else "closed"

    tried("a connection that says nothing", "no token", until_closed(b""), "closed")
    tried("half a head", "no token", until_closed(b"GET / HTTP/1.1\r\nHo"), "closed")
    tried("a head that drips (slowloris)", "no token", until_closed(b"GET / HTTP/1.1\r\n", b"x: y\r\n"), "closed")
    tried("an HTTP/2 preface, then nothing", "no token", until_closed(PREFACE), "closed")
    head = f"POST /__mockforge/mqtt/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['admin']}\r\n"
    body = (head + "Content-Length: 1000\r\n\r\n{").encode()
    tried("a body that drips", "role admin", until_closed(body, b" "), "408 Request Timeout, closed")
    still_there(guarded, TOKENS["read"])


def test_too_many_connections():
    with Mockforge(MOCKFORGE_HTTP_LIMITS_CONNECTIONS="40") as server:
        held = [socket.create_connection(("127.0.0.1", server.http), DEADLINE) for _ in range(60)]
        closed = lambda: len(select.select(held, [], [], 0)[0])
        wait_until(lambda: closed() >= 20, "connections to be closed")
        tried("60 connections where 40 are allowed", "no token", f"{closed()} closed at once", "20 closed at once")
        for connection in held:
            connection.close()
        wait_until(lambda: rest(server.http, "GET", "/__mockforge/health") == "200", "the server to be free again")
        still_there(server)


def test_strangers_and_readers_beside_the_rightful():
    """What a flood takes is not what others need."""
    variables = {
        "MOCKFORGE_API_TOKENS": CALLERS,
        "MOCKFORGE_HTTP_LIMITS_CONNECTIONS": "16",
        "MOCKFORGE_HTTP_LIMITS_REQUESTS": "16",
        "MOCKFORGE_HTTP_LIMITS_STREAMING_REQUESTS": "16",
    }
    with Mockforge(**variables) as server:
        ask = lambda role: rest(server.http, "GET", "/__mockforge/mqtt/stats", TOKENS[role])
        head = fields(b"localhost", b"/grpc.health.v1.Health/Watch", [(b"content-type", b"application/grpc")])
        watch = PREFACE + frame(1, 0x4, 1, head) + frame(0, 0x1, 1, b"\0" * 5)
        held = []
        for _ in range(40):
            held.append(socket.create_connection(("127.0.0.1", server.http), DEADLINE))
            held[-1].sendall(watch)
        got = {role: ask(role) for role in TOKENS}
        by = "no token, beside whom admin, control and read ask"
        tried("40 × health's Watch, held, where 16 connections are allowed", by, " ".join(got.values()), "200 200 200")
        for connection in held:
            connection.close()
        held = []
        events = f"GET /__mockforge/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['read']}\r\n\r\n"
        for _ in range(40):
            held.append(socket.create_connection(("127.0.0.1", server.http), DEADLINE))
            held[-1].sendall(events.encode())
        tried("40 × live events, held, where 16 connections are allowed", "role read, beside whom admin asks", ask("admin"), "200")
        for connection in held:
            connection.close()
    with Mockforge(**variables | {"MOCKFORGE_HTTP_LIMITS_CONNECTIONS": "64"}) as server:
        held = []
        for _ in range(20):
            held.append(socket.create_connection(("127.0.0.1", server.http), DEADLINE))
            held[-1].sendall(events.encode())
        statuses = [connection.recv(4096).split(b"\r\n")[0].split()[1].decode() for connection in held]
        assert statuses.count("200") == 8 and statuses.count("429") == 12, statuses
        got = [rest(server.http, "GET", "/__mockforge/mqtt/stats", TOKENS[role]) for role in ("read", "control", "admin")]
        tried("20 × live events, held, where 16 are allowed", "role read, beside whom read, control and admin ask", " ".join(got), "200 200 200")
        got = rest(server.http, "POST", "/__mockforge/shutdown", TOKENS["admin"], body=b"")
        tried("the same, then shut down", "role admin", got, "200")
        for connection in held:
            connection.close()


@pytest.mark.parametrize("port", ["http", "grpc"])
def test_certificates_without_tls_close_nothing(port, tmp_path):
    (tmp_path / "mockforge.yaml").write_text(
        f"{port}: {{host: 0.0.0.0, tls: {{enabled: false, client_auth: true, ca_path: ca.crt}}}}\n"
    )
    code, out, err = run("config", "check", cwd=tmp_path, seconds=DEADLINE)
    got = "refused" if code == 2 and "lets others reach the control plane" in err else f"{code}: {out}{err}"
    tried(f"{port}.host 0.0.0.0, client_auth on, TLS off", "its own operator", got, "refused")


# ---- README's commands


def test_the_readmes_commands_work_as_printed(tmp_path):
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Control: gRPC and REST") :]
    section = section[section.index("### Who may do what") : section.index("## Metrics, traces and logs")]
    blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.S)
    (tmp_path / "mockforge.yaml").write_text(next(block for kind, block in blocks if kind == "yaml"))
    first, second = [block for kind, block in blocks if kind == "sh"]
    certs, serve = first.strip().splitlines()
    path = {"PATH": f"{os.path.dirname(binary())}:{os.environ['PATH']}"}

    def shell(command):
        # As a shell does it that stops at the first command that fails.
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    shell(certs)
    ports = {f"MOCKFORGE_{port}_PORT": "0" for port in ("MQTT", "HTTP", "GRPC")} | {"MOCKFORGE_MQTT_HOST": "127.0.0.1"}
    with Process("bash", "-c", f"exec {serve}", cwd=tmp_path, env={**path, **ports}) as server:
        http_port = server.wait_for(r"(?m)^https\s+https://127\.0\.0\.1:(\d+)")[1]
        grpc_port = server.wait_for(r"(?m)^grpc\s+https://127\.0\.0\.1:(\d+)")[1]
        assert "WARN" not in server.output, server.output
        printed = shell(second.replace(":3000", f":{http_port}").replace(":50051", f":{grpc_port}").replace("curl ", "curl -fsS "))
        assert f"https://127.0.0.1:{http_port}" in printed and "connections" in printed, printed


# ---- HTTP/2 by hand

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name, value):
    """A header without indexing and without Huffman codes [RFC 7541 section 6.2.2]; both below 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def fields(authority, path, extra=()):
    headers = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", authority), *extra]
    return b"".join(literal(name, value) for name, value in headers)


def h2_request(_port, authority, path, extra=()):
    return PREFACE + frame(1, 0x5, 1, fields(authority, path, extra))


def h2_frames(port, data, seconds=5):
    """The frames of an answer until it closes or is silent: (kind, stream, payload)."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
        got = b""
        try:
            connection.sendall(data)
            connection.settimeout(seconds)
            while piece := connection.recv(65536):
                got += piece
                if b"\0\0\0\3" in got or len(got) > 1 << 20:
                    connection.settimeout(0.3)
        except OSError:
            pass
    frames, at = [], 0
    while at + 9 <= len(got):
        length = int.from_bytes(got[at : at + 3], "big")
        frames.append((got[at + 3], int.from_bytes(got[at + 5 : at + 9], "big"), got[at + 9 : at + 9 + length]))
        at += 9 + length
    return frames


def h2_status(port, data):
    for kind, _, payload in h2_frames(port, data, 1):
        if kind == 1:
            # Indexed :status, or a literal of it with three digits.
            known = {0x88: "200", 0x8B: "400", 0x8C: "404"}
            return known.get(payload[0]) or decoded(payload)
        if kind in (3, 7):
            return "reset"
    return "closed"


def decoded(payload):
    """The literal :status that a header block begins with."""
    length = payload[1]
    if length & 0x80:
        bits = "".join(f"{byte:08b}" for byte in payload[2 : 2 + (length & 0x7F)])
        digits, codes = "", {"00000": "0", "00001": "1", "00010": "2", "011001": "3", "011010": "4", "011011": "5"}
        while bits and set(bits) != {"1"}:
            code = next(code for code in codes if bits.startswith(code))
            digits, bits = digits + codes[code], bits[len(code) :]
        return digits
    return payload[2 : 2 + length].decode()


def test_http2_floods(guarded):
    request = fields(b"localhost", b"/__mockforge/health")
    resets = PREFACE + b"".join(
        frame(1, 0x5, stream, request) + frame(3, 0, stream, b"\0\0\0\x08") for stream in range(1, 20001, 2)
    )
    kinds = {kind for kind, _, _ in h2_frames(guarded.http, resets, 2)}
    tried("10,000 streams opened and reset (rapid reset)", "no token", "GOAWAY" if 7 in kinds else "closed", "GOAWAY", "closed")
    block = literal(b"x", b"y" * 100) * 100
    flood = PREFACE + frame(1, 0x1, 1, request) + b"".join(frame(9, 0, 1, block) for _ in range(1000))
    kinds = {kind for kind, _, _ in h2_frames(guarded.http, flood, 2)}
    tried("a head of 1,000 CONTINUATIONs (10 MB)", "no token", "GOAWAY" if 7 in kinds else "closed", "GOAWAY", "closed")
    many = PREFACE + b"".join(
        frame(1, 0x4, stream, fields(b"localhost", b"/grpc.health.v1.Health/Watch", [(b"content-type", b"application/grpc")]))
        for stream in range(1, 401, 2)
    )
    frames = h2_frames(guarded.http, many, 1)
    refused_streams = sum(1 for kind, _, payload in frames if kind == 3 and payload == b"\0\0\0\7")
    tried("200 streams at once where 100 are allowed", "no token", f"{refused_streams} refused", "100 refused")
    pings = PREFACE + frame(6, 0, 0, b"12345678") * 50_000
    h2_frames(guarded.http, pings, 1)
    still_there(guarded, TOKENS["read"])
    ROWS.append(("50,000 PINGs", "no token", "answered, others served"))


# ---- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    openssl, folder = needs("openssl"), tmp_path_factory.mktemp("certificates")

    def make(*arguments):
        made = subprocess.run([openssl, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr

    (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for ca in ["ca", "other-ca"]:
        make("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 30, "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.crt")

    def issue(name, common_name, ca, extensions, days=30):
        make("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        make("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", days, "-extfile", extensions, "-out", f"{name}.crt")

    issue("server", "localhost", "ca", "server.ext")
    issue("ops", "ops", "ca", "client.ext")
    issue("eyes", "eyes", "ca", "client.ext")
    issue("stranger", "stranger", "ca", "client.ext")
    issue("expired", "ops", "ca", "client.ext", days=-1)
    issue("foreign", "ops", "other-ca", "client.ext")
    return folder


@pytest.fixture(scope="module")
def behind_tls(certificates):
    variables = {"MOCKFORGE_HTTP_LIMITS_HEAD_TIMEOUT_SECS": "1"}
    variables["MOCKFORGE_API_TOKENS"] = json.dumps(
        [{"name": name, "role": role, "certificate": name} for name, role in [("ops", "admin"), ("eyes", "read")]]
        + [{"name": "ci", "role": "control", "token": TOKENS["control"]}]
    )
    for port in ["HTTP", "GRPC"]:
        variables |= {
            f"MOCKFORGE_{port}_TLS_ENABLED": "true",
            f"MOCKFORGE_{port}_TLS_CERT_PATH": str(certificates / "server.crt"),
            f"MOCKFORGE_{port}_TLS_KEY_PATH": str(certificates / "server.key"),
            f"MOCKFORGE_{port}_TLS_CA_PATH": str(certificates / "ca.crt"),
            f"MOCKFORGE_{port}_TLS_CLIENT_AUTH": "true",
        }
    with Mockforge(**variables) as server:
        yield server


def context(folder, name=None, version=None):
    made = ssl.create_default_context(cafile=folder / "ca.crt")
    if version:
        made.minimum_version = made.maximum_version = version
    if name:
        made.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return made


def over_tls(folder, server, name, path="/__mockforge/mqtt/stats", method="GET", **options):
    try:
        return rest(server.http, method, path, tls=context(folder, name), **options)
    except (ssl.SSLError, OSError) as error:
        return f"TLS: {getattr(error, 'reason', None) or type(error).__name__}"


def test_tls(behind_tls, certificates):
    got = raw(behind_tls.http, b"GET /__mockforge/info HTTP/1.1\r\nHost: localhost\r\n\r\n")
    tried("plain HTTP to a TLS port", "no certificate", got, "400 Bad Request")
    got = raw(behind_tls.grpc, PREFACE)
    tried("plain HTTP/2 to the TLS port of gRPC", "no certificate", got, "400 Bad Request")
    tried("no bytes to a TLS port", "no certificate", raw(behind_tls.http, b""), "closed")
    tried("a TLS record and no more", "no certificate", raw(behind_tls.http, b"\x16\x03\x01"), "closed")
    for name, what in [(None, "no certificate"), ("expired", "an expired certificate"), ("foreign", "one of another CA")]:
        got = over_tls(certificates, behind_tls, name)
        ROWS.append(("read figures over TLS", what, got))
        assert got.startswith("TLS: ") or got == "closed", got
    for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
        got = rest(behind_tls.http, "GET", "/__mockforge/mqtt/stats", tls=context(certificates, "eyes", version))
        tried(f"read figures over {version.name}", "certificate eyes (read)", got, "200")
    got = over_tls(certificates, behind_tls, "stranger")
    tried("read figures over TLS", "a certificate of our CA that nobody listed", got, "401 TOKEN_MISSING")
    got = over_tls(certificates, behind_tls, "eyes", "/__mockforge/shutdown", "POST", body=b"")
    tried("shut down over TLS", "certificate eyes (read)", got, "403 ROLE_TOO_LOW")
    got = over_tls(certificates, behind_tls, "ops", token="x")
    tried("read figures over TLS", "certificate ops, and a wrong token", got, "401 TOKEN_WRONG")
    got = over_tls(certificates, behind_tls, "stranger", token=TOKENS["control"])
    tried("read figures over TLS", "an unlisted certificate, and a right token", got, "200")
    roots = (certificates / "ca.crt").read_bytes()
    for name, expected in [(None, ["UNAVAILABLE"]), ("foreign", ["UNAVAILABLE"]), ("eyes", ["OK"])]:
        pair = [(certificates / f"{name}{end}").read_bytes() for end in (".key", ".crt")] if name else [None, None]
        credentials = grpc.ssl_channel_credentials(roots, *pair)
        with grpc.secure_channel(f"localhost:{behind_tls.grpc}", credentials) as channel:
            got = call(health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest())
        tried("health over gRPC and TLS", f"certificate {name}" if name else "no certificate", got, *expected)


def test_our_own_commands_speak_tls(behind_tls, certificates):
    def status(*flags, port=behind_tls.grpc, scheme="https://"):
        code, out, err = run("mqtt", "stats", "--server", f"{scheme}localhost:{port}", *flags)
        return code, out + err

    trust = ["--server-cacert", certificates / "ca.crt"]
    own = ["--server-cert", certificates / "eyes.crt", "--server-key", certificates / "eyes.key"]
    for port in [behind_tls.grpc, behind_tls.http]:
        code, text = status(*trust, *own, port=port)
        assert code == 0, text
    code, text = status(*own)
    assert code == 3 and "not trusted" in text, text
    code, text = status(*trust)
    assert code == 3, text
    code, text = status("--server-insecure", *own)
    assert code == 0 and "not verified" in text, text
    stranger = ["--server-cert", certificates / "stranger.crt", "--server-key", certificates / "stranger.key"]
    code, text = status(*trust, *stranger)
    assert code == 3 and "MOCKFORGE_CLIENT_TOKEN" in text, text
    code, text = status(*trust, *stranger, "--token", TOKENS["control"])
    assert code == 0, text
    code, text = status(*trust, *own, scheme="")
    assert code == 3, text

"""A server with a secret in every place that takes one, and everything that comes out of it: none is in there."""

import base64
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from peers import DEADLINE, Mockforge, Mosquitto, free_port, needs, run, wait_until

MARK = "hush7e1d"


def secret(name):
    return f"{name}-{MARK}-{name}"


def spellings():
    """What the mark looks like as it is, in base64 at each of three places, and in hexadecimal."""
    found = {MARK, MARK.encode().hex(), MARK.encode().hex().upper(), " ".join(f"{byte:02x}" for byte in MARK.encode())}
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + MARK.encode()).decode()
        # The letters that depend on the mark alone.
        found.add(whole[(shift * 8 + 5) // 6 : (shift + len(MARK)) * 8 // 6])
    return found


def assert_clean(text, where):
    for spelling in spellings():
        at = text.find(spelling)
        assert at < 0, f"{where}: {text[max(0, at - 200) : at + 60]!r}"


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks, and fails every other."""

    seen = 0

    def do_POST(self):
        Receiver.seen += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if Receiver.seen % 2 else 500)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def settings(webhooks, upstream=""):
    return json.dumps(
        {
            "api_token": secret("admin"),
            "api_tokens": [{"name": "eyes", "role": "read", "token": secret("eyes")}],
            "mqtt": {
                "upstream": upstream,
                "scram_users": f"sam:{secret('scram')}",
                "webhooks": [
                    {
                        "id": "hook",
                        "topic": "t/#",
                        "url": f"http://127.0.0.1:{webhooks}/hook?token={secret('query')}",
                        "headers": {"Authorization": f"Bearer {secret('header')}", "X-Api-Key": secret("key")},
                        "secret": secret("signature"),
                    },
                    {"id": "nowhere", "topic": "t/#", "url": f"http://127.0.0.1:{free_port()}/?api_key={secret('nowhere')}"},
                ],
            },
        }
    )


class Caller:
    """Asks over REST, and keeps every answer."""

    def __init__(self, port):
        self.port, self.answers = port, []

    def ask(self, method, path, body=None, token=None, headers=()):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", None if body is None else body.encode(), method=method
        )
        request.add_header("Authorization", f"Bearer {token or secret('admin')}")
        for name, value in headers:
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                text = answer.read().decode(errors="replace") + str(answer.headers)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace") + str(error.headers)
        self.answers.append((f"{method} {path}", text))
        return text

    def everything(self):
        """All that can be asked for without a parameter, and of what that lists."""
        routes = json.loads(self.ask("GET", "/__mockforge").split("\n]}")[0] + "\n]}")["routes"]
        for route in routes:
            path = route["path"]
            if route["method"] != "GET" or any(word in path for word in ["stream", "events", "watch"]):
                continue
            for known in ["hook", "nowhere", "all", "sam", "mosq"]:
                self.ask("GET", path.replace("{id}", known).replace("{client_id}", known).replace("{scope}", "global"))
                if "{" not in path:
                    break
        for name in ["json", "ndjson", "mcap", "pcapng", "csv"]:
            self.ask("GET", f"/__mockforge/recordings/all:export?format={name}")
        self.ask("GET", "/__mockforge/recordings/all/events?page_size=1000")


def provoke(server, caller):
    """Traffic with passwords in it, and mistakes of every kind."""
    publish, port = needs("mosquitto_pub"), str(server.port)
    caller.ask("POST", "/__mockforge/recordings", json.dumps({"name": "all"}))
    subprocess.run([publish, "-p", port, "-u", "sam", "-P", secret("mqtt"), "-t", "t/1", "-m", "x", "-i", "mosq"], timeout=DEADLINE)
    subprocess.run([publish, "-V", "5", "-p", port, "-u", "eve", "-P", secret("wrong"), "-t", "t/2", "-m", "x"], timeout=DEADLINE)
    subprocess.run([publish, "-p", port, "-t", "t/3", "-m", "x"], timeout=DEADLINE)
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as connection:
        # A CONNECT with a password that breaks off, and one that is malformed.
        password = secret("cut").encode()
        body = b"\0\4MQTT\4\xc2\0\x3c\0\1a\0\3sam" + len(password).to_bytes(2, "big") + password
        connection.sendall(bytes([0x10, len(body) + 9]) + body)
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body.replace(b"MQTT\4", b"MQTT\x63"))
        connection.settimeout(2)
        try:
            connection.recv(100)
        except OSError:
            pass
    caller.ask("GET", "/__mockforge/info", token=secret("guessed"))
    caller.ask("POST", "/__mockforge/shutdown", token=secret("eyes"))
    caller.ask("GET", "/__mockforge/info", headers=[("Host", "evil.example")])
    caller.ask("GET", f"/__mockforge/info?x={'y' * 40000}")
    replay = {"recording": "all", "target": f"mqtt://me:{secret('target')}@127.0.0.1:{free_port()}", "mode": "REPLAY_MODE_PUBLISH"}
    caller.ask("POST", "/__mockforge/replays", json.dumps(replay))
    replay |= {"target": f"mqtt://127.0.0.1:{free_port()}", "username": "me", "password": secret("spec")}
    caller.ask("POST", "/__mockforge/replays", json.dumps(replay))
    webhook = {"id": "late", "url": f"http://127.0.0.1:1/?token={secret('late')}", "topic": "x", "headers": {"Cookie": secret("cookie")}, "secret": secret("late")}
    caller.ask("POST", "/__mockforge/webhooks", json.dumps(webhook))
    caller.ask("POST", "/__mockforge/webhooks/late:test", "{}")
    caller.ask("POST", "/__mockforge/webhooks", json.dumps(webhook | {"topic": "#/x"}))
    caller.ask("POST", "/__mockforge/recordings/all:stop", "{}")


@pytest.mark.parametrize("kind", ["broker", "proxy"])
def test_nothing_that_comes_out_has_a_secret_in_it(kind, receiver, tmp_path):
    with Mosquitto() as mosquitto:
        upstream = f"mqtt://them:{secret('upstream')}@127.0.0.1:{mosquitto.port}" if kind == "proxy" else ""
        file = tmp_path / "mockforge.yaml"
        file.write_text(settings(receiver, upstream))
        with Mockforge("--config", file, MOCKFORGE_LOG_LEVEL="trace") as server:
            caller = Caller(server.http)
            provoke(server, caller)
            hooked = lambda: "500" in caller.ask("GET", "/__mockforge/webhooks/hook/deliveries")
            wait_until(hooked, "a delivery that failed")
            time.sleep(0.2)
            caller.everything()
            # Settings that are refused are told in the log.
            file.write_text(settings(receiver, upstream).replace('"t/#"', '"t/#/x"', 1))
            server.child.send_signal(1)
            server.wait_for("are refused")
            server.end()
            output = server.output
        assert "TRACE" in output or "trace" in output.lower()
        assert len(caller.answers) > 60
        assert_clean(output, "the log")
        for asked, answer in caller.answers:
            if MARK not in asked:
                assert_clean(answer, asked)
        environment = {"MOCKFORGE_API_TOKEN": secret("environment")}
        file.write_text(settings(receiver, upstream))
        for command in [["config", "show"], ["config", "show", "-o", "json"], ["config", "check"]]:
            code, out, err = run(*command, "--config", file, env=environment)
            assert code == 0, err
            assert_clean(out + err, command)


@pytest.mark.parametrize(
    "broken",
    [
        {"api_token": 7571},
        {"api_tokens": MARK},
        {"api_tokens": [MARK]},
        {"api_tokens": [{"name": "a", "role": "read", "token": f"{MARK} {MARK}"}]},
        {"api_tokens": [{"name": "a", "role": "read", "token": [MARK]}]},
        {"mqtt": {"scram_users": MARK}},
        {"mqtt": {"upstream": f"ftp://me:{MARK}@host"}},
        {"mqtt": {"upstream": f"mqtt://me:{MARK}@host:port"}},
        {"mqtt": {"webhooks": [{"topic": "t", "url": f"ftp://me:{MARK}@host"}]}},
        {"mqtt": {"webhooks": [{"topic": "t", "url": f"http://me:{MARK}@ho st"}]}},
        {"mqtt": {"webhooks": [{"topic": "t", "url": "http://h", "headers": {"Authorization": f"{MARK}\n"}}]}},
        {"mqtt": {"webhooks": [{"topic": "t", "url": "http://h", "secret": [MARK]}]}},
    ],
    ids=lambda broken: json.dumps(broken)[:60],
)
def test_settings_that_are_wrong_are_told_without_the_secret(broken, tmp_path):
    file = tmp_path / "mockforge.yaml"
    file.write_text(json.dumps(broken))
    code, out, err = run("config", "check", "--config", file)
    if code == 0:
        code, out, err = run("serve", "--mqtt", "--mqtt-port", 0, "--http-port", 0, "--grpc-port", 0, "--config", file, seconds=20)
    assert code == 2, out + err
    assert_clean(out + err, broken)
    assert "7571" not in out + err

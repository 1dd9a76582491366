"""Waiting for messages over gRPC and with the command line, while clients publish."""

import concurrent.futures
import random
import re
import subprocess
import threading
import time

import grpc
import pytest

from contract import Contract
from pahoclient import V5, Client
from peers import Mockforge, Mosquitto, binary, needs

WAITERS, ROUNDS = 16, 25


@pytest.fixture(scope="module")
def server():
    with Mockforge() as server:
        yield server


@pytest.fixture(scope="module")
def call(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        contract = Contract(channel)
        yield lambda name, request: contract.rpcs[name].grpc(request)


def client(server, name):
    client = Client(server, V5, name)
    client.connect()
    return client


def test_many_wait_while_many_publish_and_none_is_overlooked(server, call):
    publishers = [client(server, f"pub-{number}") for number in range(4)]
    rand = random.Random(11)

    def one(number):
        topic = f"many/{number % WAITERS}/{number}"
        cursor = call("Verification.Count", {})["cursor"]
        publisher, moment = publishers[number % 4], rand.random() / 100
        timer = threading.Timer(moment, lambda: publisher.send(topic, str(number), 1, False))
        timer.start()
        time.sleep(rand.random() / 100)
        # Long enough that only one that was overlooked takes so long.
        request = {"match": {"topic": [topic]}, "since": cursor, "timeout": "60s"}
        began = time.monotonic()
        answer = call("Verification.WaitForMessages", request)
        assert answer["satisfied"] and time.monotonic() - began < 30, answer
        assert answer["messages"][0]["topic"] == topic
        return answer["missed"]

    with concurrent.futures.ThreadPoolExecutor(WAITERS) as pool:
        missed = list(pool.map(one, range(WAITERS * ROUNDS)))
    assert sum(missed) == 0
    counted = call("Verification.Count", {"match": {"topic": ["many/#"]}})
    assert counted["count"] == WAITERS * ROUNDS


def test_commands_wait_verify_and_say_what_came_near(server):
    device = client(server, "dev-1")
    code, out, err = server.ask("messages", "count", "--topic", "cli/#")
    assert (code, out) == (0, "0\n")
    since = re.search(r"--since (\d+)", err)[1]
    waiting = subprocess.Popen(
        [binary(), "messages", "wait", "--topic", "cli/+", "--where", "$.level > 2", "--since", since]
        + ["--timeout", "60s", "--server", f"127.0.0.1:{server.grpc}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    device.publish("cli/1", '{"level":1}', 1)
    device.publish("cli/2", '{"level":3}', 1)
    out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0 and 'cli/2' in out and '{"level":3}' in out, out

    code, out, err = server.ask("messages", "wait", "--topic", "cli/+", "--where", "$.level > 5", "--timeout", "200ms")
    assert (code, out) == (1, "")
    assert "expected at least 1 message, found 0" in err and "$.level is 3, not greater than 5" in err, err
    code, out, _ = server.ask("messages", "verify", "--topic", "cli/#", "--count", "2")
    assert (code, out) == (0, "passed: expected exactly 2 messages, found 2\n")
    code, out, _ = server.ask("messages", "verify", "--topic", "cli/#", "--count", ">2")
    assert (code, out) == (1, "failed: expected at least 3 messages, found 2\n")
    code, _, err = server.ask("messages", "find", "--topic", "a/#/b")
    assert code == 2 and "match.topic[0]" in err, err


def test_values_are_what_rest_says_they_are(server):
    device = client(server, "dev-values")
    device.publish("values/x", '{"id":"42","number":9007199254740993}', 1)

    def near(payload):
        answer = server.rest("/messages:wait", {"match": {"topic": "values/#", "payload": payload}, "timeout": 0})
        return answer["nearest"][0]["differences"] if answer["nearest"] else []

    assert near({"$.id": {"equals": "42"}, "$.number": {"equals": 9007199254740993}}) == []
    assert near({"$.id": {"equals": 42}}) == ['$.id is "42", not 42']
    assert near({"$.number": {"equals": 9007199254740992}}) == ["$.number is 9007199254740993, not 9007199254740992"]
    for value in (42, "", None, "null", {"b": [1, "2"], "a": 2.5}, "42"):
        written = server.rest("/state/global/text", {"value": value}, "PUT")
        assert (written["value"], server.rest("/state/global/text")["value"]) == (value, value)
    assert server.ask("state", "get", "text")[1] == '"42"\n'


def test_what_passes_a_proxy_is_kept_and_its_broker_is_not_reset(server):
    with Mosquitto() as mosquitto, Mockforge("--upstream", mosquitto.url) as proxy:
        device = client(proxy, "dev-1")
        device.publish("a/b", "1", 2)
        device.publish("a/c", "2", 0)
        answer = proxy.rest("/messages:wait", {"match": {"topic": "a/+", "client": "dev-*"}, "count": 2})
        assert [message["topic"] for message in answer["messages"]] == ["a/b", "a/c"], answer
        proxy.rest("/mqtt/publish", {"topic": "a/d", "payload": "3"})
        counted = proxy.rest("/messages:count", {"match": {"origin": "MESSAGE_ORIGIN_API"}})
        assert counted["count"] == 1
        assert proxy.rest("/reset", {})["journal_messages"] == 3
        code, _, err = proxy.ask("reset", "broker")
        assert code == 2 and "behind a proxy" in err, err


def test_a_will_and_a_kept_message_say_what_they_are(server):
    server.rest("/mocks", {"id": "keeper", "topic": "kept", "route": False})
    dying = subprocess.Popen(
        [needs("mosquitto_sub"), "-p", str(server.port), "-i", "dying", "-t", "x", "--will-topic", "gone"]
        + ["--will-payload", "bye"]
    )
    server.wait_for_subscription("x")
    dying.kill()
    dying.wait()
    client(server, "dev-2").publish("kept", "1", 1)
    will = server.rest("/messages:wait", {"match": {"topic": "gone"}})["messages"][0]
    assert (will["origin"], will["client_id"]) == ("MESSAGE_ORIGIN_WILL", "dying")
    kept = server.rest("/messages:find", {"match": {"topic": "kept"}})["messages"][0]
    assert kept["intercepted"] is True and kept["origin"] == "MESSAGE_ORIGIN_CLIENT"


def test_a_wait_outlasts_what_a_connection_may_be_idle():
    with Mockforge(MOCKFORGE_HTTP_LIMITS_IDLE_TIMEOUT_SECS="1") as server:
        began = time.monotonic()
        answer = server.rest("/messages:wait", {"timeout": "4s"})
        assert not answer["satisfied"] and time.monotonic() - began >= 4
        code, _, err = server.ask("messages", "wait", "--timeout", "4s")
        assert code == 1 and "found 0" in err, err

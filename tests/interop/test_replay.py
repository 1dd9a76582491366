"""Replays against mosquitto, seen by an independent subscriber."""

import collections
import json
import threading

import paho.mqtt.client as mqtt
import pytest

from peers import ROOT, Mosquitto, free_port, run, wait_until


COMMANDS = ROOT / "recordings" / "commands.json"


@pytest.fixture(scope="module")
def mosquitto():
    with Mosquitto() as started:
        yield started


def session(clients=4, messages=200, spacing_ms=5):
    """A hand-written session: several clients, some topics of their own and one they share."""
    return {
        "version": 1,
        "messages": [
            {
                "t_ms": number * spacing_ms,
                "client_id": f"c{number % clients}",
                "topic": "shared/topic" if number % 3 == 0 else f"own/{number % clients}",
                "payload": f"{number}",
                "qos": number % 3,
            }
            for number in range(messages)
        ],
    }


class Witness:
    """Subscribes to everything and keeps payloads by topic, in order.

    At QoS 0: a client hands a QoS 2 message out at its PUBREL, behind QoS 1 ones that came after it.
    """

    def __init__(self, port):
        self.topics = collections.defaultdict(list)
        self.count = 0
        ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="witness")
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=0)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._keep
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(20)

    def _keep(self, _client, _data, message):
        self.topics[message.topic].append(message.payload)
        self.count += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("speed", ["0.5", "2.0", "10", "max"])
def test_order_and_payloads_arrive_exactly(mosquitto, tmp_path, speed):
    recorded = session()
    (tmp_path / "s.json").write_text(json.dumps(recorded))
    with Witness(mosquitto.port) as witness:
        code, output, errors = run(
            *["mqtt", "replay", "--input", tmp_path / "s.json", "--speed", speed, "--target", mosquitto.url, "-o", "json"],
        )
        assert code == 0, errors
        wait_until(lambda: witness.count >= len(recorded["messages"]), f"all messages; {witness.count} came")
        expected = collections.defaultdict(list)
        for message in recorded["messages"]:
            expected[message["topic"]].append(message["payload"].encode())
        assert witness.topics == expected
    report = json.loads(output)
    assert report["sent"] == len(recorded["messages"])
    assert report["lateness"]["p99_ms"] >= report["lateness"]["p50_ms"] >= 0


def test_selection_by_topic_and_client(mosquitto, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(session()))
    with Witness(mosquitto.port) as witness:
        code, _, errors = run(
            *["mqtt", "replay", "--input", tmp_path / "s.json", "--speed", "max", "--target", mosquitto.url],
            *["--topic", "own/#", "--client", "c1"],
        )
        assert code == 0, errors
        expected = [m["payload"].encode() for m in session()["messages"] if m["topic"] == "own/1"]
        wait_until(lambda: witness.count >= len(expected), "the selected messages")
        assert dict(witness.topics) == {"own/1": expected}


def test_exit_codes(mosquitto, tmp_path):
    def replay(text, *flags):
        (tmp_path / "s.json").write_text(text)
        return run("mqtt", "replay", "--input", tmp_path / "s.json", *flags)

    whole = json.dumps(session(messages=3))
    code, _, errors = replay(json.dumps({"version": 1, "messages": []}), "--target", mosquitto.url)
    assert code == 4, errors
    code, _, errors = replay(json.dumps({"version": 1, "messages": []}), "--target", mosquitto.url, "--allow-empty")
    assert code == 0, errors
    code, _, errors = replay(whole, "--target", f"mqtt://127.0.0.1:{free_port()}")
    assert code == 3 and "127.0.0.1" in errors, errors
    code, _, errors = replay(whole[:-20], "--target", mosquitto.url)
    assert code == 5 and "line 1" in errors and "s.json" in errors, errors
    code, _, errors = replay('{"a": 1}', "--target", mosquitto.url)
    assert code == 2 and "this is no recording" in errors and "sent" not in errors, errors
    code, _, errors = replay(whole, "--speed", "fast")
    assert code == 2 and "speed" in errors, errors
    code, _, errors = replay(whole, "--no-such-flag")
    assert code == 2, errors
    code, _, errors = replay('{"format": "mockforge.mqtt.session", "version": 99, "events": []}')
    assert code in (2, 5) and "99" in errors, errors


@pytest.mark.parametrize("mode", ["publish", "client", "server"])
def test_a_dry_run_says_what_the_mode_would_do(tmp_path, mode):
    code, output, errors = run("mqtt", "replay", "--input", COMMANDS, "--mode", mode, "--dry-run", "-o", "json", cwd=tmp_path)
    assert code == 0, errors
    plan = json.loads(output)
    counts = {
        "publish": {},
        "client": {"connect": 2, "disconnect": 2, "fin": 2, "publish": 40, "subscribe": 2},
        "server": {"answer": 44, "connect": 2, "delivery": 40, "publish": 40, "subscribe": 2},
    }
    assert plan.get("counts", {}) == counts[mode]
    assert (plan["sent"], plan["connections"]) == (40, 2)

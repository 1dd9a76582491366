"""Recordings played under other names, many times over, and with the times of now."""

import datetime
import json
import threading
import time

import paho.mqtt.client as mqtt
import pytest

from peers import Mockforge, Mosquitto, run, wait_until

BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture
def mosquitto():
    with Mosquitto() as started:
        yield started


class Device:
    def __init__(self, port, name):
        self.heard, ready = [], threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda *_: ready.set()
        self.client.on_message = lambda _c, _d, message: self.heard.append((message.topic, message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(20)

    def subscribe(self, topic):
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe(topic, 1)
        assert done.wait(20)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def recorded(mosquitto, tmp_path):
    """An application and a device, recorded: `record(subscription, payload)` is the file."""

    def record(subscription, payload):
        with Mockforge("--upstream", mosquitto.url, "--record", "pair") as proxy:
            app = Device(proxy.port, "app")
            app.subscribe(subscription)
            device = Device(proxy.port, "dev")
            device.client.publish("up/dev", payload, qos=1).wait_for_publish(20)
            wait_until(lambda: app.heard, "the message")
            device.leave()
            app.leave()
            wait_until(lambda: proxy.rest("/mqtt/stats").get("active_connections", 0) == 0, "both to leave")
            file = tmp_path / "pair.json"
            assert proxy.ask("recordings", "stop", "pair")[0] == 0
            assert proxy.ask("recordings", "export", "pair", "--output", file)[0] == 0
            return file

    return record


def verify(file, broker, *arguments):
    command = ["mqtt", "verify", "--input", file, "--target", broker.url, "--speed", "max", "-o", "json"]
    return run(*command, *arguments)


def test_copies_pass_where_topics_tell_them_apart(mosquitto, recorded):
    file = recorded("up/dev", "x")
    code, output, errors = verify(file, mosquitto, "--multiply", "50", "--verify", "packets")
    assert code == 0, output + errors
    verification = json.loads(output)["verification"]
    assert verification["matched"] == verification["expected"] >= 50 * 4


def test_copies_that_hear_each_other_are_not_compared(mosquitto, recorded):
    file = recorded("up/+", "x")
    code, _, errors = verify(file, mosquitto, "--multiply", "3")
    assert code == 2 and '"up/+" gets the messages on "up/dev" of all copies' in errors.replace('\\"', '"'), errors
    assert verify(file, mosquitto, "--multiply", "3", "--exclude-topic", "up/#", "--allow-empty")[0] == 0
    assert verify(file, mosquitto, "--multiply", "3", "--verify", "none", "--mode", "client")[0] == 0
    assert verify(file, mosquitto)[0] == 0


def test_times_move_to_now_and_come_back_as_expected(mosquitto, recorded):
    zone = datetime.timezone(datetime.timedelta(hours=5.5))
    then = BEGAN + datetime.timedelta(seconds=5)
    iso = then.astimezone(zone).isoformat(timespec="milliseconds")
    said = {"ts": round(then.timestamp() * 1000), "at": {"iso": iso}, "seconds": int(then.timestamp()), "n": 5}
    file = recorded("up/dev", json.dumps(said))
    session = json.loads(file.read_text())
    session["started_at"] = BEGAN.isoformat()
    file.write_text(json.dumps(session))
    witness = Device(mosquitto.port, "witness")
    witness.subscribe("up/#")
    before = time.time()
    paths = ["--shift-time", "$.ts", "--shift-time", "$.at.iso", "--shift-time", "$.seconds", "--shift-time", "$.none"]
    code, output, errors = verify(file, mosquitto, *paths)
    after = time.time()
    assert code == 0, output + errors
    wait_until(lambda: witness.heard, "the message")
    witness.leave()
    heard = json.loads(witness.heard[0][1])
    assert heard["n"] == 5 and isinstance(heard["ts"], int) and isinstance(heard["seconds"], int)
    moved = heard["ts"] / 1000
    assert before + 4.9 < moved < after + 5.1
    again = datetime.datetime.fromisoformat(heard["at"]["iso"])
    assert again.utcoffset() == datetime.timedelta(hours=5.5) and abs(again.timestamp() - moved) < 0.01
    assert abs(heard["seconds"] - moved) <= 1


def test_a_recording_without_a_time_of_its_own_cannot_be_moved(mosquitto, tmp_path):
    file = tmp_path / "plain.json"
    file.write_text(json.dumps({"version": 1, "messages": [{"t_ms": 0, "topic": "t", "payload": "{}"}]}))
    command = ["mqtt", "replay", "--input", file, "--target", mosquitto.url]
    code, _, errors = run(*command, "--shift-time", "$.ts")
    assert code == 2 and "does not say" in errors, errors
    code, _, errors = run(*command, "--shift-time", "ts")
    assert code == 2 and "shift_times[0]" in errors, errors

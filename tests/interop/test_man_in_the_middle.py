"""The proxy between paho clients and mosquitto: what goes in comes out, and all of it is recorded."""

import base64
import json
import os
import random
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import Mockforge, Mosquitto, free_port, run, wait_until
from wiretap import Wiretap, packets

CLIENTS = 20
# Longer by hand: MITM_SECONDS=30.
SECONDS = float(os.environ.get("MITM_SECONDS", "4"))


class Device:
    """A client that publishes at all three QoS levels and hears what others say."""

    def __init__(self, number, port):
        version = mqtt.MQTTv5 if number % 2 else mqtt.MQTTv311
        self.number = number
        self.name = f"device-{number}"
        self.heard = 0
        self.published = []
        self.subscribed = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=version)
        self.client.on_connect = lambda client, *_: client.subscribe([(f"from/{(number + 1) % CLIENTS}/#", 2), ("all", 1)])
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._count
        self.client.will_set(f"will/{self.name}", b"\x00\xffgone", qos=1)
        self.client.connect("127.0.0.1", port, keepalive=5)
        self.client.loop_start()

    def _count(self, *_):
        self.heard += 1

    def publish(self, dice):
        properties = None
        if self.number % 2:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [("n", str(len(self.published))), ("n", "again")]
            properties.ContentType = "application/octet-stream"
            properties.CorrelationData = dice.randbytes(4)
        payload = dice.choice([json.dumps({"v": dice.random()}).encode(), dice.randbytes(dice.randrange(300)), b""])
        topic = dice.choice([f"from/{self.number}/a", f"from/{self.number}/b/ü", "all"])
        self.published.append((topic, self.client.publish(topic, payload, qos=dice.randrange(3), properties=properties)))

    def finish(self):
        self.client.disconnect()
        self.client.loop_stop()


def settle(devices):
    """Waits until every message was acknowledged and heard by all who subscribed to it: nothing is on its way."""
    for device in devices:
        for _, info in device.published:
            info.wait_for_publish(20)
    topics = [topic for device in devices for topic, _ in device.published]
    for device in devices:
        own = f"from/{(device.number + 1) % CLIENTS}/"
        expected = sum(topic == "all" or topic.startswith(own) for topic in topics)
        wait_until(lambda: device.heard >= expected, f"{device.name} to hear {expected}, it heard {device.heard}")
        assert device.heard == expected
    # The last PUBCOMPs have no answer to wait for; a PINGRESP behind them has.
    time.sleep(0.5)


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """Twenty clients through wiretap, proxy, wiretap to mosquitto; recorded and exported."""
    folder = tmp_path_factory.mktemp("mitm")
    dice = random.Random(7)
    with Mosquitto() as mosquitto, Wiretap(mosquitto.port) as inner:
        with Mockforge("--upstream", f"mqtt://127.0.0.1:{inner.port}", "--record", "mitm") as proxy:
            with Wiretap(proxy.port) as outer:
                devices = [Device(number, outer.port) for number in range(CLIENTS)]
                for device in devices:
                    assert device.subscribed.wait(20), f"{device.name} was not subscribed"
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    for device in devices:
                        device.publish(dice)
                    time.sleep(0.01)
                settle(devices)
                for device in devices:
                    device.finish()
                wait_until(lambda: len(proxy.rest("/mqtt/clients").get("clients", [])) == 0, "all clients to be gone")
                recording = next(r for r in proxy.rest("/recordings")["recordings"] if r["name"] == "mitm")
                proxy.rest(f"/recordings/{recording['id']}:stop", {}, "POST")
                first = folder / "first.json"
                code, _, errors = proxy.ask("recordings", "export", "mitm", "--output", first)
                assert code == 0, errors
                yield folder, outer.by_client(), inner.by_client(), sum(len(d.published) for d in devices)


def test_the_proxy_passes_on_the_bytes_it_received(captured):
    _, outer, inner, published = captured
    assert len(outer) == CLIENTS and outer.keys() == inner.keys()
    for name in outer:
        assert outer[name]["c2s"] == inner[name]["c2s"], name
        assert outer[name]["s2c"] == inner[name]["s2c"], name
    passed = sum(packet[0] >> 4 == 3 for kept in outer.values() for packet in packets(kept["c2s"]))
    assert passed == published > 100


def test_nothing_is_missing_in_the_recording(captured):
    folder, outer, _, _ = captured
    session = json.loads((folder / "first.json").read_text())
    assert session["format"] == "mockforge.mqtt.session" and session["version"] == 1 and session["gaps"] == 0
    names = {entry["conn"]: entry["client_id"] for entry in session["connections"]}
    assert sorted(names.values()) == sorted(outer)
    recorded = {name: {"c2s": [], "s2c": []} for name in outer}
    for event in session["events"]:
        if event.get("kind", "PACKET") == "PACKET":
            recorded[names[event["conn"]]][event["dir"]].append(event)
    for name, kept in outer.items():
        for direction in ("c2s", "s2c"):
            wire = packets(kept[direction])
            events = recorded[name][direction]
            assert len(events) == len(wire), (name, direction)
            for event, packet in zip(events, wire):
                check_event(event, packet)
    sequence = [event["seq"] for event in session["events"]]
    assert sequence == list(range(1, len(sequence) + 1))
    times = [event["t_ms"] for event in session["events"]]
    assert times == sorted(times)


TYPES = (
    "CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP "
    "DISCONNECT AUTH"
).split()


def check_event(event, packet):
    """The readable fields and the raw bytes of an event say what was on the wire."""
    assert event["type"] == TYPES[(packet[0] >> 4) - 1]
    if "raw" in event:
        assert base64.b64decode(event["raw"]) == packet
    if event["type"] != "PUBLISH":
        return
    assert event.get("qos", 0) == packet[0] >> 1 & 3
    at = 2 if packet[1] < 0x80 else 3
    length = int.from_bytes(packet[at : at + 2], "big")
    assert event["topic"].encode() == packet[at + 2 : at + 2 + length]
    encoding = event.get("payload_encoding", "utf8")
    if encoding == "base64":
        payload = base64.b64decode(event["payload"])
    elif encoding == "json":
        payload = None  # compared as a value: the exact text is what re-export proves
        assert json.loads(packet[packet.rindex(b"{") :] if b"{" in packet else packet[-1:]) is not None
    else:
        payload = event["payload"].encode()
    if payload:
        assert packet.endswith(payload)


def test_export_import_export_is_the_same_file(captured):
    folder, *_ = captured
    store = {"MOCKFORGE_STORE_PATH": str(folder / "other-store"), "MOCKFORGE_GRPC_PORT": str(free_port())}
    code, _, errors = run("recordings", "import", folder / "first.json", cwd=folder, env=store)
    assert code == 0, errors
    code, _, errors = run("recordings", "export", "mitm", "--output", folder / "second.json", cwd=folder, env=store)
    assert code == 0, errors
    assert (folder / "second.json").read_bytes() == (folder / "first.json").read_bytes()


def test_an_unreachable_upstream_is_told_to_the_client():
    with Mockforge("--upstream", f"mqtt://127.0.0.1:{free_port()}") as proxy:
        for version, refusal in ((mqtt.MQTTv311, "Server unavailable"), (mqtt.MQTTv5, "Server unavailable")):
            codes = []
            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="lost", protocol=version)
            client.on_connect = lambda _client, _data, _flags, reason, _properties: codes.append(str(reason))
            client.connect("127.0.0.1", proxy.port)
            wait_until(lambda: client.loop(timeout=0.1) and codes, "a CONNACK")
            assert codes[0].lower() == refusal.lower()
        proxy.wait_for(r"(?i)upstream.*refused|refused.*upstream")

"""Exported pcapng as tshark and tcpdump see it, and captures of tcpdump beside the proxy's recording of the same run."""

import base64
import collections
import json
import os
import re
import signal
import subprocess
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import REQUIRED, Mockforge, Mosquitto, Process, free_port, needs, run, wait_until

TYPES = (
    "CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP "
    "DISCONNECT AUTH"
).split()


class Tcpdump(Process):
    """A capture of one port of the loopback device; frames are in the file as soon as they are seen."""

    def __init__(self, port, path):
        if os.geteuid() != 0 and not REQUIRED:
            pytest.skip("only root may capture")
        self.path = path
        super().__init__(
            *[needs("tcpdump"), "-i", "lo", "-n", "-s", "0", "-B", "32768", "--immediate-mode", "-U"],
            *["-w", path, f"tcp port {port}"],
        )
        self.wait_for("listening on lo")

    def finish(self):
        """Ends once nothing more is written; fails if the kernel had no room for a frame."""
        sizes = collections.deque([-1], maxlen=2)

        def is_quiet():
            time.sleep(0.1)
            sizes.append(os.path.getsize(self.path))
            return sizes[0] == sizes[-1]

        wait_until(is_quiet, "the capture to be written")
        assert self.end(signal.SIGINT) == 0
        assert "\n0 packets dropped by kernel" in self.output, self.output


class Device:
    def __init__(self, name, version, port, messages=()):
        self.messages = list(messages)
        self.connected, self.subscribed, self.unsubscribed = (threading.Event() for _ in range(3))
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
        self.client.username_pw_set("user", "secret")
        self.client.on_connect = lambda *_: self.connected.set()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_unsubscribe = lambda *_: self.unsubscribed.set()
        self.client.will_set(f"will/{name}", b"\x00gone", qos=1)
        self.client.connect("127.0.0.1", port, keepalive=1)
        self.client.loop_start()
        assert self.connected.wait(20)

    def finish(self):
        self.client.disconnect()
        self.client.loop_stop()


def drive(port):
    """Clients of both versions that do everything there is; the last of them breaks off."""
    devices = [Device("old", mqtt.MQTTv311, port), Device("new", mqtt.MQTTv5, port)]
    for device in devices:
        device.client.subscribe([("t/#", 2), ("u/+", 1)])
        assert device.subscribed.wait(20)
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("a", "1"), ("a", "2")]
    properties.TopicAlias = 3
    for round_ in range(30):
        for device, extra in zip(devices, (None, properties)):
            for qos in range(3):
                payload = bytes([round_]) * (round_ * 400)
                device.client.publish(f"t/{qos}/ü", payload, qos=qos, retain=round_ == 0, properties=extra).wait_for_publish(20)
    # Larger than any segment, also on the loopback device.
    for device in devices:
        device.client.publish("t/large", bytes(range(256)) * 1000, qos=1).wait_for_publish(20)
    for device in devices:
        device.client.unsubscribe("u/+")
        assert device.unsubscribed.wait(20)
    time.sleep(2.5)  # keep alive is 1 s: there are pings
    for device in devices:
        device.finish()
    broken = Device("broken", mqtt.MQTTv5, port)
    broken.client.socket().shutdown(2)
    wait_until(lambda: not broken.client.is_connected(), "the end of a connection")
    broken.client.loop_stop()


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """The proxy's recording as JSON and pcapng, and what tcpdump saw on either side of the proxy."""
    folder = tmp_path_factory.mktemp("captures")
    with Mosquitto() as mosquitto, Mockforge("--upstream", mosquitto.url, "--record", "run") as proxy:
        with Tcpdump(proxy.port, folder / "outer.pcap") as outer, Tcpdump(mosquitto.port, folder / "inner.pcap") as inner:
            drive(proxy.port)
            wait_until(lambda: not proxy.rest("/mqtt/clients").get("clients", []), "all clients to be gone")
            proxy.rest(f"/recordings/{proxy.rest('/recordings')['recordings'][0]['id']}:stop", {}, "POST")
            outer.finish()
            inner.finish()
        for name in ("run.json", "run.pcapng"):
            code, _, errors = proxy.ask("recordings", "export", "run", "--output", folder / name)
            assert code == 0, errors
        yield folder, proxy.port, mosquitto.port


def events(path):
    return json.loads(path.read_text())["events"]


def convert(folder, source, target, *flags):
    """Imports a file into a store of its own and exports it again; the notes of both."""
    store = {"MOCKFORGE_STORE_PATH": str(folder / f"store-{target}"), "MOCKFORGE_GRPC_PORT": str(free_port())}
    code, _, notes = run("recordings", "import", folder / source, "--name", "imported", *flags, cwd=folder, env=store)
    assert code == 0, notes
    code, _, more = run("recordings", "export", "imported", "--output", folder / target, cwd=folder, env=store)
    assert code == 0, more
    return notes + more


def tshark(path, *arguments):
    done = subprocess.run(
        [needs("tshark"), "-r", path, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )
    return done.stdout


FIELDS = {
    "types": "mqtt.msgtype",
    "topics": "mqtt.topic",
    "identifiers": "mqtt.msgid",
    "qos": "mqtt.qos",
    "client": "mqtt.clientid",
    "version": "mqtt.ver",
}


def dissected(path):
    """What tshark's MQTT dissector says: by TCP stream, a dictionary a frame."""
    names = ["tcp.stream", "tcp.dstport", *FIELDS.values()]
    text = tshark(path, "-Y", "mqtt", "-T", "json", "-x", *[part for name in names for part in ("-e", name)])
    streams = collections.defaultdict(list)
    for frame in json.loads(text):
        layers = frame["_source"]["layers"]
        found = {name: layers.get(field, []) for name, field in FIELDS.items()}
        found["to_server"] = layers["tcp.dstport"][0] == "1883"
        streams[int(layers["tcp.stream"][0])].append(found)
    return streams


def test_tshark_agrees_about_every_packet(captured):
    folder, *_ = captured
    recorded = collections.defaultdict(list)
    for event in events(folder / "run.json"):
        if "type" in event:
            recorded[event["conn"]].append(event)
    streams = dissected(folder / "run.pcapng")
    assert len(streams) == len(recorded) == 3
    versions, packets = set(), 0
    # Streams are numbered as they begin, connections too.
    for (_, frames), (_, packets_of) in zip(sorted(streams.items()), sorted(recorded.items())):
        assert [TYPES[int(frame["types"][0]) - 1] for frame in frames] == [event["type"] for event in packets_of]
        for frame, event in zip(frames, packets_of):
            assert len(frame["types"]) == 1
            assert frame["to_server"] == (event["dir"] == "c2s"), event
            if event["type"] == "CONNECT":
                assert frame["client"] == [event["client_id"]]
                assert int(frame["version"][0], 0) == event["protocol"]
                versions.add(event["protocol"])
            if event["type"] == "PUBLISH":
                # A dissector that sees an alias without a topic shows none.
                assert frame["topics"] in ([event["topic"]], [""], []), event
                assert int(frame["qos"][0]) == event["qos"]
            elif event["type"] in ("SUBSCRIBE", "UNSUBSCRIBE"):
                filters = [entry["filter"] if isinstance(entry, dict) else entry for entry in event["filters"]]
                assert frame["topics"] == filters
            if "packet_id" in event:
                assert [int(identifier) for identifier in frame["identifiers"]] == [event["packet_id"]], event
            packets += 1
    assert versions == {4, 5} and packets > 500


def test_nothing_is_wrong_with_the_tcp_that_was_made_up(captured):
    folder, *_ = captured
    wrong = "_ws.malformed or tcp.analysis.flags or tcp.checksum.status == 0 or ip.checksum.status == 0 or _ws.expert.severity >= 6291456"
    assert tshark(folder / "run.pcapng", "-Y", wrong) == ""
    checked = tshark(folder / "run.pcapng", "-Y", "tcp.checksum.status == 1 and ip.checksum.status == 1").splitlines()
    assert len(checked) > 500
    ends = tshark(folder / "run.pcapng", "-Y", "tcp.flags.syn == 1 and tcp.flags.ack == 0").splitlines()
    assert len(ends) == 3
    assert len(tshark(folder / "run.pcapng", "-Y", "tcp.flags.fin == 1").splitlines()) == 6
    # What tcpdump reads, and how it ends, is up to other eyes.
    read = subprocess.run(
        [needs("tcpdump"), "-nvv", "-r", folder / "run.pcapng"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "incorrect" not in read.stdout and "bad cksum" not in read.stdout
    assert read.stdout.count("(correct)") == len(checked)


def told(path):
    """What a recording says of each client: its packets by direction, and how its connection ended."""
    recorded = json.loads(path.read_text())
    found = {}
    for connection in recorded["connections"]:
        if "client_id" in connection:
            found[connection["conn"]] = {"name": connection["client_id"], "c2s": [], "s2c": []}
    for event in recorded["events"]:
        kept = found.get(event.get("conn"))
        if kept is None or event.get("kind") == "OPEN":
            continue
        if event.get("kind") == "CLOSE":
            kept["close"] = event["cause"]
            continue
        assert event.get("kind", "PACKET") == "PACKET", event
        packet = {key: value for key, value in event.items() if key not in ("seq", "t_ms", "conn")}
        kept[event["dir"]].append(packet)
    return {kept.pop("name"): kept for kept in found.values()}


@pytest.mark.parametrize("side", ["outer", "inner"])
def test_a_capture_of_tcpdump_is_what_the_proxy_recorded(captured, side):
    """Paho to the proxy, and the proxy to mosquitto."""
    folder, *_ = captured
    # Neither port is 1883: the connections are known by their CONNECTs.
    convert(folder, f"{side}.pcap", f"{side}.json")
    recorded, imported = told(folder / "run.json"), told(folder / f"{side}.json")
    assert sorted(imported) == sorted(recorded) == ["broken", "new", "old"]
    for name in recorded:
        assert imported[name]["c2s"] == recorded[name]["c2s"], name
        assert imported[name]["s2c"] == recorded[name]["s2c"], name
        if side == "outer":
            assert imported[name]["close"] == recorded[name]["close"], name
    times = [event["t_ms"] for event in events(folder / f"{side}.json")]
    assert times == sorted(times)
    passwords = [b"secret", base64.b64encode(b"secret")]
    assert not any(password in (folder / f"{side}.json").read_bytes() for password in passwords)


def test_a_capture_without_its_beginning_is_followed_on_a_port_that_is_named(captured):
    folder, port, _ = captured
    source = folder / "outer.pcap"
    subscribes = tshark(
        source, "-d", f"tcp.port=={port},mqtt", "-Y", "mqtt.msgtype == 8", "-T", "fields", "-e", "frame.number"
    )
    first = subscribes.split()[0]
    subprocess.run([needs("editcap"), "-F", "pcap", "-r", source, folder / "late.pcap", f"{first}-100000"], check=True)
    notes = convert(folder, "late.pcap", "late.json", "--port", port)
    assert re.search(r"2 connections were open before the capture began", notes), notes
    late = json.loads((folder / "late.json").read_text())
    opened = {event["conn"]: event.get("protocol") for event in late["events"] if event.get("already_open")}
    assert sorted(opened.values()) == [4, 5]
    messages = collections.Counter(key(event) for event in late["events"] if event.get("type") == "PUBLISH")
    recorded = events(folder / "run.json")
    assert messages == collections.Counter(key(event) for event in recorded if event.get("type") == "PUBLISH")
    # What began later began as always.
    assert told(folder / "late.json")["broken"] == told(folder / "run.json")["broken"]


def test_missing_frames_are_gaps_and_every_other_packet_is_there(captured):
    folder, *_ = captured
    source = folder / "outer.pcap"
    data = tshark(source, "-Y", "tcp.len > 0", "-T", "fields", "-e", "frame.number").split()
    # Not the CONNECTs.
    lost = data[40::25]
    subprocess.run([needs("editcap"), "-F", "pcap", source, folder / "lossy.pcap", *lost], check=True)
    notes = convert(folder, "lossy.pcap", "lossy.json")
    assert re.search(r"\d+ holes in the TCP streams", notes), notes
    lossy = events(folder / "lossy.json")
    kinds = collections.Counter(event.get("kind", "PACKET") for event in lossy)
    assert kinds["GAP"] >= len(lost) - 2
    whole = collections.Counter(key(event) for event in events(folder / "run.json") if "type" in event)
    found = collections.Counter(key(event) for event in lossy if "type" in event)
    assert not found - whole
    assert found.total() > whole.total() * 0.8


def key(event):
    return json.dumps({name: value for name, value in event.items() if name not in ("seq", "t_ms", "conn")}, sort_keys=True)


def test_pcapng_from_tshark_and_ours_come_back_the_same(captured):
    folder, *_ = captured
    subprocess.run([needs("tshark"), "-r", folder / "outer.pcap", "-F", "pcapng", "-w", folder / "outer.pcapng"], check=True)
    for name in ("outer.pcap", "outer.pcapng"):
        convert(folder, name, f"{name}.json")
    assert events(folder / "outer.pcap.json") == events(folder / "outer.pcapng.json")
    convert(folder, "run.pcapng", "run-again.json")
    assert events(folder / "run-again.json") == events(folder / "run.json")

"""MCAP files of recordings, read by the public Python reader, and back."""

import json
import threading

import paho.mqtt.client as mqtt
import pytest
from mcap.reader import NonSeekingReader, make_reader
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import Mockforge, wait_until

PAYLOADS = [b'{"value": 23.5}', b'{"value":23.5}', b"on", b"\xff\x00", b"", b"x" * 60_000]


def converse(port, protocol):
    """A client that publishes each payload at each QoS and receives it again."""
    received, subscribed = threading.Semaphore(0), threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"client-{protocol}", protocol=protocol)
    client.on_connect = lambda *_: client.subscribe("plant/#", qos=2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda *_: received.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(20)
    properties = None
    if protocol == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("k", "v")
        properties.CorrelationData = b"\x00\xff"
    for qos in (0, 1, 2):
        for number, payload in enumerate(PAYLOADS):
            client.publish(f"plant/{number}", payload, qos=qos, properties=properties)
            assert received.acquire(timeout=20), f"message {number} of QoS {qos}"
    client.disconnect()
    client.loop_stop()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A server with a recording of both versions, its MCAP file and its events as JSON has them."""
    folder = tmp_path_factory.mktemp("mcap")
    with Mockforge("--record", "session") as server:
        for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
            converse(server.port, protocol)
        wait_until(lambda: not server.rest("/mqtt/clients").get("clients"), "the clients to be gone")
        recording = server.rest("/recordings/session:stop", {}, "POST")
        events = export(server, "session", folder / "session.json")
        code, _, errors = server.ask("recordings", "export", "session", "--output", folder / "session.mcap")
        assert code == 0, errors
        yield server, recording, events, folder / "session.mcap"


def export(server, name, file):
    code, _, errors = server.ask("recordings", "export", name, "--output", file)
    assert code == 0, errors
    return json.loads(file.read_text())["events"]


def test_the_public_reader_finds_every_event(recorded):
    _server, recording, events, file = recorded
    with file.open("rb") as opened:
        reader = make_reader(opened, validate_crcs=True)
        messages = list(reader.iter_messages())
        assert [json.loads(message.data) for _, _, message in messages] == events
        assert [message.sequence for _, _, message in messages] == [event["seq"] for event in events]
        assert {(schema.name, schema.encoding) for schema, _, _ in messages} == {("mockforge.mqtt.Event", "jsonschema")}
        statistics = reader.get_summary().statistics
        assert statistics.message_count == len(events) == recording["events"]
        (head,) = reader.iter_metadata()
        assert (head.name, head.metadata["id"]) == ("mockforge.mqtt.session", recording["id"])
        assert head.metadata["state"] == "complete"


def test_the_public_reader_finds_a_topic_by_its_channel(recorded):
    _server, _recording, events, file = recorded
    with file.open("rb") as opened:
        reader = make_reader(opened, validate_crcs=True)
        topics = {channel.topic for channel in reader.get_summary().channels.values()}
        plant = {f"{direction}/plant/{number}" for direction in ("c2s", "s2c") for number in range(len(PAYLOADS))}
        assert topics == plant | {"packets", "events"}
        found = [json.loads(message.data) for _, _, message in reader.iter_messages(topics=["c2s/plant/1"])]
    sent = [event for event in events if event.get("topic") == "plant/1" and event["dir"] == "c2s"]
    assert found == sent and len(sent) == 2 * 3
    assert all(event["payload"] == {"value": 23.5} for event in found)


def test_a_reader_that_cannot_seek_reads_the_same(recorded):
    _server, _recording, events, file = recorded
    with file.open("rb") as opened:
        messages = NonSeekingReader(opened, validate_crcs=True).iter_messages(log_time_order=False)
        assert [json.loads(message.data) for _, _, message in messages] == events


def test_an_mcap_file_comes_back_as_the_same_recording(recorded, tmp_path):
    server, recording, events, file = recorded
    code, output, errors = server.ask("recordings", "import", file, "--name", "again", "-o", "json")
    assert code == 0, errors
    assert export(server, "again", tmp_path / "again.json") == events
    assert server.rest("/recordings/again")["sha256"] == recording["sha256"]


def test_a_file_that_is_cut_off_is_refused_or_taken_as_far_as_it_is_whole(recorded, tmp_path):
    server, _recording, events, file = recorded
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[:-1000])
    code, _, errors = server.ask("recordings", "import", cut, "--name", "cut")
    assert code == 5 and "byte " in errors, errors
    code, _, errors = server.ask("recordings", "import", cut, "--name", "cut", "--recover")
    assert code == 0 and "byte " in errors, errors
    kept = export(server, "cut", tmp_path / "cut.json")
    assert kept == events[: len(kept)]

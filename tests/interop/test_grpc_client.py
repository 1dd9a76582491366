"""A gRPC client that isn't Rust drives a whole scenario, from stubs made of the proto in this tree."""

import importlib
import json
import queue
import subprocess
import sys
import threading

import grpc
import paho.mqtt.client as mqtt
import pytest
from google.protobuf import duration_pb2, empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool

from peers import DEADLINE, ROOT, Mockforge, Mosquitto, needs, wait_until

SERVICES = ["Admin", "Broker", "Recordings", "Replays"]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """Modules generated from proto/ by grpc_tools."""
    folder = tmp_path_factory.mktemp("stubs")
    files = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto/mockforge").rglob("*.proto"))
    made = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}"]
        + [f"--grpc_python_out={folder}", *map(str, files)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    sys.path.insert(0, str(folder))

    class Stubs:
        def __getattr__(self, name):
            return importlib.import_module(f"mockforge.mqtt.v1.{name}")

    yield Stubs()
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def scene():
    with Mosquitto() as mosquitto, Mockforge("--upstream", mosquitto.url) as proxy:
        with grpc.insecure_channel(f"127.0.0.1:{proxy.grpc}") as channel:
            yield mosquitto, proxy, channel


def traffic(port, messages):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="python-device")
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(20)
    for number in range(messages):
        client.publish(f"t/{number % 2}", str(number), qos=1).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def test_record_watch_stop_export_import_replay(stubs, scene):
    mosquitto, proxy, channel = scene
    recordings = stubs.recordings_pb2_grpc.RecordingsStub(channel)
    replays = stubs.replays_pb2_grpc.ReplaysStub(channel)
    admin = stubs.admin_pb2_grpc.AdminStub(channel)
    recordings_pb, replays_pb, admin_pb = stubs.recordings_pb2, stubs.replays_pb2, stubs.admin_pb2

    info = admin.GetServerInfo(admin_pb.GetServerInfoRequest(), timeout=DEADLINE)
    assert info.mode == admin_pb.SERVER_MODE_PROXY and info.upstream == mosquitto.url

    started = recordings.StartRecording(recordings_pb.StartRecordingRequest(name="from-python"), timeout=DEADLINE)
    assert started.state == recordings_pb.RECORDING_STATE_RECORDING

    seen, tailed = [], []
    watching = admin.WatchEvents(admin_pb.WatchEventsRequest(types=[stubs.message_pb2.PACKET_TYPE_PUBLISH]))
    tailing = recordings.TailEvents(recordings_pb.TailEventsRequest(id=started.id))
    threads = [
        threading.Thread(target=drain, args=(watching, lambda event: seen.append(event.packet.topic)), daemon=True),
        threading.Thread(target=drain, args=(tailing, tailed.append), daemon=True),
    ]
    for stream in (watching, tailing):
        stream.initial_metadata()  # the server has taken the call: nothing from here on is missed
    for thread in threads:
        thread.start()
    traffic(proxy.port, 20)
    wait_until(lambda: seen.count("t/0") >= 10 and seen.count("t/1") >= 10, f"twenty events, got {len(seen)}")
    watching.cancel()

    stopped = recordings.StopRecording(recordings_pb.StopRecordingRequest(id=started.id), timeout=DEADLINE)
    assert stopped.state == recordings_pb.RECORDING_STATE_COMPLETE and stopped.gaps == 0
    assert stopped.packets >= 42  # CONNECT, CONNACK, 20 PUBLISH and their PUBACKs, perhaps a DISCONNECT
    for thread in threads:
        thread.join(DEADLINE)
    begun = started.events  # what the wall clock said
    assert len(tailed) == stopped.events - begun, "the tail saw what was recorded, and ended with it"

    exported = b"".join(
        piece.data for piece in recordings.ExportRecording(recordings_pb.ExportRecordingRequest(id="from-python"))
    )
    assert sum(event.get("type") == "PUBLISH" for event in json.loads(exported)["events"]) == 20

    def pieces():
        for at in range(0, len(exported), 1000):
            piece = recordings_pb.ImportRecordingRequest(name="again")
            piece.file.data = exported[at : at + 1000]
            yield piece

    imported = recordings.ImportRecording(pieces(), timeout=DEADLINE)
    assert imported.name == "again" and imported.events == stopped.events and imported.sha256 == stopped.sha256

    heard = []
    witness = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="witness")
    subscribed = threading.Event()
    witness.on_connect = lambda client, *_: client.subscribe("t/#", 1)
    witness.on_subscribe = lambda *_: subscribed.set()
    witness.on_message = lambda _c, _d, message: heard.append(message.payload)
    witness.connect("127.0.0.1", mosquitto.port)
    witness.loop_start()
    assert subscribed.wait(20)
    spec = replays_pb.ReplaySpec(recording="again", target=mosquitto.url, speed=2.0)
    created = replays.CreateReplay(replays_pb.CreateReplayRequest(spec=spec), timeout=DEADLINE)
    last = None
    for last in replays.WatchReplay(replays_pb.WatchReplayRequest(id=created.id), timeout=60):
        pass
    assert last.state == replays_pb.REPLAY_STATE_COMPLETED, last
    assert last.verdict == replays_pb.REPLAY_VERDICT_PASSED and last.exit_code == 0
    assert last.report.sent == 20 and last.report.acked == 20 and last.report.speed == 2.0
    wait_until(lambda: len(heard) == 20, f"twenty messages, got {len(heard)}")
    assert heard == [str(number).encode() for number in range(20)]
    witness.disconnect()
    witness.loop_stop()

    listed = recordings.ListRecordings(recordings_pb.ListRecordingsRequest(), timeout=DEADLINE)
    assert {r.name for r in listed.recordings} == {"from-python", "again"}
    recordings.DeleteRecording(recordings_pb.DeleteRecordingRequest(id="again"), timeout=DEADLINE)
    with pytest.raises(grpc.RpcError) as missing:
        recordings.GetRecording(recordings_pb.GetRecordingRequest(id="again"), timeout=DEADLINE)
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND


def drain(stream, take):
    try:
        for event in stream:
            take(event)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error


def test_health_is_answered_for_the_server_and_each_service(scene):
    _, _, channel = scene
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", *(f"mockforge.mqtt.v1.{name}" for name in SERVICES)]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, service


def test_health_of_an_unknown_service_is_watched_until_the_server_stops():
    known, unknown = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    with Mockforge() as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=DEADLINE)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "nobody")]
        assert [next(watch).status for watch in watches] == [known, unknown]
        server.child.terminate()
        told = [[answer.status for answer in watch] for watch in watches]
        assert told == [[health_pb2.HealthCheckResponse.NOT_SERVING], []]
        assert [watch.code() for watch in watches] == [grpc.StatusCode.OK] * 2


def test_whoever_subscribes_over_the_api_looks_at_messages_and_is_no_client(stubs, tmp_path):
    """Also where clients have hardly a queue, chaos loses all that is sent, and no connection is left."""
    settings = tmp_path / "mockforge.yaml"
    settings.write_text("mqtt: {max_connections: 1, limits: {queue_messages: 5}, sys_interval_secs: 0}\n")
    count, size = 3000, 8000
    with Mockforge("--config", str(settings)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            broker = stubs.broker_pb2_grpc.BrokerStub(channel)
            rule = {"id": "deaf", "match": {"direction": "s2c", "types": "PUBLISH"}, "actions": ["drop"]}
            server.rest("/chaos/rules", rule, "POST")
            server.rest("/mqtt/publish", {"topic": "t/kept", "payload": "kept", "retain": True}, "POST")
            request = stubs.broker_pb2.SubscribeRequest(filter=["t/#"], qos=1)
            streams = [broker.Subscribe(request, timeout=DEADLINE) for _ in range(4)]
            for stream in streams:
                first = next(stream).message
                assert (first.topic, first.payload, first.retain) == ("t/kept", b"kept", True)
            assert server.rest("/mqtt/clients")["clients"] == []
            assert server.rest("/mqtt/subscriptions")["subscriptions"] == []

            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="device")
            client.max_inflight_messages_set(200)
            client.connect("127.0.0.1", server.port)
            client.loop_start()
            for number in range(count):
                last = client.publish("t/x", f"{number:{size}}", qos=1)
            last.wait_for_publish(DEADLINE)
            client.publish("t/end", "end", qos=1).wait_for_publish(DEADLINE)
            client.disconnect()
            client.loop_stop()
            for stream in streams:
                # What was sent and not read yet is read first; nothing is missing that is not said to be.
                got, missed = [], 0
                while len(got) + missed < count + 1:
                    event = next(stream)
                    if event.HasField("gap"):
                        missed += event.gap.missed
                    else:
                        got.append(event.message)
                numbers = [int(message.payload) for message in got if message.topic == "t/x"]
                assert numbers == sorted(numbers) and len(got) + missed == count + 1
                assert {message.qos for message in got} == {1}
                stream.cancel()


def test_reflection_describes_the_contract(scene):
    _, _, channel = scene
    described = ProtoReflectionDescriptorDatabase(channel)
    assert {f"mockforge.mqtt.v1.{name}" for name in SERVICES} <= set(described.get_services())
    service = DescriptorPool(described).FindServiceByName("mockforge.mqtt.v1.Recordings")
    assert "StartRecording" in service.methods_by_name


def test_grpc_is_answered_on_the_http_port_too(stubs, scene):
    _, proxy, _ = scene
    with grpc.insecure_channel(f"127.0.0.1:{proxy.http}") as channel:
        admin = stubs.admin_pb2_grpc.AdminStub(channel)
        assert admin.GetServerInfo(stubs.admin_pb2.GetServerInfoRequest(), timeout=DEADLINE).pid == proxy.child.pid


def test_bad_input_names_the_field(stubs, scene):
    _, _, channel = scene
    broker = stubs.broker_pb2_grpc.BrokerStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        broker.Publish(stubs.broker_pb2.PublishRequest(topic="a/#", payload=b"x"), timeout=DEADLINE)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "topic" in refused.value.details()


def curl(*arguments):
    done = subprocess.run([needs("curl"), "-sS", *arguments], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guides_three_curl_calls():
    with Mockforge() as broker:
        base = f"http://localhost:{broker.http}/__mockforge/mqtt"
        heard = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="curl-listener")
        client.on_connect = lambda c, *_: c.subscribe("sensors/#", 1)
        client.on_message = lambda _c, _d, message: heard.append((message.topic, message.payload, message.qos))
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        broker.wait_for_subscription("sensors/#")
        body = '{\n    "topic": "sensors/device1/temp",\n    "payload": {"value": 25.5},\n    "qos": 1,\n    "retain": false\n  }'
        published = json.loads(curl("-X", "POST", f"{base}/publish", "-H", "Content-Type: application/json", "-d", body))
        assert published["receivers"] == 1
        wait_until(lambda: heard, "the message")
        assert heard == [("sensors/device1/temp", b'{"value":25.5}', 1)]
        [subscription] = json.loads(curl(f"{base}/subscriptions"))["subscriptions"]
        assert subscription["filter"] == "sensors/#" and subscription["client_id"] == "curl-listener"
        stats = json.loads(curl(f"{base}/stats"))
        assert stats["active_connections"] == 1 and stats["subscriptions_active"] == 1
        client.disconnect()
        client.loop_stop()


class Driver:
    """Drives a replay over one stream: commands by name, and what came back."""

    def __init__(self, stubs, channel, first):
        self.pb = stubs.replays_pb2
        self.commands = queue.Queue()
        self.sent = 0
        self.answers, self.changes, self.ended = {}, [], None
        self.send(**first)
        replays = stubs.replays_pb2_grpc.ReplaysStub(channel)
        self.stream = replays.ControlReplay(iter(self.commands.get, None), timeout=60)

    def send(self, **command):
        self.sent += 1
        command = {name: empty_pb2.Empty() if value is None else value for name, value in command.items()}
        self.commands.put(self.pb.ControlReplayRequest(command_id=self.sent, **command))
        return self.sent

    def hear(self, until):
        while not until():
            response = next(self.stream)
            kind = response.WhichOneof("event")
            event = getattr(response, kind)
            if kind in ("acknowledged", "refused"):
                assert event.command_id not in self.answers, "answered twice"
                self.answers[event.command_id] = event
            elif kind == "changed":
                self.changes.append(event)
            else:
                self.ended = event

    def ask(self, **command):
        number = self.send(**command)
        self.hear(lambda: number in self.answers)
        return self.answers[number]


def test_a_replay_is_driven_both_ways(stubs, scene, tmp_path):
    mosquitto, proxy, channel = scene
    session = {"version": 1, "messages": [{"t_ms": 60_000 * n, "topic": "t", "payload": str(n)} for n in range(20)]}
    (tmp_path / "slow.json").write_text(json.dumps(session))
    assert proxy.ask("recordings", "import", tmp_path / "slow.json", "--name", "slow")[0] == 0
    pb = stubs.replays_pb2
    spec = pb.ReplaySpec(recording="slow", target=mosquitto.url, start_paused=True)
    driver = Driver(stubs, channel, {"create": spec})

    def stands_at(sent, paused):
        changes = driver.changes
        driver.hear(lambda: changes and changes[-1].progress.sent == sent and changes[-1].progress.paused == paused)

    stands_at(0, True)
    assert driver.answers[1].DESCRIPTOR.name == "ReplayCommandAcknowledged"
    driver.ask(step=None)
    stands_at(1, True)
    driver.ask(burst=3)
    stands_at(4, True)
    refused = driver.ask(set_speed=5000.0)
    assert (refused.reason, refused.code) == ("BAD_FIELD", grpc.StatusCode.INVALID_ARGUMENT.value[0]), refused
    assert "0.001 to 1000" in refused.message
    assert driver.ask(burst=0).reason == "BAD_FIELD"
    assert driver.ask(attach="x").reason == "BAD_FIELD"
    assert driver.ask().reason == "BAD_FIELD"
    assert driver.ask(seek=duration_pb2.Duration(seconds=20 * 60)).reason == "BAD_FIELD"
    # Another one may do so at the same time, and sees the same.
    other = Driver(stubs, channel, {"attach": driver.changes[-1].id})
    other.ask(set_speed=0.0)
    other.ask(resume=None)
    for one in (driver, other):
        one.hear(lambda: one.ended)
        assert one.ended.verdict == pb.REPLAY_VERDICT_PASSED and one.ended.report.sent == 20, one.ended
        assert next(one.stream, None) is None
    late = Driver(stubs, channel, {"attach": driver.ended.id})
    late.hear(lambda: late.ended)

    for first, code in [
        ({"attach": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"pause": None}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"create": pb.ReplaySpec(recording="slow", listen="127.0.0.1:0")}, grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as refused:
            next(Driver(stubs, channel, first).stream)
        assert refused.value.code() == code


def test_a_driven_replay_is_cancelled_and_one_as_the_server_cannot_seek(stubs, scene, tmp_path):
    _, proxy, channel = scene
    session = {"version": 1, "messages": [{"t_ms": 0, "topic": "t", "payload": "x"}]}
    (tmp_path / "short.json").write_text(json.dumps(session))
    assert proxy.ask("recordings", "import", tmp_path / "short.json", "--name", "short")[0] == 0
    pb = stubs.replays_pb2
    driver = Driver(stubs, channel, {"create": pb.ReplaySpec(recording="short", mode=pb.REPLAY_MODE_SERVER)})
    refused = driver.ask(seek=duration_pb2.Duration())
    assert (refused.reason, refused.code) == ("WRONG_MODE", grpc.StatusCode.FAILED_PRECONDITION.value[0])
    driver.ask(cancel=None)
    driver.hear(lambda: driver.ended)
    assert driver.ended.verdict == pb.REPLAY_VERDICT_CANCELLED

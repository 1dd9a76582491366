"""Replays as the clients, at targets that do not do as the recorded broker did."""

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import threading

import pytest

import rawmqtt
from peers import ROOT, Mockforge, Mosquitto, Process, accepts, free_port, needs, run, wait_until
from rawmqtt import CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBLISH, SUBACK, SUBSCRIBE, V5, framed
from rawmqtt import PUBCOMP, PUBREC, PUBREL

ACCEPTED = b"\x00\x00\x00"


class Recording:
    """A recording as it grows, a millisecond an event."""

    def __init__(self):
        self.events, self.connections, self.step = [], [], 0

    def add(self, number, **what):
        self.step += 1
        self.events.append({"seq": self.step, "t_ms": self.step, "conn": number, **what})

    def packet(self, number, direction, name, raw):
        self.add(number, dir=direction, type=name, raw=base64.b64encode(raw).decode())

    def connects(self, number, client_id, reason=0, **options):
        self.connections.append({"conn": number, "client_id": client_id, "protocol": 5, "opened_ms": self.step})
        self.add(number, kind="OPEN", transport="tcp")
        self.packet(number, "c2s", "CONNECT", rawmqtt.connect(client_id, version=V5, **options))
        self.packet(number, "s2c", "CONNACK", framed(CONNACK << 4, bytes([0, reason, 0])))

    def publishes(self, number, topic, payload=b"", qos=0, identifier=0):
        raw = rawmqtt.publish(topic, payload, qos, identifier, version=V5)
        self.packet(number, "c2s", "PUBLISH", raw)
        if qos:
            self.packet(number, "s2c", "PUBACK", rawmqtt.acknowledge(PUBACK, identifier))

    def acknowledges(self, number, direction, kind, identifier):
        names = {PUBREC: "PUBREC", PUBREL: "PUBREL", PUBCOMP: "PUBCOMP", PUBACK: "PUBACK"}
        self.packet(number, direction, names[kind], rawmqtt.acknowledge(kind, identifier))

    def subscribes(self, number, topic_filter, reason=0):
        self.packet(number, "c2s", "SUBSCRIBE", rawmqtt.subscribe(topic_filter, qos=1, version=V5))
        self.packet(number, "s2c", "SUBACK", framed(SUBACK << 4, b"\x00\x01\x00" + bytes([reason])))

    def delivers(self, number, topic, payload=b""):
        self.packet(number, "s2c", "PUBLISH", rawmqtt.publish(topic, payload, version=V5))

    def ends(self, number, how="client_fin"):
        self.connection(number).update(closed_ms=self.step, close=how)
        self.add(number, kind="CLOSE", cause=how)

    def connection(self, number):
        return next(one for one in self.connections if one["conn"] == number)

    def write(self, folder):
        file = folder / "session.json"
        session = {"format": "mockforge.mqtt.session", "version": 1, "started_at": "2026-11-26T12:00:00Z", "gaps": 0}
        file.write_text(json.dumps({**session, "connections": self.connections, "events": self.events}))
        return file


class Server:
    """Listens, and does with each client what `behave` says, which is told (first bytes sent, socket)."""

    def __init__(self, behave):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.behave, self.heard = behave, bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client:
            self.behave(self, client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def packets(client):
    """What a client sends, packet by packet, to its end."""
    read = client.makefile("rb")
    while first := read.read(1):
        length, shift = 0, 0
        while True:
            byte = read.read(1)[0]
            length, shift = length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        yield first[0] >> 4, first[0] & 0x0F, read.read(length)


def answering(*, connack=lambda body: 0, puback=0, suback=0, pings=True, until=None):
    """A broker that answers as it is told and forwards nothing; `until` is a packet type that it closes on."""

    def behave(server, client):
        version = V5
        for kind, flags, body in packets(client):
            if kind == until:
                return
            if kind == CONNECT:
                reason, version = connack(body), body[6]
                client.sendall(framed(CONNACK << 4, bytes([0, reason]) + (b"\x00" if version == V5 else b"")))
                if reason:
                    return
            elif kind == SUBSCRIBE:
                client.sendall(framed(SUBACK << 4, body[:2] + b"\x00" + bytes([suback])))
            elif kind == PUBLISH and flags & 6 and puback is not None:
                at = 2 + int.from_bytes(body[:2], "big")
                client.sendall(framed(PUBACK << 4, body[at : at + 2] + bytes([puback, 0])))
            elif kind == PINGREQ and pings:
                client.sendall(framed(PINGRESP << 4, b""))
            elif kind == DISCONNECT:
                return
            if kind == PUBLISH:
                server.heard += body

    return behave


def replay(target, file, *arguments, speed="max"):
    command = ["mqtt", "replay", "--input", file, "--mode", "client", "--target", target, "--speed", speed]
    code, output, errors = run(*command, "-o", "json", *arguments)
    return code, json.loads(output) if output else {}, errors


@pytest.fixture
def device(tmp_path):
    """A client that publishes once and leaves."""
    recording = Recording()
    recording.connects(1, "dev")
    recording.publishes(1, "up/dev", b"one", qos=1, identifier=1)
    recording.ends(1)
    return recording.write(tmp_path)


def test_a_target_that_refuses_everybody_is_exit_code_3(device):
    with Server(answering(connack=lambda _: 0x87)) as server:
        code, report, errors = replay(server.url, device)
    assert code == 3 and "refused the connection: not authorized (0x87)" in errors.lower() + str(report).lower()


def test_a_client_that_was_refused_then_is_refused_again(tmp_path):
    recording = Recording()
    recording.connects(1, "guest", reason=0x87)
    recording.ends(1, "server_fin")
    recording.connects(2, "dev")
    recording.publishes(2, "up/dev", qos=1, identifier=1)
    recording.ends(2)
    file = recording.write(tmp_path)
    with Server(answering(connack=lambda body: 0x87 if b"guest" in body else 0)) as server:
        assert replay(server.url, file)[0] == 0
    with Server(answering(connack=lambda body: 0x87)) as server:
        assert replay(server.url, file)[0] == 3


def test_a_refused_message_is_a_failure_unless_it_was_refused_then(device, tmp_path):
    with Server(answering(puback=0x87)) as server:
        code, report, _ = replay(server.url, device)
        assert code == 1 and "1 message was refused: not authorized (0x87)" in str(report["errors"]).lower(), report
        recording = Recording()
        recording.connects(1, "dev")
        recording.packet(1, "c2s", "PUBLISH", rawmqtt.publish("up", b"x", 1, 1, version=V5))
        recording.packet(1, "s2c", "PUBACK", framed(PUBACK << 4, b"\x00\x01\x87\x00"))
        recording.ends(1)
        assert replay(server.url, recording.write(tmp_path))[0] == 0


def test_a_refused_subscription_is_a_failure(tmp_path):
    recording = Recording()
    recording.connects(1, "app")
    recording.subscribes(1, "up/#")
    recording.ends(1)
    file = recording.write(tmp_path)
    with Server(answering(suback=0x87)) as server:
        code, report, errors = replay(server.url, file)
    assert code == 1 and "a subscription was refused" in str(report["errors"]), report
    with Server(answering()) as server:
        assert replay(server.url, file)[0] == 0


def test_a_connection_that_the_target_ends_is_a_failure(tmp_path):
    recording = Recording()
    recording.connects(1, "dev")
    recording.publishes(1, "up/dev", b"one")
    recording.step += 300
    recording.ends(1)
    file = recording.write(tmp_path)
    with Server(answering(until=PUBLISH)) as server:
        code, report, _ = replay(server.url, file, speed="1")
    assert code == 1 and report["errors"], report
    recording.events[-1]["cause"] = "server_fin"
    recording.connections[0]["close"] = "server_fin"
    with Server(answering(until=PUBLISH)) as server:
        code, report, _ = replay(server.url, recording.write(tmp_path))
    assert code == 0, report


def test_a_target_that_ends_the_connection_behind_the_last_message_is_noticed(tmp_path):
    """The recording stopped while the client was connected; without waiting, all is sent before the target has said a word."""
    recording = Recording()
    recording.connects(1, "dev")
    for _ in range(3):
        recording.publishes(1, "up/dev", b"one")
    file = recording.write(tmp_path)
    with Server(answering(until=PUBLISH)) as server:
        code, report, _ = replay(server.url, file)
    assert code == 1 and "closed the connection" in str(report["errors"]), report


def test_of_messages_written_by_hand_every_acknowledgement_is_awaited(tmp_path):
    file = tmp_path / "session.json"
    file.write_text(json.dumps({"version": 1, "messages": [{"t_ms": 0, "topic": "a", "payload": "on", "qos": 1}]}))
    with Server(answering(puback=None)) as server:
        code, report, _ = replay(server.url, file)
    assert code == 1 and report["unacked"] == 1, report


def test_a_message_that_is_never_acknowledged_ends_the_replay_all_the_same(device):
    with Server(answering(puback=None)) as server:
        code, report, _ = replay(server.url, device)
    assert code == 1 and "was not acknowledged within 10s" in str(report["errors"]), report


@pytest.mark.parametrize("how", ["client_fin", "client_rst"])
def test_what_was_sent_before_an_end_arrives(tmp_path, how):
    recording = Recording()
    recording.connects(1, "dev")
    for count in range(64):
        recording.publishes(1, f"up/{count}", bytes([count]) * 100_000)
    recording.ends(1, how)
    file = recording.write(tmp_path)
    with Server(answering()) as server:
        code, report, _ = replay(server.url, file)
        assert code == 0, report
        wait_until(lambda: len(server.heard) > 64 * 100_000, "all that was sent")


def test_bytes_that_nobody_takes_do_not_count_as_sent(tmp_path):
    recording = Recording()
    recording.connects(1, "dev")
    for _ in range(100):
        recording.publishes(1, "up", bytes(100_000))
    recording.ends(1)

    def deaf(server, client):
        next(packets(client))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(framed(CONNACK << 4, ACCEPTED))
        client.recv(100_000, socket.MSG_WAITALL)

    with Server(deaf) as server:
        code, report, _ = replay(server.url, recording.write(tmp_path))
    assert code == 1 and report["sent"] < 100 and "connection had ended" in str(report["errors"]), report


class Plain(Process):
    """A mosquitto that lets nobody in without a password, or everybody, with its own defaults: a Receive Maximum of 20."""

    def __init__(self, folder, allows_anonymous=True):
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {'true' if allows_anonymous else 'false'}\n"
        )
        super().__init__(needs("mosquitto"), "-c", config)
        wait_until(lambda: accepts(self.port), "mosquitto to listen")


def test_credentials_that_a_recording_does_not_hold_are_missed_at_once(device, tmp_path):
    with Plain(tmp_path, allows_anonymous=False) as broker:
        code, _, errors = replay(f"mqtt://127.0.0.1:{broker.port}", device, speed="0.001")
    assert code == 3 and "refused the connection" in errors


def test_more_messages_of_qos_2_than_the_target_takes_at_a_time(tmp_path):
    """Recorded: all PUBLISHes, then all PUBRECs, then all PUBRELs."""
    recording = Recording()
    recording.connects(1, "dev")
    everyone = range(1, 101)
    for identifier in everyone:
        recording.packet(1, "c2s", "PUBLISH", rawmqtt.publish("up", b"x", 2, identifier, version=V5))
    for direction, kind in [("s2c", PUBREC), ("c2s", PUBREL), ("s2c", PUBCOMP)]:
        for identifier in everyone:
            recording.acknowledges(1, direction, kind, identifier)
    recording.ends(1)
    with Plain(tmp_path) as broker:
        for speed in ("1", "max"):
            code, report, errors = replay(f"mqtt://127.0.0.1:{broker.port}", recording.write(tmp_path), speed=speed)
            assert code == 0 and report["acked"] == 100, (report, errors)
            assert report["span"]["actual_ms"] < 5000, report


def test_clients_that_use_one_topic_at_qos_2_do_not_wait_for_each_other(tmp_path):
    recording = Recording()
    recording.connects(1, "a")
    recording.connects(2, "b")
    recording.packet(1, "c2s", "PUBLISH", rawmqtt.publish("t", b"1", 2, 1, version=V5))
    recording.acknowledges(1, "s2c", PUBREC, 1)
    recording.packet(2, "c2s", "PUBLISH", rawmqtt.publish("t", b"2", 1, 1, version=V5))
    recording.acknowledges(2, "s2c", PUBACK, 1)
    recording.packet(1, "c2s", "PUBLISH", rawmqtt.publish("t", b"3", 1, 2, version=V5))
    recording.acknowledges(1, "s2c", PUBACK, 2)
    recording.acknowledges(1, "c2s", PUBREL, 1)
    recording.acknowledges(1, "s2c", PUBCOMP, 1)
    recording.ends(1)
    recording.ends(2)
    with Plain(tmp_path) as broker:
        code, report, errors = replay(f"mqtt://127.0.0.1:{broker.port}", recording.write(tmp_path))
    assert code == 0 and report["acked"] == 3 and report["span"]["actual_ms"] < 5000, (report, errors)


def test_a_target_that_answers_no_ping_ends_a_replay_all_the_same(tmp_path):
    recording = Recording()
    recording.connects(1, "dev")
    recording.publishes(1, "up/dev", b"one")
    file = recording.write(tmp_path)
    with Server(answering(pings=False)) as server:
        code, report, errors = replay(server.url, file)
    assert code == 1 and "no PINGRESP within 10s" in str(report["errors"]), (report, errors)


def test_clients_that_were_connected_before_are_missed_if_they_are_refused(tmp_path):
    recording = Recording()
    recording.add(1, kind="OPEN", transport="tcp", already_open=True, client_id="dev", protocol=5)
    recording.connections.append({"conn": 1, "client_id": "dev", "protocol": 5, "opened_ms": 0})
    for _ in range(10):
        recording.publishes(1, "up/dev", b"x")
    file = recording.write(tmp_path)
    with Server(answering(connack=lambda _: 0x87)) as server:
        assert replay(server.url, file)[0] == 3
    with Server(answering()) as server:
        code, report, errors = replay(server.url, file)
        assert code == 0 and report["sent"] == 10, (report, errors)


@pytest.mark.parametrize("peer", [Mosquitto, Mockforge])
def test_what_stood_before_the_recording_stands_again(peer, tmp_path):
    """Recorded by our own broker while one subscriber is connected, and another away with its session kept."""
    file = tmp_path / "session.json"
    with Mockforge() as broker:
        asyncio.run(recorded_in_the_middle(broker, file))
    session = json.loads(file.read_text())
    assert sum(event.get("kind") == "STATE" for event in session["events"]) == 3
    with peer() as target:
        arguments = ["--verify", "packets", "--settle", "500ms"]
        code, report, errors = replay(target.url, file, *arguments)
        assert code == 0, (report, errors)
        assert report["verification"]["matched"] >= 4, report


async def recorded_in_the_middle(broker, file):
    app = await rawmqtt.Client.connected(broker.port, "app", V5)
    app.send(rawmqtt.subscribe("up/#", qos=1, version=V5))
    await app.hear(SUBACK)
    away = await rawmqtt.Client.connected(broker.port, "away", V5, clean=False)
    away.send(rawmqtt.subscribe("up/#", qos=1, version=V5))
    await away.hear(SUBACK)
    away.send(rawmqtt.GOODBYE)
    await away.ended()
    dev = await rawmqtt.Client.connected(broker.port, "dev", V5)
    dev.send(rawmqtt.publish("state/dev", b"on", 1, 1, V5, retain=True))
    await dev.hear(PUBACK)
    await asyncio.to_thread(broker.rest, "/recordings", {"name": "middle"}, "POST")
    dev.send(rawmqtt.publish("up/dev", b"1", 1, 2, V5))
    await dev.hear(PUBACK)
    await app.hear(PUBLISH)
    late = await rawmqtt.Client.connected(broker.port, "late", V5)
    late.send(rawmqtt.subscribe("state/#", qos=1, version=V5))
    await late.hear(PUBLISH)
    late.send(rawmqtt.GOODBYE)
    back = await rawmqtt.Client.connected(broker.port, "away", V5, clean=False)
    assert (await back.hear(PUBLISH)).payload == b"1"
    await asyncio.sleep(0.1)
    await asyncio.to_thread(broker.rest, "/recordings/middle:stop", {}, "POST")
    code, _, errors = await asyncio.to_thread(broker.ask, "recordings", "export", "middle", "--output", file)
    assert code == 0, errors


def test_seeking_brings_about_what_stands_there(tmp_path):
    """Paused at once, so that what comes is what is sought; at 3 s three gateways are connected and their status is retained."""
    with Mockforge() as server, Mosquitto() as target:
        code, _, errors = server.ask("recordings", "import", ROOT / "recordings" / "reconnects.json", "--name", "r")
        assert code == 0, errors
        watch = Process(needs("mosquitto_sub"), "-p", target.port, "-t", "#", "-F", "%t %p")
        with watch:
            wait_until(lambda: probed(target, watch), "the watcher to subscribe")
            spec = {"recording": "r", "target": target.url, "mode": "client", "start_paused": True}
            replay = server.rest("/replays", spec, "POST")["id"]
            server.rest(f"/replays/{replay}:seek", {"position": "3s"}, "POST")
            watch.wait_for("(?s)status/gateway-0 online.*status/gateway-1 online.*status/gateway-2 online")
            assert "/up" not in watch.output, "nothing is played where it is paused"
            server.rest(f"/replays/{replay}:setSpeed", {"speed": 0}, "POST")
            server.rest(f"/replays/{replay}:resume", {}, "POST")
            watch.wait_for("status/gateway-0 offline")
            wait_until(lambda: "report" in server.rest(f"/replays/{replay}"), "the end")
            assert server.rest(f"/replays/{replay}")["verdict"].endswith("PASSED")
            assert "set 11" not in watch.output and "set 14" in watch.output


def probed(broker, watch):
    """Whether a message comes back, so that whoever watches has subscribed."""
    subprocess.run([needs("mosquitto_pub"), "-p", str(broker.port), "-t", "probe", "-m", "x"], check=True, timeout=20)
    return "probe x" in watch.output

"""MQTT over WebSocket: MQTT.js and paho through the broker and the proxy, and frames written by hand."""

import base64
import os
import socket
import struct
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from peers import DEADLINE, Mockforge, Mosquitto, run, wait_until
from test_mqttjs import IN_BOTH_VERSIONS, IN_MQTT_5, node  # noqa: F401 (a fixture)

WEB_SOCKET = {"MOCKFORGE_MQTT_WEBSOCKET_ENABLED": "true", "MOCKFORGE_MQTT_WEBSOCKET_PORT": "0"}


def port_of(server, scheme="ws"):
    return int(server.wait_for(rf"(?m)^{scheme}\s+{scheme}://127\.0\.0\.1:(\d+)")[1])


@pytest.fixture(scope="module")
def broker():
    settings = {"MAX_PACKET_SIZE": str(2 << 20), "SYS_INTERVAL_SECS": "1", "SCRAM_USERS": "alice:secret"}
    with Mockforge(**WEB_SOCKET, **{f"MOCKFORGE_MQTT_{name}": value for name, value in settings.items()}) as started:
        yield started


@pytest.fixture(scope="module")
def proxy():
    with Mosquitto() as upstream, Mockforge("--upstream", upstream.url, **WEB_SOCKET) as started:
        yield started


@pytest.mark.parametrize(
    "scenario,version",
    [(scenario, version) for scenario in IN_BOTH_VERSIONS for version in (4, 5)] + [(name, 5) for name in IN_MQTT_5],
)
def test_each_feature_of_mqttjs(broker, node, scenario, version):  # noqa: F811
    script = Path(__file__).with_name("mqttjs_features.js")
    arguments = [port_of(broker), version, scenario, "ws"]
    command = [node, script, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


class Paho:
    """A paho client over WebSocket that keeps what it hears."""

    def __init__(self, port, name, version=paho.MQTTv5):
        self.heard = []
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, transport="websockets"
        )
        self.client.on_message = lambda _client, _user, message: self.heard.append((message.topic, message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        wait_until(self.client.is_connected, "CONNACK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
@pytest.mark.parametrize("way", ["broker", "proxy"])
def test_paho_hears_what_it_sends(way, version, request):
    server = request.getfixturevalue(way)
    topic = f"paho/{way}/{version}"
    payloads = [os.urandom(size) for size in (0, 1, 125, 126, 5000, 60_000)]
    with Paho(port_of(server), topic, version) as both:
        both.client.subscribe(topic, 2)
        server.wait_for_subscription(topic)
        for payload in payloads:
            both.client.publish(topic, payload, qos=2)
        wait_until(lambda: len(both.heard) == len(payloads), "all messages")
    assert both.heard == [(topic, payload) for payload in payloads]


def test_a_recording_says_that_a_client_came_over_websocket_and_can_be_replayed_there(proxy, tmp_path):
    recording = proxy.rest("/recordings", {"name": "browsers"})
    with Paho(port_of(proxy), "browser") as client:
        client.client.subscribe("browser/#", 1)
        proxy.wait_for_subscription("browser/#")
        for number in range(20):
            client.client.publish("browser/page", f"{number}", qos=1)
        wait_until(lambda: len(client.heard) == 20, "all messages")
    proxy.rest(f"/recordings/{recording['id']}:stop", {})
    events = proxy.rest(f"/recordings/{recording['id']}/events?page_size=20")["events"]
    opened = [event["opened"] for event in events if "opened" in event]
    assert [event["transport"] for event in opened] == ["ws"], events
    session = tmp_path / "session.json"
    code, _, problem = proxy.ask("recordings", "export", "browsers", "--output", session)
    assert code == 0, problem
    with Mockforge(**WEB_SOCKET) as target:
        url = f"ws://127.0.0.1:{port_of(target)}/any/path"
        replay = run("mqtt", "replay", "--input", session, "--target", url, "--speed", "max", "--verify", "payload")
    assert replay[0] == 0, replay


def test_a_proxy_reaches_an_upstream_over_websocket():
    with Mockforge(**WEB_SOCKET) as upstream:
        with Mockforge("--upstream", f"ws://127.0.0.1:{port_of(upstream)}", **WEB_SOCKET) as between:
            with Paho(port_of(between), "far") as client:
                client.client.subscribe("far/#", 2)
                upstream.wait_for_subscription("far/#")
                client.client.publish("far/away", b"x" * 50_000, qos=2)
                wait_until(lambda: client.heard == [("far/away", b"x" * 50_000)], "the message")


class Raw:
    """A socket with WebSocket frames written by hand."""

    def __init__(self, port, fields="Sec-WebSocket-Protocol: mqtt\r\n", path="/mqtt"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n".encode()
        )
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            assert byte, self.head
            self.head += byte

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @property
    def status(self):
        return int(self.head.split()[1])

    def rest(self):
        """All that comes until the server closes."""
        all_of_it = b""
        try:
            while part := self.socket.recv(4096):
                all_of_it += part
        except ConnectionResetError:
            pass
        return all_of_it

    def send(self, opcode, payload, is_last=True):
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([(0x80 if is_last else 0) | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        else:
            head += bytes([0x80 | 126]) + struct.pack("!H", size)
        self.socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def receive(self):
        """The opcode and the payload of one short frame."""
        first, second = self.exactly(2)
        assert first & 0x80 and second < 126, (first, second)
        return first & 0xF, self.exactly(second)

    def exactly(self, count):
        got = b""
        while len(got) < count:
            part = self.socket.recv(count - len(got))
            assert part, got
            got += part
        return got


CONNECT = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ws"
CONNACK = b"\x20\x02\x00\x00"


def test_packets_may_be_cut_into_frames_in_any_way(broker):
    with Raw(port_of(broker)) as client:
        assert client.status == 101
        for position in range(len(CONNECT)):
            client.send(2 if position == 0 else 0, CONNECT[position : position + 1], is_last=False)
        client.send(0, b"")
        assert client.receive() == (2, CONNACK)
        client.send(2, b"\xc0\x00" * 3)
        answer = client.receive()
        while len(answer[1]) < 6:
            answer = (2, answer[1] + client.receive()[1])
        assert answer == (2, b"\xd0\x00" * 3)


def test_a_ping_within_a_message_is_answered(broker):
    with Raw(port_of(broker)) as client:
        client.send(2, CONNECT[:5], is_last=False)
        client.send(9, b"are you there?")
        assert client.receive() == (10, b"are you there?")
        client.send(0, CONNECT[5:])
        assert client.receive() == (2, CONNACK)


@pytest.mark.parametrize("opcode,payload,status", [(1, CONNECT, 1003), (3, b"", 1002), (0, b"x", 1002)])
def test_frames_that_may_not_be_end_the_connection_with_a_status(broker, opcode, payload, status):
    with Raw(port_of(broker)) as client:
        client.send(opcode, payload)
        assert client.receive() == (8, struct.pack("!H", status))
        assert client.rest() == b""


def test_disconnect_is_followed_by_close(broker):
    with Raw(port_of(broker)) as client:
        client.send(2, CONNECT)
        assert client.receive() == (2, CONNACK)
        client.send(2, b"\xe0\x00")
        assert client.receive() == (8, struct.pack("!H", 1000))
        client.send(8, struct.pack("!H", 1000))
        assert client.rest() == b""


@pytest.mark.parametrize(
    "fields,status",
    [
        ("Sec-WebSocket-Protocol: mqtt\r\nOrigin: http://localhost:5173\r\n", 101),
        ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", 101),
        ("Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://evil.example\r\n", 403),
        ("Sec-WebSocket-Protocol: mqtt\r\nOrigin: null\r\n", 403),
        ("Sec-WebSocket-Protocol: chat\r\n", 400),
        ("", 400),
        ("Sec-WebSocket-Protocol: mqtt\r\n" + "".join(f"X-{n}: y\r\n" for n in range(200)), 431),
        ("X: " + "y" * 20_000 + "\r\n", 431),
    ],
)
def test_who_may_connect(broker, fields, status):
    with Raw(port_of(broker), fields) as client:
        assert client.status == status, client.head


def test_pages_that_settings_name_may_connect():
    allowed = {"MOCKFORGE_MQTT_WEBSOCKET_ORIGINS": "https://app.example, null"}
    with Mockforge(**WEB_SOCKET, **allowed) as broker:
        for origin, status in [("https://app.example", 101), ("null", 101), ("https://evil.example", 403)]:
            with Raw(port_of(broker), f"Sec-WebSocket-Protocol: mqtt\r\nOrigin: {origin}\r\n") as client:
                assert client.status == status, origin


def test_what_is_no_websocket_is_told_what_this_is(broker):
    with socket.create_connection(("127.0.0.1", port_of(broker)), timeout=DEADLINE) as plain:
        plain.sendall(CONNECT)
        assert b"is it MQTT without WebSocket?" in plain.recv(4096)
    answer = subprocess.run(
        ["curl", "-s", "-o", "-", "-w", "%{http_code}", f"http://127.0.0.1:{port_of(broker)}/"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert answer.stdout.endswith("426"), answer.stdout

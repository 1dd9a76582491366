"""mosquitto_pub and mosquitto_sub against our broker, as their users would type them."""

import hashlib
import signal
import socket
import subprocess

import pytest

from peers import DEADLINE, Mockforge, Process, needs, wait_until

VERSIONS = ["311", "5"]


@pytest.fixture(scope="module")
def broker():
    with Mockforge(MOCKFORGE_MQTT_MAX_PACKET_SIZE=str(2 << 20)) as started:
        yield started


def pub(broker, *arguments, check=True):
    done = subprocess.run(
        [needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def sub(broker, *arguments):
    return Process(needs("mosquitto_sub"), "-h", "127.0.0.1", "-p", broker.port, "-W", DEADLINE, *arguments)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_arrives_with_its_qos(broker, version, qos):
    topic = f"qos/{version}/{qos}"
    with sub(broker, "-V", version, "-q", qos, "-t", topic, "-C", 3, "-F", "%q %p") as listener:
        broker.wait_for_subscription(topic)
        for number in range(3):
            pub(broker, "-V", version, "-q", qos, "-t", topic, "-m", f"message {number}")
        assert listener.wait() == 0
        assert listener.lines == [f"{qos} message {number}" for number in range(3)]


@pytest.mark.parametrize("publisher,subscriber", [("311", "5"), ("5", "311")])
def test_versions_mix(broker, publisher, subscriber):
    topic = f"mixed/{publisher}"
    with sub(broker, "-V", subscriber, "-q", 2, "-t", "mixed/+", "-C", 1, "-F", "%t %p") as listener:
        broker.wait_for_subscription("mixed/+")
        pub(broker, "-V", publisher, "-q", 2, "-t", topic, "-m", "hello")
        assert listener.wait() == 0
        assert listener.lines == [f"{topic} hello"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retained_message_waits_for_new_subscribers_until_it_is_cleared(broker, version):
    topic = f"retained/{version}"
    pub(broker, "-V", version, "-q", 1, "-r", "-t", topic, "-m", "kept")
    with sub(broker, "-V", version, "-q", 1, "-t", topic, "-C", 1, "-F", "%r %p") as listener:
        assert listener.wait() == 0
        assert listener.lines == ["1 kept"]
    pub(broker, "-V", version, "-q", 1, "-r", "-t", topic, "-n")
    pub(broker, "-V", version, "-q", 1, "-t", f"{topic}/end", "-m", "end", "-r")
    with sub(broker, "-V", version, "-q", 1, "-t", f"{topic}/#", "-C", 1, "-F", "%t") as listener:
        assert listener.wait() == 0
        assert listener.lines == [f"{topic}/end"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_is_sent_when_its_client_is_killed(broker, version):
    topic = f"will/{version}"
    with sub(broker, "-V", version, "-q", 1, "-t", topic, "-C", 1, "-F", "%q %p") as observer:
        broker.wait_for_subscription(topic)
        mortal = sub(
            broker,
            *["-V", version, "-t", f"mortal/{version}"],
            *["--will-topic", topic, "--will-payload", "gone", "--will-qos", 1],
        )
        broker.wait_for_subscription(f"mortal/{version}")
        mortal.end(signal.SIGKILL)
        assert observer.wait() == 0
        assert observer.lines == ["1 gone"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_persistent_session_queues_while_its_client_is_away(broker, version):
    session = ["-V", version, "-c", "-i", f"away-{version}", "-q", 1, "-t", f"offline/{version}"]
    if version == "5":
        session += ["-x", 300]
    with sub(broker, *session, "-E") as first:
        assert first.wait() == 0
    for number in range(5):
        pub(broker, "-V", version, "-q", 1, "-t", f"offline/{version}", "-m", number)
    with sub(broker, *session, "-C", 5, "-F", "%p") as again:
        assert again.wait() == 0
        assert again.lines == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mebibyte_passes_and_more_than_the_limit_is_refused(broker, version, tmp_path):
    payload = bytes(range(256)) * 4096
    (tmp_path / "large").write_bytes(payload)
    topic = f"large/{version}"
    with sub(broker, "-V", version, "-q", 1, "-t", topic, "-C", 1, "-N", "-F", "%X") as listener:
        broker.wait_for_subscription(topic)
        pub(broker, "-V", version, "-q", 1, "-t", topic, "-f", tmp_path / "large")
        assert listener.wait() == 0
        received = bytes.fromhex(listener.output)
        assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()
    (tmp_path / "larger").write_bytes(payload * 3)
    refused = pub(broker, "-V", version, "-q", 1, "-t", topic, "-f", tmp_path / "larger", check=False)
    # With MQTT 5 mosquitto_pub knows the limit from the CONNACK and sends nothing.
    assert version == "5" or refused.returncode != 0
    # The next client is served as before.
    pub(broker, "-V", version, "-q", 1, "-t", topic, "-m", "still here")


def test_a_client_that_ignores_the_limit_is_told_why(broker):
    with socket.create_connection(("127.0.0.1", broker.port), timeout=DEADLINE) as client:
        client.sendall(bytes.fromhex("101000044d5154540502003c000003626967"))
        assert client.recv(1) == b"\x20"
        rest = client.recv(1)[0]
        while rest:
            rest -= len(client.recv(rest))
        client.sendall(bytes.fromhex("3280808002"))  # a PUBLISH of 4 MiB, announced
        answer = b""
        while piece := client.recv(100):
            answer += piece
    assert answer[0] == 0xE0 and answer[2] == 0x95, answer.hex()


def test_metrics_carry_the_real_figures(broker):
    before = figure(broker, 'mqtt_messages_published_total{qos="1"}')
    for _ in range(4):
        pub(broker, "-q", 1, "-t", "counted", "-m", "x")
    after = wait_until(
        lambda: figure(broker, 'mqtt_messages_published_total{qos="1"}') >= before + 4
        and figure(broker, 'mqtt_messages_published_total{qos="1"}'),
        "four publishes to be counted",
    )
    assert after == before + 4
    assert figure(broker, 'mqtt_connections_total{status="closed"}') >= 4
    assert figure(broker, "mqtt_bytes_received_total") > 1 << 20


def figure(broker, name):
    line = next(line for line in broker.metrics().splitlines() if line.startswith(name + " "))
    return float(line.rsplit(" ", 1)[1])

"""A disk that fills up: the recording fails and says so, the traffic goes on as if nothing was."""

import base64
import json
import os
import signal
import subprocess
import threading

import paho.mqtt.client as mqtt
import pytest

from peers import REQUIRED, Mockforge, Mosquitto, Process, binary, free_port, run, wait_until


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for a few segments of a store."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        reason = f"no file system can be mounted here: {mounted.stderr.strip()}"
        pytest.fail(reason) if REQUIRED else pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


class Traffic:
    """A publisher and a subscriber; each message waits for its acknowledgement and its delivery."""

    def __init__(self, port):
        self.sent = self.received = 0
        self.acknowledged = threading.Semaphore(0)
        self.delivered = threading.Semaphore(0)
        self.subscriber = self._client("subscriber", port)
        subscribed = threading.Event()
        self.subscriber.on_subscribe = lambda *_: subscribed.set()
        self.subscriber.on_message = self._take
        self.subscriber.subscribe("load", qos=1)
        assert subscribed.wait(20)
        self.publisher = self._client("publisher", port)
        self.publisher.on_publish = lambda *_: self.acknowledged.release()

    def _client(self, name, port):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.on_disconnect = lambda *_: self.ended.append(name)
        self.ended = []
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert connected.wait(20)
        return client

    def _take(self, _client, _data, message):
        number, _, filler = message.payload.partition(b" ")
        assert len(filler) == 2000
        self.received += 1
        assert int(number) == self.received
        self.delivered.release()

    def publish(self, count):
        for _ in range(count):
            self.sent += 1
            # Does not compress.
            self.publisher.publish("load", f"{self.sent} ".encode() + os.urandom(2000), qos=1)
            assert self.acknowledged.acquire(timeout=20), f"message {self.sent} is not acknowledged"
            assert self.delivered.acquire(timeout=20), f"message {self.sent} is not delivered"

    def stop(self):
        assert self.ended == []
        for client in (self.subscriber, self.publisher):
            client.on_disconnect = None
            client.disconnect()
            client.loop_stop()


def publish_until(traffic, condition):
    for _ in range(200):
        if condition():
            return
        traffic.publish(50)
    pytest.fail(f"{traffic.sent} messages, and the disk is not full")


def test_a_full_disk_fails_the_recording_and_no_message(tmp_path, small_disk):
    with (
        Mosquitto() as mosquitto,
        Mockforge("--upstream", mosquitto.url, "--record", "doomed", store=small_disk) as proxy,
    ):
        traffic = Traffic(proxy.port)
        publish_until(traffic, lambda: proxy.rest("/recordings/doomed")["state"] == "RECORDING_STATE_FAILED")
        traffic.publish(200)
        traffic.stop()
        failed = proxy.rest("/recordings/doomed")
        assert proxy.end(signal.SIGTERM) == 5
        assert "recording failed: the store refused a write" in proxy.output
    environment = {"MOCKFORGE_STORE_PATH": str(small_disk), "MOCKFORGE_GRPC_PORT": str(free_port())}

    def ask(*arguments):
        return run(*arguments, env=environment, cwd=tmp_path)

    for command in [["ls"], ["check"], ["rm", "doomed"]]:
        code, _, errors = ask("recordings", *command)
        assert code == 5 and "free some first" in errors, "the store cannot be opened without room, and says so"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    code, output, errors = ask("recordings", "ls", "-o", "json")
    assert code == 0, errors
    assert "FAILED" in output
    code, _, errors = ask("recordings", "export", "doomed", "--output", tmp_path / "doomed.json")
    assert code == 0, errors
    session = json.loads((tmp_path / "doomed.json").read_text())
    assert len(session["events"]) >= failed["events"] > 1000
    sent = [event for event in session["events"] if event.get("type") == "PUBLISH" and event["dir"] == "c2s"]
    numbers = [int(base64.b64decode(event["payload"]).split(b" ")[0]) for event in sent]
    assert numbers == list(range(1, len(numbers) + 1)), "what is kept has no holes"


def test_record_ends_with_exit_code_5_on_a_full_disk(tmp_path, small_disk):
    port = free_port()
    with (
        Mosquitto() as mosquitto,
        Process(
            *[binary(), "mqtt", "record", "--output", tmp_path / "session.json", "--upstream", mosquitto.url],
            *["--listen", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            env={"MOCKFORGE_STORE_PATH": str(small_disk)},
        ) as record,
    ):
        record.wait_for(f":{port}")
        traffic = Traffic(port)
        publish_until(traffic, lambda: "traffic goes on" in record.output)
        traffic.publish(200)
        traffic.stop()
        assert record.end(signal.SIGINT) == 5
        assert "space" in record.output

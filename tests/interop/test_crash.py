"""kill -9, SIGINT and SIGTERM while recording: what was captured is kept and says how it ended."""

import json
import signal
import threading
import time

import paho.mqtt.client as mqtt
import pytest

from peers import Mockforge, Mosquitto, Process, binary, free_port, run, wait_until

FLUSH_INTERVAL = 0.25


class Load:
    """Publishes numbered messages as fast as acknowledgements allow until stopped."""

    def __init__(self, port):
        self.acknowledged = []  # (number, when)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="load")
        self.client.on_publish = lambda _c, _u, number, *_: self.acknowledged.append((number, time.monotonic()))
        self.client.on_connect = lambda *_: self.connected.set()
        self.connected = threading.Event()
        self.running = True
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.connected.wait(20)
        self.thread = threading.Thread(target=self._publish, daemon=True)
        self.thread.start()

    def _publish(self):
        number = 0
        while self.running and self.client.is_connected():
            number += 1
            self.client.publish("load", str(number), qos=1)
            time.sleep(0.0005)

    def stop(self):
        self.running = False
        self.thread.join(10)
        self.client.loop_stop()


def test_kill_9_loses_at_most_the_flush_interval(tmp_path):
    store = tmp_path / "store"
    with Mosquitto() as mosquitto, Mockforge("--upstream", mosquitto.url, "--record", "doomed", store=store) as proxy:
        load = Load(proxy.port)
        begun = time.monotonic()
        wait_until(
            lambda: len(load.acknowledged) >= 1000 and time.monotonic() > begun + 2 + FLUSH_INTERVAL,
            "a thousand acknowledged messages, the first of them older than two seconds",
        )
        killed = time.monotonic()
        proxy.end(signal.SIGKILL)
        load.stop()
    environment = {"MOCKFORGE_STORE_PATH": str(store), "MOCKFORGE_GRPC_PORT": str(free_port())}
    code, output, errors = run("recordings", "ls", "-o", "json", env=environment, cwd=tmp_path)
    assert code == 0, errors
    assert "INTERRUPTED" in output
    code, _, errors = run("recordings", "export", "doomed", "--output", tmp_path / "doomed.json", env=environment, cwd=tmp_path)
    assert code == 0, errors
    session = json.loads((tmp_path / "doomed.json").read_text())
    kept = sum(1 for event in session["events"] if event.get("type") == "PUBACK")
    # A second of grace beside the interval: the machine may have been busy with something else.
    settled = sum(1 for _, when in load.acknowledged if when < killed - FLUSH_INTERVAL - 1)
    assert kept >= settled > 0
    numbers = [int(event["payload"]) for event in session["events"] if event.get("type") == "PUBLISH"]
    assert numbers == list(range(1, len(numbers) + 1)), "what is kept has no holes"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_record_cleanly(tmp_path, number):
    with Mosquitto() as mosquitto:
        output, port = tmp_path / "session.json", free_port()
        with Process(
            *[binary(), "mqtt", "record", "--output", output, "--upstream", mosquitto.url],
            *["--listen", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            env={"MOCKFORGE_STORE_PATH": str(tmp_path / "store")},
        ) as record:
            record.wait_for(f":{port}")
            load = Load(port)
            wait_until(lambda: len(load.acknowledged) >= 100, "a hundred acknowledged messages")
            code = record.end(number)
            load.stop()
        assert code in (0, 130), record.output
        session = json.loads(output.read_text())
        assert sum(1 for event in session["events"] if event.get("type") == "PUBACK") >= 100
        assert session["gaps"] == 0

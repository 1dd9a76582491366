"""Recordings played as the broker: devices that passed against mosquitto pass against the recording alone."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import DEADLINE, Mosquitto, Process, binary, free_port, needs, wait_until

HERE = Path(__file__).parent
PROGRAMS = {"paho": [sys.executable, HERE / "device_paho.py"], "mqttjs": ["node", HERE / "device_mqttjs.js"]}


def device(kind, port, *options):
    """A device that runs."""
    command, program = PROGRAMS[kind]
    return Process(needs(command) if kind == "mqttjs" else command, program, port, *options)


class Proxy(Process):
    """A proxy before a broker, whose traffic is recorded into a file."""

    def __init__(self, broker, file):
        self.port = free_port()
        self.file = file
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        super().__init__(binary(), "mqtt", "record", "--upstream", broker.url, *listen, "--output", file, cwd=file.parent)
        self.wait_for("recording")


class Control:
    """What commands devices that are ready, one command after the reply to the one before."""

    def __init__(self, port):
        self.subscribed = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, "control", protocol=paho.MQTTv5)
        self.client.on_message = self._heard
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe([("devices/+/ready", 2), ("devices/+/replies", 1)])
        assert self.subscribed.wait(DEADLINE)

    def _heard(self, _, __, message):
        _, number, topic = message.topic.split("/")
        n = 0 if topic == "ready" else json.loads(message.payload)["do"] + 1
        if n < 6:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = f"devices/{number}/replies"
            properties.CorrelationData = bytes([n])
            self.client.publish(f"devices/{number}/commands/{n}", f'{{"do": {n}}}', n % 3, properties=properties)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


def record(folder, kind, *devices):
    """What devices said to mosquitto and were answered; each device is a list of options."""
    file = folder / "session.json"
    with Mosquitto() as broker, Control(broker.port), Proxy(broker, file) as proxy:
        running = [device(kind, proxy.port, *options) for options in devices]
        for one in running:
            with one:
                assert one.wait(60) == 0, one.output
        assert proxy.end(signal.SIGINT) == 0, proxy.output
    return file


@pytest.fixture(scope="session", params=list(PROGRAMS))
def recorded(request, tmp_path_factory):
    """A kind of device and a recording of one of them with a name."""
    return request.param, record(tmp_path_factory.mktemp(request.param), request.param, ["name=press-7"])


@pytest.fixture(scope="session")
def paho_session(tmp_path_factory):
    return record(tmp_path_factory.mktemp("paho"), "paho", ["name=press-7"])


class Played(Process):
    """A recording that is played as the broker."""

    def __init__(self, file, *arguments, folder):
        self.folder = folder
        self.report_file = folder / "report.json"
        self.errors_file = folder / "errors.txt"
        with open(self.report_file, "w") as report:
            self.child = subprocess.Popen(
                [binary(), "mqtt", "replay", "--input", file, "--mode", "server", "--listen", "127.0.0.1:0"]
                + ["-o", "json", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
            )
        self.command, self.lines = ["mqtt replay"], []
        self.reader = threading.Thread(target=self._read_errors, daemon=True)
        self.reader.start()
        self.port = int(self.wait_for(r"on mqtt://127\.0\.0\.1:(\d+)")[1])

    def _read_errors(self):
        for line in self.child.stderr:
            self.lines.append(line.rstrip("\n"))

    def ended(self, seconds=60):
        """The exit code, and what is reported."""
        code = self.wait(seconds)
        text = self.report_file.read_text()
        report = json.loads(text) if text.strip() else {}
        return code, report, f"{text}\n{self.output}"


def play(file, kind, *options, arguments=(), folder, device_code=0):
    """One device against the recording alone: exit code, report and all that was printed."""
    with Played(file, *arguments, folder=folder) as played:
        with device(kind, played.port, *options) as one:
            code = one.wait(60)
            assert code == device_code or device_code is None, one.output
        return played.ended()


def verifying(level):
    return [] if level == "none" else ["--verify", level, "--settle", "500ms"]


@pytest.mark.parametrize("speed", ["1", "max"])
@pytest.mark.parametrize("verify", ["none", "payload", "packets"])
def test_a_device_that_passed_against_mosquitto_passes_against_the_recording(recorded, tmp_path, verify, speed):
    kind, file = recorded
    arguments = ["--speed", speed, *verifying(verify)]
    code, report, text = play(file, kind, "name=press-7", arguments=arguments, folder=tmp_path)
    assert code == 0, text
    assert report["sent"] == 6 and report["errors"] == [] and report["warnings"] == [], text
    if verify != "none":
        assert report["verification"]["passed"] and report["verification"]["matched"] > 20, text


WRONG = {
    "payload": ("paho", "changed", "data", "$.value"),
    "qos": ("paho", "changed", "data", "qos"),
    "will": ("paho", "changed", "connection", "will.payload"),
    "keep alive": ("paho", "changed", "connection", "keep_alive"),
    "subscription": ("paho", "changed", "subscriptions", "subscriptions[0].qos"),
    "one more": ("paho", "unexpected", "more", None),
    "crash": ("paho", "missing", "connection", None),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_field_is_named(paho_session, tmp_path, wrong):
    kind, difference, subject, path = WRONG[wrong]
    arguments = ["--verify", "packets", "--settle", "500ms", "--timeout", "20s"]
    options = ["name=press-7", f"wrong={wrong}"]
    code, report, text = play(paho_session, kind, *options, arguments=arguments, folder=tmp_path, device_code=None)
    assert code == 1, text
    differences = report["verification"]["differences"]
    found = [one for one in differences if one["kind"] == difference and subject in one["subject"]]
    assert found, text
    assert path is None or {path} == {change["path"] for one in found for change in one["changes"]}, text


@pytest.mark.parametrize("kind", PROGRAMS)
def test_devices_with_drawn_names_play_others_with_drawn_names(kind, tmp_path):
    if kind == "paho":
        # A client without a name can have no session to come back to by it.
        file = record(tmp_path, kind, ["name=mqttx_0a1b2c3d", "number=1"], ["name=mqttx_4e5f6a7b", "number=2"])
        live = ["name=mqttx_99887766", "name=mqttx_55443322"]
    else:
        file = record(tmp_path, kind, ["number=1"], ["number=2"])
        live = ["", ""]
    with Played(file, "--verify", "packets", "--settle", "500ms", folder=tmp_path) as played:
        # In the other order.
        running = [device(kind, played.port, f"number={number}", option) for number, option in zip([2, 1], live)]
        for one in running:
            with one:
                assert one.wait(60) == 0, one.output
        code, report, text = played.ended()
    assert code == 0 and report["verification"]["passed"], text
    (warning,) = report["warnings"]
    assert warning.startswith("2 by other names: ") and " plays " in warning, text


def health_check(port, name):
    """A client that connects and leaves."""
    connected = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, name)
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(DEADLINE)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("verify", ["none", "packets"])
def test_a_health_check_neither_passes_nor_fails(recorded, tmp_path, verify):
    kind, file = recorded
    arguments = verifying(verify)
    with Played(file, *arguments, "--timeout", "2s", folder=tmp_path) as played:
        health_check(played.port, "mosq-a1b2c3d4e5f6")
        code, report, text = played.ended()
    assert code == 4 and report["sent"] == 0, text
    # On standard error it is JSON, too.
    text = text.replace("\\\"", "\"")
    assert "stopped after 2s" in text and "of \"press-7\"" in text and "only connected" in text
    with Played(file, *arguments, folder=tmp_path) as played:
        health_check(played.port, "mosq-a1b2c3d4e5f6")
        with device(kind, played.port, "name=press-7") as one:
            assert one.wait(60) == 0, one.output
        code, report, text = played.ended()
    assert code == 0 and len(report["warnings"]) == 1, text


def test_what_was_not_played_when_time_is_up_fails(tmp_path):
    file = record(tmp_path, "paho", ["name=press-7", "number=1"], ["name=press-8", "number=2"])
    for arguments in [[], ["--verify", "payload"]]:
        with Played(file, *arguments, "--timeout", "4s", folder=tmp_path) as played:
            with device("paho", played.port, "name=press-7") as one:
                assert one.wait(60) == 0, one.output
            code, report, text = played.ended()
        assert code == 1 and "stopped after 4s" in text and "press-8" in text, text


def test_a_recording_that_is_cut_short_fails(tmp_path):
    file = tmp_path / "lights.json"
    subscribe = [needs("mosquitto_sub"), "-i", "lamp", "-t", "lights/#", "-q", "1", "-p"]
    with Mosquitto() as broker, Proxy(broker, file) as proxy, Process(*subscribe, proxy.port) as lamp:
        publish = [needs("mosquitto_pub"), "-p", str(broker.port), "-t", "lights/1"]
        wait_until(lambda: subprocess.run([*publish, "-m", "on"]).returncode == 0 and "on" in lamp.output, "the lamp")
        time.sleep(2)
        subprocess.run([*publish, "-m", "off"], check=True)
        lamp.wait_for("off")
        assert proxy.end(signal.SIGINT) == 0, proxy.output
    for arguments in [[], ["--verify", "payload", "--settle", "500ms"]]:
        with Played(file, *arguments, "--speed", "0.1", "--timeout", "5s", folder=tmp_path) as played:
            with Process(*subscribe, played.port) as lamp:
                code, report, text = played.ended()
                assert "off" not in lamp.output, lamp.output
        cut = r"1 recorded connection was not made to its end: \d+ messages? w\w+ not sent"
        assert code == 1 and re.search(cut, text), text
    # It stays connected, and all is said.
    with Played(file, folder=tmp_path) as played, Process(*subscribe, played.port) as lamp:
        code, report, text = played.ended()
        assert code == 0 and report["warnings"] == [] and "off" in lamp.output, text


def test_an_interrupt_ends_it(paho_session, tmp_path):
    with Played(paho_session, folder=tmp_path) as played:
        health_check(played.port, "press-7")
        assert played.end(signal.SIGINT) == 130


def test_nothing_to_play_ends_at_once(tmp_path):
    file = tmp_path / "empty.json"
    file.write_text('{"format": "mockforge.mqtt.session", "version": 1, "connections": [], "events": []}')
    with Played(file, folder=tmp_path) as played:
        assert played.ended()[0] == 4


MISSES = {"ignore": 0, "fail": 1, "disconnect": 1, "passthrough": 0}


@pytest.mark.parametrize("on_miss", MISSES)
def test_what_no_recorded_client_did(paho_session, tmp_path, on_miss):
    with Mosquitto() as broker:
        heard = Process(needs("mosquitto_sub"), "-p", broker.port, "-t", "devices/#", "-v")
        with heard:
            passed = on_miss == "passthrough"
            arguments = ["--on-miss", on_miss, "--timeout", "5s", *(["--target", broker.url] if passed else [])]
            options = ["name=press-7", "wrong=one more"]
            time.sleep(0.3)
            code, report, text = play(
                paho_session, "paho", *options, arguments=arguments, folder=tmp_path, device_code=None
            )
            if passed:
                heard.wait_for("devices/1/more x")
            assert heard.output == ("devices/1/more x" if passed else ""), heard.output
    assert code == MISSES[on_miss], text
    # One that is disconnected may try again.
    assert report["warnings"][0].endswith("did what is not in the recording"), text
    if on_miss in ("fail", "disconnect"):
        assert '\\"press-7\\"' in text and "PUBLISH devices/1/more" in text, text


def test_a_client_is_told_when_the_target_could_not_be_asked(paho_session, tmp_path):
    arguments = ["--on-miss", "passthrough", "--target", f"mqtt://127.0.0.1:{free_port()}", "--timeout", "5s"]
    answers = []
    with Played(paho_session, *arguments, folder=tmp_path) as played:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, "press-7", protocol=paho.MQTTv5)
        answered = threading.Event()
        client.on_publish = lambda _, __, ___, reason, ____: (answers.append(reason.value), answered.set())
        client.connect("127.0.0.1", played.port)
        client.loop_start()
        client.publish("nowhere", "x", 1)
        assert answered.wait(DEADLINE)
        client.disconnect()
        client.loop_stop()
        code, report, text = played.ended()
    assert answers == [0x80] and code == 3 and "did not reach the target" in text, text


def test_pausing_holds_deliveries_and_steps_let_them_go(paho_session, tmp_path):
    """Over a server's API, as that is where the commands are."""
    from peers import Mockforge, run

    with Mockforge() as server:
        code, output, errors = server.ask("recordings", "import", paho_session, "--name", "devices")
        assert code == 0, output + errors
        spec = {"recording": "devices", "mode": "REPLAY_MODE_SERVER", "listen": "127.0.0.1:0"}
        for field, value in [("rate", 5), ("loops", 2), ("max_gap", "1s"), ("max_lateness", "1s")]:
            with pytest.raises(Exception) as refused:
                server.rest("/replays", {**spec, field: value})
            assert refused.value.code == 400 and f"spec.{field}" in refused.value.read().decode()
        replay = server.rest("/replays", spec)
        port, path = replay["address"].split(":")[1], f"/replays/{replay['id']}"
        server.rest(f"{path}:pause", {})
        with device("paho", port, "name=press-7") as one:

            def sent():
                return int(server.rest(path)["progress"].get("sent", 0))

            # It has done what it does by itself, and was acknowledged.
            wait_until(lambda: one.child.poll() is None and int(server.rest(path)["progress"].get("sent", 0)) == 0, "")
            time.sleep(0.5)
            assert sent() == 0
            for count in (1, 2):
                wait_until(lambda: server.rest(f"{path}:step", {}) and sent() >= count, "a delivery")
            server.rest(f"{path}:resume", {})
            assert one.wait(60) == 0, one.output
        ended = wait_until(lambda: (found := server.rest(path)).get("verdict") and found.get("exit_code") is not None and found, "the end")
        assert ended["exit_code"] == 0, ended

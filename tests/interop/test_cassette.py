"""A command with a broker that is recorded once and played from then on: exit codes, what is kept, and who gets the signals."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from peers import Mosquitto, binary, free_port, needs, run, wait_until

# Subscribes, publishes what it is told to, and passes if that comes back.
DEVICE = """
import os, sys, threading
import paho.mqtt.client as mqtt

heard = threading.Event()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="dev", protocol=mqtt.MQTTv5)
client.on_connect = lambda client, *_: client.subscribe("cmd", qos=1)
client.on_subscribe = lambda client, *_: client.publish("cmd", sys.argv[1], qos=1)
client.on_message = lambda *_: heard.set()
client.connect(os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
client.loop_start()
came = heard.wait(10)
client.disconnect()
client.loop_stop()
sys.exit(0 if came else 3)
"""


@pytest.fixture(scope="module")
def mosquitto():
    with Mosquitto() as started:
        yield started


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "device.py"
    path.write_text(DEVICE)
    return [sys.executable, str(path)]


@pytest.fixture
def nobody():
    """The address of a broker that is not there."""
    return f"mqtt://127.0.0.1:{free_port()}"


def cassette(file, target, *command, mode="once", options=()):
    words = ["mqtt", "cassette", "--file", file, "--mode", mode, "--target", target, *options, "--", *command]
    return run(*words, cwd=file.parent)


def test_it_is_recorded_once_and_played_without_a_broker_from_then_on(mosquitto, nobody, device, tmp_path):
    file = tmp_path / "device.json"
    code, output, errors = cassette(file, mosquitto.url, *device, "on")
    assert (code, output) == (0, ""), errors
    recorded = file.read_bytes()
    types = [event.get("type") for event in json.loads(recorded)["events"]]
    assert types.count("PUBLISH") == 2 and "DISCONNECT" in types, types
    for mode in ("once", "none"):
        code, output, errors = cassette(file, nobody, *device, "on", mode=mode)
        assert (code, output) == (0, "") and "passed" in errors, errors
    assert file.read_bytes() == recorded


def test_what_the_command_sends_is_compared_if_that_is_asked_for(mosquitto, nobody, device, tmp_path):
    file = tmp_path / "device.json"
    assert cassette(file, mosquitto.url, *device, "on")[0] == 0
    compared = ["--verify", "payload"]
    assert cassette(file, nobody, *device, "on", options=compared)[0] == 0
    code, _, errors = cassette(file, nobody, *device, "off", options=compared)
    assert code == 1 and "on" in errors and "off" in errors, errors


def test_a_command_that_fails_is_told_what_was_not_on_the_cassette(mosquitto, nobody, tmp_path):
    file = tmp_path / "publish.json"
    publish = f'{needs("mosquitto_pub")} -h "$MQTT_HOST" -p "$MQTT_PORT" -i pub -q 1 -t "$0" -m x'
    assert cassette(file, mosquitto.url, "sh", "-c", publish, "a/b")[0] == 0
    code, _, errors = cassette(file, nobody, "sh", "-c", publish + "; exit 7", "a/c")
    assert code == 7 and "what is not in the recording" in errors, errors


def test_clients_of_mosquitto_are_recorded_and_played(mosquitto, nobody, tmp_path):
    file = tmp_path / "publish.ndjson"
    publish = [needs("mosquitto_pub"), "-i", "dev", "-t", "a/b", "-q", "1", "-m", "x"]
    script = ["sh", "-c", f'{" ".join(publish)} -h "$MQTT_HOST" -p "$MQTT_PORT"; echo "$MQTT_URL"']
    code, output, errors = cassette(file, mosquitto.url, *script)
    assert code == 0 and output.startswith("mqtt://127.0.0.1:"), errors
    code, output, errors = cassette(file, nobody, *script, mode="none")
    assert code == 0 and output.startswith("mqtt://127.0.0.1:"), errors
    # Another topic is not on it.
    other = [word.replace("a/b", "a/c") for word in script]
    code, _, errors = cassette(file, nobody, *other, mode="none")
    assert code == 1, errors
    more = ["--on-miss", "passthrough"]
    assert cassette(file, mosquitto.url, *other, mode="none", options=more)[0] == 0
    kept = [f'{word}; {word.replace("a/b", "a/c -r")}' if "MQTT_HOST" in word else word for word in script]
    code, _, errors = cassette(file, mosquitto.url, *kept, mode="none", options=more)
    assert code == 0, errors
    subscribe = [needs("mosquitto_sub"), "-p", str(mosquitto.port), "-t", "a/c", "-C", "1", "-W", "10"]
    assert subprocess.check_output(subscribe, text=True) == "x\n"


def test_the_exit_code_of_the_command_is_kept_and_a_failure_is_not_recorded(mosquitto, device, tmp_path):
    file = tmp_path / "device.json"
    fails = ["sh", "-c", '"$@"; exit 9', "sh", *device, "on"]
    code, _, errors = cassette(file, mosquitto.url, *fails)
    assert code == 9 and not file.exists() and "was not written: the command exited with 9" in errors, errors
    assert cassette(file, mosquitto.url, *device, "on")[0] == 0
    recorded = file.read_bytes()
    assert cassette(file, mosquitto.url, *fails, mode="all")[0] == 9
    assert cassette(file, mosquitto.url, *fails, mode="none")[0] == 9
    assert file.read_bytes() == recorded
    assert cassette(file, mosquitto.url, *device, "off", mode="all")[0] == 0
    assert file.read_bytes() != recorded
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("mode", ["all", "none"])
def test_exit_codes(mosquitto, nobody, device, tmp_path, mode):
    file = tmp_path / "device.json"
    assert cassette(file, mosquitto.url, *device, "on")[0] == 0
    # A command that does nothing has shown nothing.
    assert cassette(file, mosquitto.url, "true", mode=mode)[0] == 4
    assert cassette(file, mosquitto.url, "true", mode=mode, options=["--allow-empty"])[0] == 0
    assert cassette(file, mosquitto.url, "nonsense-that-is-not-there", mode=mode)[0] == 127
    assert cassette(file, mosquitto.url, str(tmp_path), mode=mode)[0] == 126
    assert cassette(file, mosquitto.url, "sh", "-c", "kill -9 $$", mode=mode)[0] == 128 + signal.SIGKILL


def test_what_is_missing_is_said_before_the_command_runs(nobody, tmp_path):
    file = tmp_path / "device.json"
    code, output, errors = cassette(file, nobody, "echo", "ran", mode="none")
    assert (code, output) == (2, "") and "is not there" in errors
    code, output, errors = cassette(file, nobody, "echo", "ran")
    assert (code, output) == (3, "") and nobody in errors
    file.write_text("{")
    code, output, _ = cassette(file, nobody, "echo", "ran")
    assert (code, output) == (5, "")
    assert run("mqtt", "cassette", "--file", file)[0] == 2
    assert run("mqtt", "cassette", "--file", "-", "--", "echo", "ran")[0] == 2
    assert run("mqtt", "cassette", "--file", file, "--rules", file, "--", "echo", "ran")[0] == 2


def test_standard_input_and_output_are_the_commands(mosquitto, device, tmp_path):
    file = tmp_path / "device.json"
    assert cassette(file, mosquitto.url, *device, "on")[0] == 0
    done = subprocess.run(
        [binary(), "mqtt", "cassette", "--file", file, "--allow-empty", "--", "tr", "a-z", "A-Z"],
        input=b"abc\n",
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"ABC\n"


COUNTS = 'trap "echo told; exit 7" {name}; echo ready; while :; do sleep 0.05; done'


def test_a_signal_that_we_are_sent_goes_to_the_command(mosquitto, tmp_path):
    for name in ("INT", "TERM", "HUP"):
        words = ["mqtt", "cassette", "--file", tmp_path / "x.json", "--target", mosquitto.url]
        child = subprocess.Popen(
            [binary(), *map(str, words), "--", "sh", "-c", COUNTS.format(name=name)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, f"SIG{name}"))
        output, _ = child.communicate(timeout=20)
        assert (child.returncode, output) == (7, "told\n"), name


def test_ctrl_c_on_a_terminal_comes_to_the_command_once(mosquitto, tmp_path):
    counts = 'n=0; trap "n=$((n+1))" INT; trap "echo got $n; exit 7" USR1; echo ready $$; while :; do sleep 0.05; done'
    counts = counts.replace('"n=$((n+1))"', "'n=$((n+1)); echo one'").replace('"echo got $n; exit 7"', "'echo got $n; exit 7'")
    words = ["mqtt", "cassette", "--file", str(tmp_path / "x.json"), "--target", mosquitto.url]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(binary(), [binary(), *words, "--", "sh", "-c", counts])
    seen = []

    def printed(text):
        def look():
            seen.append(os.read(terminal, 4096).decode())
            return text in "".join(seen)

        wait_until(look, f"{text!r} on the terminal")

    try:
        printed("ready")
        shell = int("".join(seen).split("ready")[1].split()[0])
        os.write(terminal, b"\x03")
        printed("one")
        os.kill(shell, signal.SIGUSR1)
        printed("got 1")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        os.close(terminal)


def test_what_a_command_does_long_after_the_last_recorded_thing_is_a_miss(mosquitto, nobody, tmp_path):
    file = tmp_path / "publish.json"
    publish = f'{needs("mosquitto_pub")} -i dev -q 1 -m x -h "$MQTT_HOST" -p "$MQTT_PORT" -t'
    assert cassette(file, mosquitto.url, "sh", "-c", f"{publish} a")[0] == 0
    code, output, errors = cassette(file, nobody, "sh", "-c", f"{publish} a; sleep 1; {publish} b; echo $?", mode="none")
    assert code == 1 and output == "0\n" and "did what is not in the recording" in errors, (output, errors)


def test_what_is_on_it_and_was_not_done_is_a_warning_unless_it_is_strict(mosquitto, nobody, tmp_path):
    file = tmp_path / "publish.json"
    publish = f'{needs("mosquitto_pub")} -i dev -q 1 -m x -h "$MQTT_HOST" -p "$MQTT_PORT" -t'
    assert cassette(file, mosquitto.url, "sh", "-c", f"{publish} a && {publish} b")[0] == 0
    for options, wanted in [([], 0), (["--verify", "payload"], 0), (["--strict"], 1)]:
        code, _, errors = cassette(file, nobody, "sh", "-c", f"{publish} a", mode="none", options=options)
        assert code == wanted and "not made again" in errors, (options, errors)


def test_a_format_that_cannot_be_played_is_refused_before_anything_runs(nobody, tmp_path):
    code, output, errors = cassette(tmp_path / "x.csv", nobody, "echo", "ran")
    assert code == 2 and "CSV" in errors and output == "", errors

"""Recordings of clients that others wrote: looked into, cut, redacted, merged and compared."""

import base64
import json
import re
import subprocess

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import Mockforge, Process, binary, needs, wait_until

MAIL = "bob@example.org"
SECRETS = {"dev-1", MAIL, "bobby", "tok-77"}
RULES = [
    "client_id=hash",
    "topic:devices/+/#=hash",
    "json:$.id=hash",
    "json:$.user.email=mask",
    "text:[a-z]+@[a-z.]+=mask",
    "user_property:token=remove",
    "username=remove",
]


@pytest.fixture(scope="module")
def server():
    with Mockforge() as started:
        yield started


def properties(kind, **values):
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish(server, *arguments):
    subprocess.run([needs("mosquitto_pub"), "-p", str(server.port), *arguments], check=True)


def traffic(server):
    """paho as a device of MQTT 5 with Will, aliases and properties; mosquitto's clients, of 3.1.1, talk to it."""
    watcher = [needs("mosquitto_sub"), "-p", server.port, "-i", "watcher", "-t", "devices/#", "-C", 5, "-W", 20]
    with Process(*watcher) as watching:
        server.wait_for_subscription("devices/#")
        device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="dev-1", protocol=mqtt.MQTTv5)
        device.username_pw_set("bobby", "hunter2")
        will = properties(PacketTypes.WILLMESSAGE, UserProperty=("token", "tok-77"))
        device.will_set("devices/dev-1/gone", json.dumps({"user": {"email": MAIL}}), properties=will)
        commands = []
        device.on_message = lambda _client, _data, message: commands.append(message)
        device.connect("127.0.0.1", server.port)
        device.loop_start()
        device.subscribe("devices/dev-1/cmd", qos=1)
        server.wait_for_subscription("devices/dev-1/cmd")
        aliased = properties(PacketTypes.PUBLISH, TopicAlias=1, UserProperty=("token", "tok-77"))
        for number in range(4):
            topic = "devices/dev-1/data" if number == 0 else ""
            payload = json.dumps({"id": "dev-1", "user": {"email": MAIL}, "n": number})
            device.publish(topic, payload, qos=1, properties=aliased).wait_for_publish(20)
        publish(server, "-i", "boss", "-u", "bobby", "-P", "hunter2", "-t", "devices/dev-1/cmd", "-m", f"ask {MAIL}", "-q", "2")
        wait_until(lambda: commands, "the command")
        device.disconnect()
        device.loop_stop()
        assert watching.wait() == 0


def record(server, name, **more):
    server.rest("/recordings", {"name": name, **more})
    traffic(server)
    return server.rest(f"/recordings/{name}:stop", {})


def printed(server, *arguments):
    code, out, err = server.ask("recordings", *arguments)
    assert code == 0, err
    return out


def events(server, name, *flags):
    return printed(server, "show", name, "--events", *flags).splitlines()


def exported(server, name, folder):
    """The file, and what is in base64 there as text."""
    path = folder / f"{name}.json"
    printed(server, "export", name, "--output", path)
    text = path.read_text()
    bases = re.findall(r'"(?:raw|payload|received|sent)": *"([A-Za-z0-9+/]{8,}=*)"', text)
    decoded = [base64.b64decode(base + "===").decode("latin1") for base in bases if len(base) % 4 == 0]
    return text, "\n".join([text, *decoded])


def test_what_clients_did_is_shown(server):
    record(server, "shown")
    shown = printed(server, "show", "shown")
    assert "traffic  |" in shown and re.search(r"devices/dev-1/data +4 +4", shown), shown
    lines = events(server, "shown", "--client", "dev-1")
    assert "OPEN" in lines[0] and "CONNECT dev-1 v=5" in lines[1], lines
    # Aliases are told by the topic they stand for.
    assert sum("→ PUBLISH devices/dev-1/data" in line for line in lines) == 4, lines
    watcher = events(server, "shown", "--client", "watch*", "--type", "publish,subscribe")
    assert len(watcher) == 6 and all(" watcher " in line for line in watcher), watcher
    assert events(server, "shown", "--topic", "devices/+/cmd", "--direction", "s2c", "--client", "dev-1")
    assert ": good, " in printed(server, "check", "shown")


def test_nothing_that_rules_name_is_left_whether_taken_out_before_or_afterwards(server, tmp_path):
    key = tmp_path / "key"
    key.write_text("a key\n")
    record(server, "plain")
    redaction = {"rules": RULES, "key": base64.b64encode(b"a key").decode()}
    notes = record(server, "clean", redaction=redaction)["notes"]
    assert "redacted by client_id=hash" in notes[0], notes
    flags = [word for rule in RULES for word in ("--redact", rule)]
    report = printed(server, "redact", "plain", "--name", "redacted", *flags, "--redaction-key", key)
    assert re.search(r"client_id=hash +\d+ +\d+", report), report
    texts = {name: exported(server, name, tmp_path) for name in ["plain", "clean", "redacted"]}
    for name, expected in [("plain", SECRETS), ("clean", set()), ("redacted", set())]:
        found = {secret for secret in SECRETS | {"hunter2"} if secret in texts[name][1]}
        assert found == expected, name
        assert ": good, " in printed(server, "check", name)
    # Who is who can still be told, and the same key gives the same hash both times.
    clients = {name: {one["client_id"] for one in json.loads(texts[name][0])["connections"]} for name in texts}
    assert clients["clean"] == clients["redacted"] and len(clients["clean"]) == 3


def test_a_part_begins_with_what_stood_and_can_be_replayed(server):
    record(server, "whole")
    code, out, err = server.ask("-o", "json", "recordings", "show", "whole", "--events", "--client", "dev-1", "--type", "publish")
    assert code == 0, err
    third = json.loads(out.splitlines()[2])
    code, out, err = server.ask("-o", "json", "recordings", "trim", "whole", "--start", third["at"], "--client", "dev-1")
    assert code == 0 and "topic spelled out" in err, err
    part = json.loads(out)
    lines = events(server, part["name"])
    assert any("was open already, MQTT 5" in line for line in lines), lines
    assert any("STATE of dev-1: SUBSCRIBE 1 devices/dev-1/cmd qos=1" in line for line in lines), lines
    assert sum("→ PUBLISH devices/dev-1/data" in line for line in lines) == 2, lines
    code, out, err = server.ask("mqtt", "replay", "--recording", part["name"], "--target", server.url, "--speed", "max")
    assert code == 0 and "2" in out, err


def test_two_runs_of_one_client_do_not_differ_and_one_that_does_is_told(server):
    for name, payload in [("first", "2"), ("second", "2"), ("third", "3")]:
        server.rest("/recordings", {"name": name})
        for message in ["1", payload]:
            publish(server, "-i", "job", "-t", "a", "-q", "1", "-m", message)
            wait_until(lambda: not server.rest("/mqtt/clients").get("clients"), "its DISCONNECT to arrive")
        server.rest(f"/recordings/{name}:stop", {})
    for level in ["count", "payload", "packets"]:
        same = printed(server, "compare", "first", "second", "--level", level)
        figures = re.match(r"(\d+) of (\d+) expected", same).groups()
        assert figures[0] == figures[1] != "0" and "differences" not in same, same
    assert server.ask("recordings", "compare", "first", "third", "--level", "count")[0] == 0
    code, out, _ = server.ask("recordings", "compare", "first", "third")
    assert code == 1
    assert "changed job (session 2) c2s a\n    $: 2 → 3\n" in out, out
    answer = server.rest("/recordings:compare", {"first": "first", "second": "third", "level": "payload", "reports": ["junit"]})
    assert not answer.get("passed") and answer["verification"]["counts"] == {"changed": 1}, answer
    assert answer["reports"][0]["content_type"] == "application/xml", answer
    assert "4 connections" in printed(server, "merge", "first", "third", "--name", "both")


def test_a_tail_prints_packets_as_they_come(server):
    server.rest("/recordings", {"name": "live"})
    control = f"127.0.0.1:{server.grpc}"
    command = [binary(), "--server", control, "recordings", "tail", "live", "--type", "publish", "--client", "pub-*"]
    with Process(*command) as tail:

        def seen():
            # Until the tail listens, nobody knows what it misses.
            publish(server, "-i", "other", "-t", "seen", "-m", "now")
            publish(server, "-i", "pub-1", "-t", "seen", "-m", "now")
            return tail.lines

        line = wait_until(seen, "a line of the tail")[0]
        assert "pub-1" in line and 'PUBLISH seen "now"' in line, line
        server.rest("/recordings/live:stop", {})
        assert tail.wait() == 0
        assert not any("other" in line for line in tail.lines)
    code, _, err = server.ask("recordings", "tail", "live")
    assert code == 2 and "show --events live" in err, err

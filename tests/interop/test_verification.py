"""Recordings of others' traffic, replayed as the clients: verification passes on brokers that behave, and names what was planted."""

import base64
import copy
import json

import pytest

from junit import read_junit
from peers import ROOT, Mockforge, Mosquitto, run

SAMPLES = ["commands", "reconnects", "sensor-fleet"]


@pytest.fixture(params=["mosquitto", "mockforge"])
def broker(request):
    """A broker that nobody has used yet."""
    with Mosquitto() if request.param == "mosquitto" else Mockforge() as started:
        yield started


def sample(name):
    return json.loads((ROOT / "recordings" / f"{name}.json").read_text())


def replay(broker, file, *arguments, cwd):
    command = ["mqtt", "replay", "--input", file, "--mode", "client", "--target", broker.url]
    return run(*command, "--verify", "packets", "--settle", "1s", "-o", "json", *arguments, cwd=cwd)


@pytest.mark.parametrize("speed", ["1", "10", "max"])
@pytest.mark.parametrize("name", SAMPLES)
def test_what_a_broker_answered_it_answers_again(broker, tmp_path, name, speed):
    code, output, errors = replay(broker, ROOT / "recordings" / f"{name}.json", "--speed", speed, cwd=tmp_path)
    assert code == 0, output + errors
    verification = json.loads(output)["verification"]
    assert verification["passed"] and verification["matched"] == verification["expected"] > 100


def delivered(session, topic, nth=0):
    """The n-th delivery of a topic."""
    found = [
        event
        for event in session["events"]
        if event.get("dir") == "s2c" and event.get("type") == "PUBLISH" and event.get("topic") == topic
    ]
    return found[nth]


def answer(session, packet, nth=0):
    found = [event for event in session["events"] if event.get("dir") == "s2c" and event.get("type") == packet]
    return found[nth]


def change(event, **fields):
    event.pop("raw", None)
    for name, value in fields.items():
        if name in ("payload", "properties"):
            event["payload_encoding"] = "utf8"
        event[name] = value


def patch(event, place, value):
    """Changes a byte of a packet that has no other form."""
    packet = bytearray(base64.b64decode(event["raw"]))
    packet[place] = value
    event["raw"] = base64.b64encode(packet).decode()


def without(session, event):
    session["events"].remove(event)


def without_exchange(session, event):
    """A delivery of QoS 2 and what was said about it."""
    place = session["events"].index(event)
    ours = [
        one
        for one in session["events"][place:]
        if one.get("conn") == event["conn"] and one.get("packet_id") == event["packet_id"]
    ]
    steps = [("PUBREC", "c2s"), ("PUBREL", "s2c"), ("PUBCOMP", "c2s")]
    for step in steps:
        without(session, next(one for one in ours if (one.get("type"), one.get("dir")) == step))
    without(session, event)


def twice(session, event):
    place = session["events"].index(event)
    session["events"].insert(place, copy.deepcopy(event))


def swapped(session, first, second):
    """What two deliveries say."""
    for name in ("payload", "payload_encoding", "properties"):
        first[name], second[name] = second[name], first[name]
    for event in (first, second):
        event.pop("raw", None)


COMMANDS = "plant/press-7/commands"
REPLIES = "plant/replies/control-room"


def properties(session, topic, name, value):
    event = delivered(session, topic)
    change(event, properties={**event["properties"], name: value})


# What is planted in the recording, and how it is told: kind, subject, and the path of a change.
PLANTED = {
    "a value in the payload": (
        lambda s: change(delivered(s, COMMANDS), payload='{"do": "close", "n": 0}'),
        ("changed", COMMANDS, "$.do"),
    ),
    "a payload that is no JSON": (
        lambda s: change(delivered(s, COMMANDS, 1), payload="\u0000\u0001"),
        ("changed", COMMANDS, "payload"),
    ),
    "another QoS": (lambda s: change(delivered(s, COMMANDS, 2), qos=1), ("changed", COMMANDS, "qos")),
    "RETAIN": (lambda s: change(delivered(s, REPLIES, 1), retain=True), ("changed", REPLIES, "retain")),
    "another Content Type": (
        lambda s: properties(s, REPLIES, "content_type", "text/plain"),
        ("changed", REPLIES, "properties.content_type"),
    ),
    "other Correlation Data": (
        lambda s: properties(s, REPLIES, "correlation_data", "AAAA"),
        ("changed", REPLIES, "properties.correlation_data"),
    ),
    "another Response Topic": (
        lambda s: properties(s, COMMANDS, "response_topic", "somewhere/else"),
        ("changed", COMMANDS, "properties.response_topic"),
    ),
    "another User Property": (
        lambda s: properties(s, REPLIES, "user_properties", [["firmware", "2.4.2"], ["trace", "ünïcode"]]),
        ("changed", REPLIES, "properties.user.firmware"),
    ),
    "a User Property more": (
        lambda s: properties(
            s, REPLIES, "user_properties", [["firmware", "2.4.1"], ["trace", "ünïcode"], ["more", "1"]]
        ),
        ("changed", REPLIES, "properties.user.more"),
    ),
    "a message that never came": (
        lambda s: change(delivered(s, COMMANDS, 3), topic="plant/press-7/other"),
        ("changed", "plant/press-7/other", "topic"),
    ),
    "a message too few": (lambda s: without_exchange(s, delivered(s, COMMANDS, 4)), ("unexpected", COMMANDS, None)),
    "swapped order": (
        lambda s: swapped(s, delivered(s, COMMANDS, 5), delivered(s, COMMANDS, 6)),
        ("moved", COMMANDS, None),
    ),
    "a message that came twice": (
        lambda s: twice(s, delivered(s, COMMANDS, 7)),
        ("missing", COMMANDS, None),
    ),
    "another Reason Code of SUBACK": (
        lambda s: patch(answer(s, "SUBACK"), -1, 1),
        ("changed", "subscriptions", "reason_codes[0]"),
    ),
    "a refused subscription": (
        lambda s: patch(answer(s, "SUBACK", 1), -1, 0x87),
        ("changed", "subscriptions", "reason_codes[0]"),
    ),
    "Session Present": (
        lambda s: patch(answer(s, "CONNACK"), 2, 1),
        ("changed", "connection", "session_present"),
    ),
    "another Reason Code of PUBCOMP": (
        lambda s: change(answer(s, "PUBCOMP", 1), reason_code=0x92),
        ("changed", "PUBCOMP", "reason_code"),
    ),
    "an ack too few": (lambda s: without(s, answer(s, "PUBCOMP", 3)), ("unexpected", "PUBCOMP", None)),
    "a release too few": (lambda s: without(s, answer(s, "PUBREL", 3)), ("unexpected", "PUBREL", None)),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_is_named(broker, tmp_path, planted):
    plant, (kind, subject, path) = PLANTED[planted]
    session = sample("commands")
    plant(session)
    file = tmp_path / "planted.json"
    file.write_text(json.dumps(session))
    junit, page = tmp_path / "out.xml", tmp_path / "out.html"
    code, output, errors = replay(broker, file, "--speed", "20", "--junit", junit, "--html", page, cwd=tmp_path)
    assert code == 1, output + errors
    differences = json.loads(output)["verification"]["differences"]
    assert [(one["kind"], one["subject"].split(" of ")[0]) for one in differences] == [(kind, subject)], differences
    found = differences[0]
    assert [one["path"] for one in found.get("changes", [])] == ([path] if path else []), found
    suite = read_junit(junit)
    assert suite.get("failures") == "1" and kind in suite.find("testcase/failure").text
    assert kind in page.read_text()

"""Mocks, driven by mosquitto's and paho's clients: what the guide prints, requests and answers, and a device that is gone."""

import json
import re
import signal
import subprocess
import threading
import time

import pytest

from pahoclient import V5, V311, Client, texts
from peers import DEADLINE, Mockforge, Mosquitto, needs, run, wait_until

GUIDE = """
mqtt:
  enabled: true
  mocks:
    - topic: "sensors/+/temperature"
      qos: 1
      responses:
        - payload: '{"value": 23.5, "unit": "celsius"}'
          delay_ms: 100
        - payload: '{"value": 24.1, "unit": "celsius"}'
          delay_ms: 100

    - topic: "devices/#"
      qos: 0
      response:
        payload: '{"status": "acknowledged"}'
"""

TEMPLATES = """
mqtt:
  mocks:
    - topic: "sensors/{{device_id}}/data"
      response:
        payload: |
          {
            "device_id": "{{topic_parts.1}}",
            "timestamp": "{{now}}",
            "value": {{random_float 0 100}}
          }
"""


def settings(folder, text):
    (folder / "mockforge.yaml").write_text(text)
    return ["--config", folder / "mockforge.yaml"]


class Mocked(Mockforge):
    """A server with the mocks of a settings file; with an upstream, a proxy."""

    def __init__(self, folder, text, upstream=None, **variables):
        flags = ["--upstream", upstream.url] if upstream else []
        super().__init__(*settings(folder, text), *flags, **variables)


@pytest.fixture(params=["broker", "proxy"])
def mocked(request):
    """Makes servers of either kind; `seen_by` is where subscribers of mocks' answers connect."""
    started = []

    def start(folder, text, **variables):
        upstream = Mosquitto() if request.param == "proxy" else None
        started.extend([upstream] if upstream else [])
        server = Mocked(folder, text, upstream, **variables)
        started.append(server)
        return server

    yield start
    for process in reversed(started):
        process.__exit__()


def hear(server, topic, count, *flags):
    """`mosquitto_sub` that ends after so many messages, once it is subscribed."""
    listener = subprocess.Popen(
        [needs("mosquitto_sub"), "-p", str(server.port), "-t", topic, "-C", str(count), "-W", str(DEADLINE), *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    server.wait_for_subscription(topic)
    return listener


def say(server, topic, payload, *flags):
    subprocess.run(
        [needs("mosquitto_pub"), "-p", str(server.port), "-t", topic, "-m", payload, *flags], check=True, timeout=DEADLINE
    )


def test_the_guides_mocks_answer_as_printed(mocked, tmp_path):
    server = mocked(tmp_path, GUIDE)
    listener = hear(server, "sensors/#", 3, "-q", "1", "-F", "%t %q %p")
    say(server, "sensors/a/temperature", "now?", "-q", "1")
    assert listener.communicate(timeout=DEADLINE)[0].splitlines() == [
        "sensors/a/temperature 1 now?",
        'sensors/a/temperature 1 {"value": 23.5, "unit": "celsius"}',
        'sensors/a/temperature 1 {"value": 24.1, "unit": "celsius"}',
    ]
    listener = hear(server, "devices/#", 2, "-F", "%t %p")
    say(server, "devices/d1/config", "x")
    assert listener.communicate(timeout=DEADLINE)[0].splitlines() == [
        "devices/d1/config x",
        'devices/d1/config {"status": "acknowledged"}',
    ]

    def are_counted():
        # An answer may arrive before what became of it is noted.
        fired = {mock["id"]: (mock["fired"], mock["sent"]) for mock in server.rest("/mocks")["mocks"]}
        return fired == {"mock-1": (1, 2), "mock-2": (1, 1)}

    wait_until(are_counted, "what fired to be counted")


def test_the_guides_template_is_rendered(mocked, tmp_path):
    server = mocked(tmp_path, TEMPLATES)
    listener = hear(server, "sensors/+/data", 2, "-N", "-F", "%p\x1e")
    say(server, "sensors/dev-7/data", "?")
    first, second, _ = listener.communicate(timeout=DEADLINE)[0].split("\x1e")
    answer = json.loads(second if first == "?" else first)
    assert answer["device_id"] == "dev-7" and 0 <= answer["value"] < 100
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["timestamp"])


def test_what_a_client_sends_is_text(mocked, tmp_path):
    text = "mqtt:\n  mock_env: HOME\n  mocks:\n    - {topic: echo, response: {topic: back, payload: '{{payload_raw}}'}}\n"
    server = mocked(tmp_path, text)
    listener = hear(server, "back", 1)
    say(server, "echo", '{{env "HOME"}}')
    assert listener.communicate(timeout=DEADLINE)[0] == '{{env "HOME"}}\n'


REQUESTS = 1000


@pytest.mark.parametrize("version", [V5, V311], ids=["5.0", "3.1.1"])
def test_a_thousand_requests_at_once_get_each_its_own_answer(mocked, tmp_path, version):
    """Half of the answers wait for a while, so that they overtake each other."""
    text = """
mqtt:
  seed: 1
  mocks:
    - topic: "devices/{{id}}/cmd"
      qos: 1
      reply_to: "$.reply_to"
      response:
        payload: '{"device": "{{id}}", "number": {{payload.number}}}'
        delay_ms: {min: 0, max: 300}
"""
    server = mocked(tmp_path, text)
    with Client(server, version, "backend") as backend:
        backend.paho.max_inflight_messages_set(REQUESTS)
        backend.connect()
        backend.subscribe("replies/#", 1)
        for number in range(REQUESTS):
            request, given = {"number": number}, {}
            if version == V5:
                given = {"ResponseTopic": "replies/backend", "CorrelationData": b"\x00\xff%d" % number}
            else:
                request["reply_to"] = f"replies/{number}"
            backend.send(f"devices/d{number % 7}/cmd", json.dumps(request), 1, **given)
        answers = [backend.hear() for _ in range(REQUESTS)]
        assert backend.messages.empty()
    numbers = []
    for answer in answers:
        content = json.loads(answer.payload)
        assert content["device"] == f"d{content['number'] % 7}"
        if version == V5:
            assert answer.properties.CorrelationData == b"\x00\xff%d" % content["number"]
        else:
            assert answer.topic == f"replies/{content['number']}"
        numbers.append(content["number"])
    assert sorted(numbers) == list(range(REQUESTS))
    assert numbers != sorted(numbers), "delays had no effect"


def test_a_message_that_is_intercepted_reaches_nobody(mocked, tmp_path):
    text = "mqtt:\n  mocks:\n    - {topic: 'secret/#', route: false, response: {topic: told, payload: '{{topic}}', qos: 1}}\n"
    server = mocked(tmp_path, text)
    with Client(server, V5, "all") as everybody, Client(server, V5, "one", session=True) as one:
        everybody.connect()
        everybody.subscribe("#", 2)
        one.connect()
        for qos in (0, 1, 2):
            # Whoever publishes is acknowledged all the same.
            assert one.publish(f"secret/{qos}", "x", qos) == 0
            assert one.publish(f"open/{qos}", "x", qos) == 0
        heard = sorted(f"{m.topic} {m.payload.decode()}" for m in (everybody.hear() for _ in range(6)))
    assert heard == ["open/0 x", "open/1 x", "open/2 x", "told secret/0", "told secret/1", "told secret/2"]


def test_mocks_that_answer_each_other_end(mocked, tmp_path):
    text = """
mqtt:
  mocks:
    - {topic: ping, trigger_on_synthetic: true, response: {topic: pong, payload: "{{count}}"}}
    - {topic: pong, trigger_on_synthetic: true, response: {topic: ping, payload: "{{count}}"}}
    - {topic: quiet, response: {topic: quiet, payload: answer}}
"""
    server = mocked(tmp_path, text)
    with Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("#", 0)
        client.publish("ping", "0", 1)
        client.publish("quiet", "ask", 1)
        heard = []
        while sum(message.topic == "quiet" for message in heard) < 2 or len(heard) < 11:
            heard.append(client.hear())
        client.publish("end", "", 1)
        heard += client.hear_until_topic("end")
    chain = [message.topic for message in heard if message.topic in ("ping", "pong")]
    # The client's, and one of each mock in turn, eight deep.
    assert chain == ["ping", "pong"] * 4 + ["ping"]
    assert texts(message for message in heard if message.topic == "quiet") == ["ask", "answer"]


def test_connecting_subscribing_and_time_trigger_too(mocked, tmp_path):
    text = """
mqtt:
  mocks:
    - {on: connect, when: {client: "dev-*"}, response: {topic: "hello/{{client_id}}", payload: "{{username}}"}}
    - {on: subscribe, topic: "config/{{device}}", response: {payload: "for {{device}}", delay_ms: 20}}
    - {on: interval, topic: tick, interval_ms: 100, response: {payload: "{{count}}"}}
"""
    server = mocked(tmp_path, text)
    with Client(server, V311, "watcher") as watcher:
        watcher.connect()
        watcher.subscribe("hello/#", 0)
        with Client(server, V5, "dev-1") as device:
            device.paho.username_pw_set("ann", "pw")
            device.connect()
            assert texts([watcher.hear()]) == ["ann"]
            device.subscribe("config/dev-1", 0)
            assert texts([device.hear()]) == ["for dev-1"]
        watcher.subscribe("tick", 0)
        ticks = [int(watcher.hear().payload) for _ in range(3)]
        assert ticks == list(range(ticks[0], ticks[0] + 3))


def test_mocks_and_state_change_while_the_server_runs(mocked, tmp_path):
    server = mocked(tmp_path, "mqtt: {enabled: true}\n")
    with Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("answer", 1)
        client.publish("ask", "nobody", 1)
        made = server.rest("/mocks", {"topic": "ask", "responses": [{"topic": "answer", "payload": {"mode": "{{state.mode}}"}}]})
        server.rest("/state/global/mode", {"value": "eco"}, "PUT")
        client.publish("ask", "?", 1)
        assert texts([client.hear()]) == ['{"mode":"eco"}']
        changed = {**made, "responses": [{"topic": "answer", "payload": "second"}]}
        server.rest(f"/mocks/{made['id']}", changed, "PUT")
        client.publish("ask", "?", 1)
        assert texts([client.hear()]) == ["second"]
        server.rest(f"/mocks/{made['id']}", method="DELETE")
        client.publish("ask", "?", 1)
        client.publish("answer", "by hand", 1)
        assert texts([client.hear()]) == ["by hand"]


def test_rest_takes_mocks_as_the_settings_write_them(mocked, tmp_path):
    server = mocked(tmp_path, "mqtt: {enabled: true}\n")
    answer = {"topic": "devices/{{id}}", "payload": {"on": True}, "delay_ms": 5, "repeat": {"count": 2}}
    made = server.rest("/mocks", {"id": "short", "topic": "devices/{{id}}/get", "response": answer})
    [response] = made["responses"]
    assert (response["payload"], response["delay"], response["repeat_count"]) == ({"on": True}, {"fixed_ms": 5}, 2)
    patched = {"when": {"payload": {"$.v": 5, "regex": "v"}, "user": {"n": 7}}, "response": answer}
    made = server.rest("/mocks/short", patched, "PATCH")
    assert made["when"]["payload"]["$.v"]["equals"] == 5 and made["when"]["payload_text"]["regex"] == "v", made
    assert server.rest("/mocks/short", made, "PUT")["when"] == made["when"]
    with Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("devices/+", 1)
        say(server, "devices/d1/get", '{"v":6}', "-V", "mqttv5", "-D", "publish", "user-property", "n", "7")
        say(server, "devices/d2/get", '{"v":5}', "-V", "mqttv5", "-D", "publish", "user-property", "n", "7")
        heard = [client.hear(), client.hear()]
        assert [(message.topic, message.payload) for message in heard] == [("devices/d2", b'{"on":true}')] * 2


def test_messages_that_no_mock_matched_are_told(mocked, tmp_path):
    server = mocked(tmp_path, TEMPLATES)
    for number in range(3):
        say(server, "sensor/d1/data", str(number), "-i", "dev", "-q", "1")
    code, output, errors = server.ask("mocks", "unmatched")
    assert code == 0, errors
    assert re.search(r"3\s+sensor/d1/data\s+dev\s+mock-1\s+.*level 0 is \"sensor\", not \"sensors\"", output), output


class Device(threading.Thread):
    """Answers commands: the device that is to be replaced."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.client = Client(broker, V5, "press-7")
        self.client.connect()
        self.client.subscribe("plant/press-7/commands", 1)
        self.start()

    def run(self):
        while True:
            message = self.client.messages.get()
            if message is None:
                return
            asked = json.loads(message.payload)
            time.sleep(0.01)
            answer = {"ok": True, "id": asked["id"], "did": asked["do"]}
            self.client.publish(
                message.properties.ResponseTopic, json.dumps(answer), 1, CorrelationData=message.properties.CorrelationData
            )

    def end(self):
        self.client.messages.put(None)
        self.join(DEADLINE)
        self.client.disconnect()


def drive(broker):
    """What the backend under test does; fails unless it is answered well."""
    with Client(broker, V5, "control-room") as backend:
        backend.connect()
        backend.subscribe("plant/replies", 1)
        for number in range(6):
            do = ["open", "close"][number % 2]
            data = b"job-%d" % number
            backend.publish(
                "plant/press-7/commands",
                json.dumps({"id": number, "do": do}),
                1,
                ResponseTopic="plant/replies",
                CorrelationData=data,
            )
            answer = backend.hear()
            assert answer.properties.CorrelationData == data
            assert json.loads(answer.payload) == {"ok": True, "id": number, "did": do}


def test_a_recorded_device_is_replaced_by_its_mocks(tmp_path):
    store = tmp_path / "store"
    with Mockforge("--record", "plant", store=store) as server:
        device = Device(server)
        drive(server)
        device.end()
        assert server.end() == 0
    code, output, errors = run("recordings", "mocks", "plant", env={"MOCKFORGE_STORE_PATH": str(store)})
    assert code == 0, errors
    with Mocked(tmp_path, output) as server:
        drive(server)


def test_what_is_wrong_with_a_mock_is_told_with_its_place(tmp_path):
    for text, told in [
        ("mqtt:\n  mocks:\n    - topic: a\n      respons: {}\n", r':4:16: mqtt\.mocks\[0\]\.respons: unknown key "respons"; did you mean "response"\?'),
        ("mqtt:\n  mocks: [\n", r"mockforge.yaml:\d+:\d+: "),
        ("mqtt:\n  mocks:\n    - topic: a\n      response: {payload: '{{#if x}}'}\n", r":4:27: mqtt\.mocks\[0\]\.response\.payload: line 1, column \d+: "),
        ("mqtt:\n  mocks:\n    - {topic: a, when: {payload: {$.: 1}}}\n", r'\.payload\.\$\.: "\$\." is no JSONPath'),
        ("mqtt:\n  mocks:\n    - {topic: a, response: {payload: '{{uid}}'}}\n", r'unknown value "uid"|unknown helper "uid"'),
        ("mqtt:\n  mocks:\n    - {topic: a, response: {payload: '{{random_in 1 2}}'}}\n", r'unknown helper "random_in"; did you mean "random_int"\?'),
    ]:
        code, _, errors = run("config", "check", *settings(tmp_path, text))
        assert code == 2, text
        assert re.search(told, errors), errors


def test_the_settings_are_read_again_on_sighup(tmp_path):
    mock = "mqtt:\n  mocks:\n    - {topic: a, response: {topic: b, payload: %s}}\n"
    server = Mocked(tmp_path, mock % "old")
    with server, Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("b", 0)
        client.publish("a", "?", 1)
        assert texts([client.hear()]) == ["old"]
        # What is refused changes nothing.
        for text, said in [(mock % "'{{nme}}'", 'unknown value "nme"'), (mock % "new", "the settings were read again.*mocks=1")]:
            settings(tmp_path, text)
            server.child.send_signal(signal.SIGHUP)
            server.wait_for(said)
            client.publish("a", "?", 1)
            heard = texts([client.hear()])
        assert heard == ["new"]
        (tmp_path / "mockforge.yaml").unlink()
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("are refused: .*mockforge.yaml")
        client.publish("a", "?", 1)
        assert texts([client.hear()]) == ["new"]
        assert client.messages.empty()


def test_a_recording_says_which_mock_fired(tmp_path):
    text = "mqtt:\n  mocks:\n    - {id: echo, topic: 'a/+', response: {payload: x, repeat: {count: 2}}}\n"
    with Mocked(tmp_path, text) as server:
        server.rest("/recordings", {"name": "mocked"})
        say(server, "a/b", "?", "-i", "dev", "-q", "1")
        server.rest("/recordings/mocked:stop", {})
        events = server.rest("/recordings/mocked/events")["events"]
    assert [event["mock"] for event in events if "mock" in event] == [
        {"mock": "echo", "client_id": "dev", "topic": "a/b", "messages": 2}
    ]

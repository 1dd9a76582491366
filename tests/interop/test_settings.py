"""Settings by others' eyes: the JSON Schema by a validator of its own, `init`, and a running server that is given others."""

import json
import re
import shutil
import signal
import subprocess

import jsonschema
import pytest
import yaml

from peers import ROOT, Mockforge, run

# As the user guide prints them.
GUIDE = [
    "mqtt: {enabled: true, port: 1883, host: '0.0.0.0', max_connections: 1000, max_packet_size: 65536, keep_alive_secs: 60}",
    """
mqtt:
  mocks:
    - topic: "sensors/+/temperature"
      qos: 1
      responses:
        - payload: '{"value": 23.5, "unit": "celsius"}'
          delay_ms: 100
    - topic: "sensors/{{device_id}}/data"
      response:
        payload: |
          {"device_id": "{{topic_parts.1}}", "value": {{random_float 0 100}}}
""",
    "mqtt: {chaos: {enabled: true, disconnect_probability: 0.05, packet_loss: 0.01, latency: {min_ms: 10, max_ms: 100}}}",
    "mqtt: {chaos: {slow_subscriber: {enabled: true, delay_ms: 5000, affected_topics: ['slow/#']}}}",
    "mqtt: {webhooks: [{topic: 'orders/+/created', url: 'http://localhost:8080/webhook/order', method: POST, headers: {X-Source: mqtt}}]}",
]

# What people write beside that; each is taken by the program, too.
GOOD = [
    "mqtt:\n",
    "mqtt: {port: }\n",
    "mqtt: {enabled: 'on', seed: 18446744073709551615}\n",
    "mqtt: {seed: ''}\n",
    "mqtt: {durability: strict, limits: {maximum_qos: 1, session_expiry_max_secs: 0}}\n",
    "mqtt: {tls: {min_version: '1.3'}}\n",
    "mqtt: {mocks: [{id: a, on: interval, topic: t, interval_ms: 5, response: {payload: {v: 1}}}]}\n",
    "mqtt: {mocks: [{topic: t, when: {qos: [1, 2], payload: {$.a: {gt: 3}, regex: x}, user: {k: v}, nth: {every: 2}}, mode: weighted, "
    "responses: [{payload: [1], delay_ms: {min: 1, max: 2}, repeat: {count: 2}, weight: 0.5}, {payload_base64: AA==, properties: {user: {a: b}}}]}]}\n",
    "mqtt: {mocks: [{topic: t, when: {qos: 1, payload: text, state: {k: {exists: false}}, nth: 3}, set_state: {a: [1]}, continue: true, route: false}]}\n",
    "mqtt: {chaos: {rules: [{actions: [drop, {latency: 50}, {latency: {mean_ms: 5, sd_ms: 1}}, {corrupt: }, {disconnect: {mode: fin, at_byte: 3}}]}]}}\n",
    "mqtt: {chaos: {rules: [{match: {client: [a, b], types: publish, qos: 1, direction: c2s}, when: {probability: 0.5, max_count: 3}, actions: [drop]}]}}\n",
    "mqtt: {chaos: {rules: [{match: {types: [connack]}, actions: [{capabilities: {maximum_qos: 0}}, {reason_code: 151}, {blackhole: {duration: 5s}}]}]}}\n",
    "mqtt: {users: [{username: a, groups: [b]}], acl: [{allow: [publish, subscribe], topics: ['a/%c'], users: [a]}, {deny: all, topics: ['#']}]}\n",
    "api_tokens: [{name: ci, role: control, token: abc}]\n",
    "recorder: {ring_bytes: 65536, ring_triggers: [{on: error}, {topic: a, when: {payload: {$.a: 1}}}]}\n",
    "http: {allowed_hosts: ['*.example.com']}\n",
    "mqtt: {proxies: [{id: edge, listen: 1885, upstream: 'mqtt://broker.example'}, {id: b, listen: '0.0.0.0:0', upstream: 'ws://b', enabled: false}]}\n",
]

# Each is wrong in its shape; the program refuses all of them, too.
WRONG = [
    "mqqt: {}",
    "mqtt: {prot: 1}",
    "mqtt: {tls: {prot: 1}}",
    "mqtt: 5",
    "mqtt: [1]",
    "mqtt: {port: many}",
    "mqtt: {port: 70000}",
    "mqtt: {port: -1}",
    "mqtt: {port: [1]}",
    "mqtt: {enabled: 3}",
    "mqtt: {enabled: maybe}",
    "mqtt: {host: 5}",
    "mqtt: {durability: sometimes}",
    "mqtt: {tls: {min_version: '1.1'}}",
    "mqtt: {chaos: {packet_loss: 2}}",
    "mqtt: {chaos: {packet_loss: some}}",
    "mqtt: {seed: x}",
    "mqtt: {mocks: {topic: a}}",
    "mqtt: {mocks: [a]}",
    "mqtt: {mocks: [{topic: a, qos: 3}]}",
    "mqtt: {mocks: [{topic: a, mode: randm}]}",
    "mqtt: {mocks: [{topic: a, response: {dealy_ms: 5}}]}",
    "mqtt: {mocks: [{topic: a, response: {delay_ms: soon}}]}",
    "mqtt: {mocks: [{topic: a, when: {user: {k: {greater: 3}}}}]}",
    "mqtt: {mocks: [{topic: a, when: {qos: 7}}]}",
    "mqtt: {webhooks: [{topic: a}]}",
    "mqtt: {webhooks: [{topic: a, url: 'http://h', retires: 1}]}",
    "mqtt: {webhooks: [{topic: a, url: 'http://h', secret: 12345}]}",
    "mqtt: {chaos: {rules: [{id: x}]}}",
    "mqtt: {chaos: {rules: [{actions: []}]}}",
    "mqtt: {chaos: {rules: [{actions: [dorp]}]}}",
    "mqtt: {chaos: {rules: [{actions: [{drop: {}, latency: 5}]}]}}",
    "mqtt: {chaos: {rules: [{actions: [{latency: {min: 5}}]}]}}",
    "mqtt: {chaos: {rules: [{when: {probability: 1.5}, actions: [drop]}]}}",
    "mqtt: {chaos: {rules: [{match: {qos: 3}, actions: [drop]}]}}",
    "mqtt: {proxies: [{id: a}]}",
    "mqtt: {proxies: [{id: a, upstream: 'mqtt://a', listen: 70000}]}",
    "mqtt: {users: [{name: a}]}",
    "mqtt: {acl: [{allow: read, topics: [a]}]}",
    "mqtt: {acl: [{allow: all}]}",
    "api_tokens: [{name: ci, role: root, token: x}]",
    "api_tokens: [{role: read, token: x}]",
    "recorder: {on_overload: wait}",
    "recorder: {ring_triggers: [{on: nothing}]}",
    "store: {flush_interval_ms: 60001}",
    "log: {level: 5}",
    "http: {allowed_hosts: [5]}",
]


class Yaml12(yaml.SafeLoader):
    """Where `on` is a text, as it is to editors and to us."""


Yaml12.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")


def read(text):
    return yaml.load(text, Yaml12)


@pytest.fixture(scope="module")
def validator():
    code, out, err = run("config", "schema")
    assert code == 0, err
    schema = json.loads(out)
    kind = jsonschema.validators.validator_for(schema, default=None)
    assert kind is jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema)


def checked(text, folder):
    """Whether the program takes the settings, and what it says."""
    (folder / "mockforge.yaml").write_text(text)
    code, out, err = run("config", "check", cwd=folder)
    assert code in (0, 2), err
    return code == 0, out + err


def in_readme():
    """The blocks of the README that are settings."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    keys = {"mqtt", "http", "grpc", "api_token", "api_tokens", "client", "store", "recorder", "log", "journal", "proxies"}
    values = [(block, read(block)) for block in blocks]
    return [block for block, value in values if isinstance(value, dict) and set(value) <= keys]


def test_every_settings_document_is_valid(validator, tmp_path):
    documents = in_readme()
    assert len(documents) > 5
    for text in GUIDE + GOOD + documents:
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(read(text))]
        assert not errors, f"{text}\n{errors}"
    for text in GUIDE + GOOD:
        good, said = checked(text, tmp_path)
        assert good, f"{text}\n{said}"


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_one_is_not(validator, text, tmp_path):
    assert not validator.is_valid(read(text))
    good, said = checked(text, tmp_path)
    assert not good and "mockforge.yaml:1:" in said, said


def test_numbers_have_their_range(validator):
    assert validator.schema["properties"]["mqtt"]["properties"]["port"] == {
        "default": 1883,
        "description": "0 takes a free one",
        "maximum": 65535,
        "minimum": 0,
        "type": ["integer", "null"],
    }


def test_closed_sets_are_enums(validator):
    mqtt = validator.schema["properties"]["mqtt"]["properties"]
    assert "lossy-wifi" in mqtt["chaos"]["properties"]["profile"]["enum"]
    assert "warn" in validator.schema["properties"]["log"]["properties"]["level"]["anyOf"][0]["enum"]
    rule = lambda **match: {"mqtt": {"chaos": {"rules": [{"match": match, "actions": ["drop"]}]}}}
    for good in ("PUBLISH", "publish", ["Publish", "PUBACK"]):
        assert validator.is_valid(rule(types=good)), good
    assert not validator.is_valid(rule(types=["PUBLSH"])) and not validator.is_valid(rule(direction="up"))


def test_init_writes_a_server_that_works(validator, tmp_path):
    code, out, err = run("init", cwd=tmp_path)
    assert code == 0, err
    text = (tmp_path / "mockforge.yaml").read_text()
    first = text.splitlines()[0]
    schema = tmp_path / re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)[1]
    assert json.loads(schema.read_text()) == validator.schema
    assert validator.is_valid(read(text))
    code, _, err = run("init", cwd=tmp_path)
    assert code == 2 and "is there already" in err
    with Mockforge("--config", tmp_path / "mockforge.yaml") as server:
        pong = subprocess.Popen(
            ["mosquitto_sub", "-p", str(server.port), "-t", "pong/#", "-v", "-C", "1", "-W", "20"], stdout=subprocess.PIPE, text=True
        )
        server.wait_for_subscription("pong/#")
        subprocess.run(["mosquitto_pub", "-p", str(server.port), "-t", "ping/me", "-m", "x"], check=True, timeout=20)
        assert pong.communicate(timeout=20)[0].startswith('pong/me {"')


def test_a_running_server_is_given_other_settings(tmp_path):
    with Mockforge() as server:
        file = tmp_path / "other.yaml"
        file.write_text("mqtt:\n  prot: 1\n  mocks: [{topic: 'a/#/b'}]\n")
        code, out, err = server.ask("config", "apply", file)
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            f'mockforge: {file}:2:3: unknown key "prot" in mqtt; did you mean "port"?',
            f"{file}:3:19: mqtt.mocks[0].topic: level 1: '#' stands alone and last",
        ]
        file.write_text("mqtt:\n  max_connections: 7\n  mocks: [{id: m, topic: a, response: {topic: b, payload: c}}]\n")
        code, out, err = server.ask("config", "apply", "--dry-run", file)
        assert code == 0, err
        assert "mqtt.max_connections: 1000 -> 7 (of no effect: it takes a start with a settings file that says so)" in out
        assert "mqtt.mocks: - -> 1 entry" in out
        assert out.endswith("is good; 1 setting would change, and 1 cannot while the server runs\n")
        assert server.rest("/mocks")["mocks"] == []
        code, out, err = server.ask("config", "apply", file)
        assert code == 0, err
        assert [mock["id"] for mock in server.rest("/mocks")["mocks"]] == ["m"]
        shown = {setting["key"]: setting for setting in server.rest("/config")["settings"]}
        limit = shown["mqtt.max_connections"]
        assert (limit["value"], limit["next_value"], limit["effect"]) == (1000, 7, "CONFIG_EFFECT_AT_NEXT_START")
        assert shown["mqtt.mocks"]["value"][0]["id"] == "m"
        assert shown["mqtt.mocks"]["origin"] == f"{file}:3"
        assert shown["mqtt.port"]["origin"] == "--mqtt-port"
        code, out, err = server.ask("config", "show")
        assert code == 0 and re.search(r"(?m)^mqtt\.max_connections +1000 +default$", out), out
        assert "mqtt.max_connections: 7 was read since, and takes a start with a settings file that says so" in out


def test_who_changes_the_tokens_gets_an_answer_and_is_out(tmp_path):
    file = tmp_path / "mockforge.yaml"
    file.write_text("api_token: before\n")
    with Mockforge("--config", file) as server:
        other = tmp_path / "other.yaml"
        other.write_text("api_token: after\nlog: {level: debug}\n")
        code, out, err = server.ask("config", "apply", other, "--token", "before")
        assert code == 0, err
        assert out.splitlines() == [
            "api_token: something else",
            "log.level: info -> debug",
            f"{other} is in force; 2 settings changed",
        ]
        assert server.ask("mqtt", "status", "--token", "before")[0] == 3
        assert server.ask("mqtt", "status", "--token", "after")[0] == 0
        other.write_text("log: {level: debug}\n")
        code, out, err = server.ask("config", "apply", other, "--token", "after")
        assert code == 2 and "no token is left" in err, err
        # The file on disk wins when it is read again.
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("the settings were read again")
        assert server.ask("mqtt", "status", "--token", "before")[0] == 0


def test_bash_completes_commands(tmp_path):
    code, script, err = run("completions", "bash")
    assert code == 0, err
    (tmp_path / "completions").write_text(script)
    ask = (
        "source ./completions; COMP_WORDS=(mockforge config ''); COMP_CWORD=2; "
        "_mockforge mockforge '' config; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert {"check", "show", "apply", "schema"} <= set(done.stdout.split()), done.stdout + done.stderr


def test_manual_pages_are_good(tmp_path):
    code, out, err = run("man", tmp_path / "man1")
    assert code == 0, err
    pages = sorted(tmp_path.glob("man1/*.1"))
    assert len(pages) > 60 and tmp_path / "man1" / "mockforge-mqtt-record.1" in pages
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "error", *map(str, pages)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout

"""MQTT.js against our broker, both protocol versions."""

import json
import subprocess
from pathlib import Path

import pytest

from peers import Mockforge, needs_npm

IN_BOTH_VERSIONS = [
    "thousands",
    "mebibyte",
    "offline-queue",
    "persistent-session",
    "redelivery-qos-1",
    "redelivery-qos-2",
    "lost-acknowledgements",
    "resubscribe",
    "will",
    "retained",
    "shared",
    "system",
    "takeover",
    "too-large",
]
IN_MQTT_5 = [
    "properties",
    "request",
    "subscribe-options",
    "aliases-to-the-broker",
    "aliases-from-the-broker",
    "packets-within-the-maximum",
    "receive-maximum",
    "what-connack-says",
    "reason-codes",
    "scram",
]


@pytest.fixture(scope="module")
def node():
    return needs_npm("mqtt")


@pytest.fixture(scope="module")
def broker():
    settings = {"MAX_PACKET_SIZE": str(2 << 20), "SYS_INTERVAL_SECS": "1", "SCRAM_USERS": "alice:secret"}
    with Mockforge(**{f"MOCKFORGE_MQTT_{name}": value for name, value in settings.items()}) as started:
        yield started


def run(node, script, *arguments):
    command = [node, Path(__file__).with_name(script), *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("version", [4, 5])
def test_own_messages_come_back_with_qos_and_properties(broker, node, version):
    done = run(node, "mqttjs.js", broker.port, version)
    assert done.returncode == 0, done.stderr
    user = "v" if version == 5 else None
    expected = [{"topic": f"js/{qos}", "payload": f"payload {qos}", "qos": qos, "user": user} for qos in (0, 1, 2)]
    assert sorted(json.loads(done.stdout), key=lambda message: message["topic"]) == expected


@pytest.mark.parametrize(
    "scenario,version",
    [(scenario, version) for scenario in IN_BOTH_VERSIONS for version in (4, 5)] + [(name, 5) for name in IN_MQTT_5],
)
def test_feature(broker, node, scenario, version):
    done = run(node, "mqttjs_features.js", broker.port, version, scenario)
    assert done.returncode == 0, done.stderr

"""MQTT.js against our broker, both protocol versions."""

import json
import subprocess
from pathlib import Path

import pytest

from peers import REQUIRED, Mockforge, needs


@pytest.mark.parametrize("version", [4, 5])
def test_own_messages_come_back_with_qos_and_properties(version):
    node = needs("node")
    if subprocess.run([node, "-e", "require('mqtt')"], capture_output=True).returncode != 0:
        if REQUIRED:
            pytest.fail("the npm package mqtt is not installed")
        pytest.skip("the npm package mqtt is not installed")
    with Mockforge() as broker:
        script = Path(__file__).with_name("mqttjs.js")
        done = subprocess.run([node, script, str(broker.port), str(version)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    user = "v" if version == 5 else None
    expected = [{"topic": f"js/{qos}", "payload": f"payload {qos}", "qos": qos, "user": user} for qos in (0, 1, 2)]
    assert sorted(json.loads(done.stdout), key=lambda message: message["topic"]) == expected

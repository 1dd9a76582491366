"""Makes the sessions of recordings/ anew: real clients through `mockforge mqtt record` before a mosquitto.

    python tests/interop/capture_samples.py [FOLDER]

Needs mosquitto and its clients, paho-mqtt and Node.js with the mqtt package. Takes about a minute.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import ROOT, Mosquitto, Process, binary, free_port, needs

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "recordings"


class Capture:
    """`mockforge mqtt record` as a proxy before a mosquitto, for one `with` block."""

    def __init__(self, name):
        self.output = FOLDER / f"{name}.json"
        self.name = name

    def __enter__(self):
        self.mosquitto = Mosquitto().__enter__()
        self.port = free_port()
        self.folder = Path(self.mosquitto.folder.name)
        self.record = Process(
            *[binary(), "mqtt", "record", "--name", self.name, "--output", self.output],
            *["--upstream", self.mosquitto.url, "--listen", f"127.0.0.1:{self.port}"],
            cwd=self.folder,
            env={"MOCKFORGE_STORE_PATH": str(self.folder / "store")},
        )
        self.record.wait_for(f":{self.port}")
        return self

    def __exit__(self, *exception):
        time.sleep(0.3)  # the last DISCONNECTs pass
        code = self.record.end(signal.SIGINT)
        self.mosquitto.__exit__(*exception)
        print(f"{self.output.name}: exit {code}, {self.output.stat().st_size} bytes")

    def pub(self, *arguments, **options):
        return subprocess.run(
            [needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self.port), *map(str, arguments)],
            check=True, timeout=30, **options,
        )

    def sub(self, *arguments):
        return Process(needs("mosquitto_sub"), "-h", "127.0.0.1", "-p", self.port, *arguments)

    def paho(self, name, version=mqtt.MQTTv5, **connect):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.connected = connected
        return client


def sensor_fleet():
    """mosquitto_pub sensors at QoS 0 and 1, MQTT.js and mosquitto_sub listening; a retained unit."""
    dice = random.Random(1)
    with Capture("sensor-fleet") as capture:
        dashboard = capture.sub("-V", "311", "-i", "dashboard", "-q", 1, "-t", "sensors/#")
        time.sleep(0.5)
        capture.pub("-V", "311", "-i", "setup", "-q", 1, "-r", "-t", "sensors/unit", "-m", "celsius")
        sensors = []
        for number in range(6):
            child = subprocess.Popen(
                [
                    needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(capture.port), "-l",
                    "-V", "5" if number % 2 else "311", "-i", f"sensor-{number}",
                    "-q", str(number % 2), "-t", f"sensors/s{number}/temperature",
                ],
                stdin=subprocess.PIPE, text=True,
            )
            sensors.append(child)
        for reading in range(40):
            for number, child in enumerate(sensors):
                value = round(20 + number + dice.random() * 2, 2)
                child.stdin.write(json.dumps({"n": reading, "value": value}, separators=(",", ":")) + "\n")
                child.stdin.flush()
            time.sleep(0.2)
        for child in sensors:
            child.stdin.close()
            child.wait(30)
        dashboard.end(signal.SIGINT)


def commands():
    """paho services over MQTT 5 at QoS 2: requests with Response Topic, Correlation Data and replies."""
    with Capture("commands") as capture:
        device = capture.paho("press-7")
        ready, done = threading.Event(), threading.Event()

        def answer(client, _data, message):
            reply = Properties(PacketTypes.PUBLISH)
            reply.CorrelationData = message.properties.CorrelationData
            reply.UserProperty = [("firmware", "2.4.1"), ("trace", "ünïcode")]
            reply.ContentType = "application/json"
            command = json.loads(message.payload)
            body = json.dumps({"ok": True, "command": command["do"], "took_ms": 12}).encode()
            client.publish(message.properties.ResponseTopic, body, qos=2, properties=reply)

        device.on_message = answer
        device.on_subscribe = lambda *_: ready.set()
        device.connect("127.0.0.1", capture.port)
        device.loop_start()
        device.connected.wait(20)
        device.subscribe("plant/press-7/commands", qos=2)
        ready.wait(20)

        app = capture.paho("control-room")
        answers = []

        def count(_client, _data, message):
            answers.append(message.payload)
            if len(answers) == 20:
                done.set()

        app.on_message = count
        listening = threading.Event()
        app.on_subscribe = lambda *_: listening.set()
        app.connect("127.0.0.1", capture.port)
        app.loop_start()
        app.connected.wait(20)
        app.subscribe("plant/replies/control-room", qos=2)
        listening.wait(20)
        for number in range(20):
            request = Properties(PacketTypes.PUBLISH)
            request.ResponseTopic = "plant/replies/control-room"
            request.CorrelationData = number.to_bytes(2, "big") + b"\xff"
            request.MessageExpiryInterval = 30
            app.publish(
                "plant/press-7/commands", json.dumps({"do": ["open", "close"][number % 2], "n": number}), qos=2, properties=request
            )
            time.sleep(0.25)
        assert done.wait(20), f"{len(answers)} answers"
        for client in (app, device):
            client.disconnect()
            client.loop_stop()


def reconnects():
    """MQTT.js gateways that drop without goodbye and come back to their sessions; Wills are sent."""
    with Capture("reconnects") as capture:
        watch = capture.sub("-V", "5", "-i", "watch", "-q", 1, "-t", "status/+", "-t", "gateway/+/up")
        time.sleep(0.5)
        script = Path(__file__).with_name("reconnects.js")
        subprocess.run([needs("node"), script, str(capture.port)], check=True, timeout=60)
        watch.end(signal.SIGINT)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for sample in (sensor_fleet, commands, reconnects):
        sample()

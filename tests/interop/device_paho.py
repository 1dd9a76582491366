"""A device as people write them: it reports, obeys commands over MQTT 5 and keeps a session. Arguments: PORT [OPTION…]

Options are `name=…` (else the library draws one), `wrong=PART` (one thing is done otherwise), `number=N`.
Exits with 0 if all came that it waits for.
"""

import json
import queue
import sys

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port = int(sys.argv[1])
options = dict(option.split("=", 1) for option in sys.argv[2:])
wrong, number = options.get("wrong"), options.get("number", "1")
commands, answered, connected = queue.Queue(), queue.Queue(), queue.Queue()

client = paho.Client(paho.CallbackAPIVersion.VERSION2, options.get("name", ""), protocol=paho.MQTTv5)
client.on_connect = lambda _, __, flags, reason, ___: connected.put((reason.value, flags.session_present))
client.on_message = lambda _, __, message: commands.put(message)
client.on_subscribe = lambda _, __, mid, codes, ___: answered.put((mid, codes[0].value))
client.will_set(f"devices/{number}/status", "lost" if wrong == "will" else "offline", 1, True)


def get(source):
    return source.get(timeout=10)


def publish(topic, payload, qos, retain=False, **given):
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in given.items():
        setattr(properties, name, value)
    client.publish(topic, payload, qos, retain, properties).wait_for_publish(10)


def connect(clean):
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    client.connect("127.0.0.1", port, 31 if wrong == "keep alive" else 30, clean_start=clean, properties=properties)
    client.loop_start()
    reason, session_present = get(connected)
    assert reason == 0 and session_present != clean, (reason, session_present)


connect(True)
_, mid = client.subscribe(f"devices/{number}/commands/#", 1 if wrong == "subscription" else 2)
assert get(answered) == (mid, 1 if wrong == "subscription" else 2)
publish(f"devices/{number}/status", "online", 1, True)
for n in range(20):
    payload = json.dumps({"n": n, "value": 20.5 + n + (wrong == "payload" and n == 7)})
    publish(f"devices/{number}/data", payload, 0 if wrong == "qos" and n == 10 else n % 3, ContentType="application/json")
    if wrong == "one more" and n == 5:
        publish(f"devices/{number}/more", "x", 1)
publish(f"devices/{number}/ready", b"", 2)
for n in range(6):
    command = get(commands)
    assert json.loads(command.payload) == {"do": n}, command.payload
    assert command.qos == n % 3 and command.topic == f"devices/{number}/commands/{n}"
    if n == 2:
        client.disconnect()
        client.loop_stop()
        connect(False)
    reply = command.properties.ResponseTopic
    publish(reply, command.payload, 1, CorrelationData=command.properties.CorrelationData)
publish(f"devices/{number}/done", "x", 1)
if wrong == "crash":
    client._sock_close()
else:
    client.disconnect()
client.loop_stop()

"""paho-mqtt as the tests use it: what happens to a client waits in queues, and it connects only when told to."""

import queue
import socket

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from peers import DEADLINE

V31, V311, V5 = paho.MQTTv31, paho.MQTTv311, paho.MQTTv5


def properties(packet_type, values):
    """Properties by paho's names, such as `ContentType`; None without any."""
    made = Properties(packet_type)
    for name, value in values.items():
        setattr(made, name, value)
    return made if values else None


def texts(messages):
    return [message.payload.decode() for message in messages]


class Connack:
    def __init__(self, flags, reason, properties):
        self.session_present = flags.session_present
        self.reason = reason.value
        self.properties = properties


class Client:
    """A client of one version; one with a `session` asks for it to be kept and resumed.

    Further arguments are the properties of its CONNECT.
    """

    def __init__(self, broker, version, client_id="", session=False, manual_ack=False, keep_alive=60, **asked):
        self.broker, self.version, self.keep_alive, self.asked = broker, version, keep_alive, asked
        if version == V5:
            self.clean = {"clean_start": not session}
            if session:
                self.asked = {"SessionExpiryInterval": 300, **asked}
        else:
            self.clean = {}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if version == V5 else not session,
            protocol=version,
            reconnect_on_failure=False,
            manual_ack=manual_ack,
        )
        self.thread = None
        self.connected, self.closed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        self.acknowledged, self.answered = queue.Queue(), queue.Queue()
        self.paho.on_connect = lambda _, __, flags, reason, given: self.connected.put(Connack(flags, reason, given))
        self.paho.on_disconnect = lambda _, __, flags, reason, given: self.closed.put(reason.value)
        self.paho.on_message = lambda _, __, message: self.messages.put(message)
        self.paho.on_publish = lambda _, __, number, reason, given: self.acknowledged.put((number, reason.value))
        self.paho.on_subscribe = lambda _, __, number, codes, given: self.answered.put((number, codes))
        self.paho.on_unsubscribe = self.paho.on_subscribe

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.paho.socket() is not None:
            self.paho.disconnect()
        self._join()

    def _join(self):
        if self.thread is not None:
            self.thread.join(DEADLINE)

    def will(self, topic, payload, qos=1, retain=False, **given):
        self.paho.will_set(topic, payload, qos, retain, properties(PacketTypes.WILLMESSAGE, given))
        return self

    def connect(self, **clean):
        """Connects, for the first time or again; what the CONNACK said."""
        asked = properties(PacketTypes.CONNECT, self.asked)
        self.paho.connect("127.0.0.1", self.broker.port, self.keep_alive, properties=asked, **{**self.clean, **clean})
        self.paho.loop_start()
        self.thread = self.paho._thread
        self.connack = self.connected.get(timeout=DEADLINE)
        return self.connack

    def wait_closed(self):
        """Waits for the end of the connection; its reason code."""
        reason = self.closed.get(timeout=DEADLINE)
        self._join()
        return reason

    def disconnect(self, reason=0, **given):
        if self.version == V5:
            self.paho.disconnect(
                ReasonCode(PacketTypes.DISCONNECT, identifier=reason), properties(PacketTypes.DISCONNECT, given)
            )
        else:
            self.paho.disconnect()
        self.wait_closed()

    def drop(self):
        """Breaks the connection without a goodbye."""
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.wait_closed()

    def break_at(self, method):
        """Breaks the connection where paho would next call `method`, such as `_send_puback`."""

        def fail(*_):
            delattr(self.paho, method)
            return paho.MQTT_ERR_CONN_LOST

        setattr(self.paho, method, fail)

    def send(self, topic, payload=None, qos=1, retain=False, **given):
        """Publishes without waiting for the acknowledgement."""
        return self.paho.publish(topic, payload, qos, retain, properties(PacketTypes.PUBLISH, given))

    def publish(self, topic, payload=None, qos=1, retain=False, **given):
        """Publishes; the reason code of the acknowledgement."""
        return self.wait_published(self.send(topic, payload, qos, retain, **given))

    def wait_published(self, sent):
        return self._answer(self.acknowledged, sent.mid)

    def send_subscribe(self, topic_filter, qos=2, identifier=None, **options):
        """Subscribes, with paho's subscribe options, without waiting; the packet identifier."""
        if self.version != V5:
            return self.paho.subscribe(topic_filter, qos)[1]
        given = {} if identifier is None else {"SubscriptionIdentifier": identifier}
        asked = {"options": SubscribeOptions(qos, **options), "properties": properties(PacketTypes.SUBSCRIBE, given)}
        return self.paho.subscribe(topic_filter, **asked)[1]

    def subscribe(self, topic_filter, qos=2, identifier=None, **options):
        """Subscribes; the reason codes of the SUBACK."""
        number = self.send_subscribe(topic_filter, qos, identifier, **options)
        return [code.value for code in self._answer(self.answered, number)]

    def unsubscribe(self, topic_filter):
        _, number = self.paho.unsubscribe(topic_filter)
        return [code.value for code in self._answer(self.answered, number)]

    def hear(self):
        return self.messages.get(timeout=DEADLINE)

    def hear_until_topic(self, topic):
        """All messages before the one on that topic."""
        heard = []
        while (message := self.hear()).topic != topic:
            heard.append(message)
        return heard

    def hear_until_end(self):
        """All messages before the one that says `end`."""
        heard = []
        while (message := self.hear()).payload != b"end":
            heard.append(message)
        return heard

    @staticmethod
    def _answer(answers, number):
        while True:
            found, answer = answers.get(timeout=DEADLINE)
            if found == number:
                return answer

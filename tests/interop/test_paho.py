"""paho-mqtt (Python) against our broker: what its users rely on, in the versions that have it.

A message `end` follows where something must not come: what came before it is all there was.
"""

from contextlib import ExitStack

import pytest

from pahoclient import V5, V31, V311, Client, texts
from peers import Mockforge, wait_until

both = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])
any_qos = pytest.mark.parametrize("qos", [0, 1, 2])

EVERY_PROPERTY = {
    "PayloadFormatIndicator": 1,
    "ContentType": "text/plain; charset=utf-8",
    "ResponseTopic": "answers/here",
    "CorrelationData": bytes(range(256)),
    "UserProperty": [("b", "1"), ("a", "2"), ("b", "1"), ("b", ""), ("é", "水")],
}


@pytest.fixture(scope="module")
def broker():
    with Mockforge(MOCKFORGE_MQTT_MAX_PACKET_SIZE=str(2 << 20), MOCKFORGE_MQTT_SYS_INTERVAL_SECS="1") as started:
        yield started


@pytest.fixture
def topic(request):
    """A topic, and a client identifier, of this test's own."""
    return request.node.name.removeprefix("test_")


@pytest.fixture
def client(broker):
    """Makes clients, not connected yet, that are gone after the test."""
    with ExitStack() as clients:
        yield lambda *arguments, **asked: clients.enter_context(Client(broker, *arguments, **asked))


@pytest.fixture
def connect(client):
    """Makes clients and connects them."""

    def connected(*arguments, **asked):
        made = client(*arguments, **asked)
        assert made.connect().reason == 0
        return made

    return connected


def wait_until_gone(broker, client_id):
    def gone():
        listed = broker.rest("/mqtt/clients").get("clients", [])
        return not any(entry["client_id"] == client_id and entry.get("connected") for entry in listed)

    wait_until(gone, f"{client_id} to be gone")


def test_all_versions_hear_each_other(connect, topic):
    clients = [connect(version) for version in (V31, V311, V5)]
    for listener in clients:
        assert listener.subscribe(f"{topic}/+") == [2]
    expected = set()
    for publisher in clients:
        content_type = "text/plain" if publisher.version == V5 else None
        given = {"ContentType": content_type} if content_type else {}
        for qos in (0, 1, 2):
            publisher.publish(f"{topic}/{qos}", f"from {publisher.version}", qos, **given)
            expected.add((f"{topic}/{qos}", f"from {publisher.version}", qos, content_type))
    clients[0].publish(f"{topic}/end", "end", 2)
    for listener in clients:
        heard = listener.hear_until_end()
        described = {(m.topic, m.payload.decode(), m.qos, getattr(m.properties, "ContentType", None)) for m in heard}
        # The properties are for MQTT 5 only.
        assert described == (expected if listener.version == V5 else {(*most, None) for *most, _ in expected})
        assert len(heard) == len(expected)


@both
@any_qos
def test_a_thousand_messages_stay_in_order(connect, topic, version, qos):
    listener, publisher = connect(version), connect(version)
    listener.subscribe(topic, qos)
    for number in range(1000):
        last = publisher.send(topic, number, qos)
    publisher.wait_published(last)
    publisher.send(topic, "end", qos)
    assert texts(listener.hear_until_end()) == [str(number) for number in range(1000)]


@both
@any_qos
def test_a_mebibyte_arrives_whole(connect, topic, version, qos):
    listener, publisher = connect(version), connect(version)
    listener.subscribe(topic)
    payload = bytes(range(256)) * 4096
    publisher.send(topic, payload, qos)
    assert listener.hear().payload == payload


@both
def test_what_is_published_while_disconnected_is_sent_upon_connect(client, connect, topic, version):
    listener = connect(version)
    listener.subscribe(topic)
    publisher = client(version, topic, session=True)
    early = publisher.send(topic, "before the first connection", 1)
    publisher.connect()
    publisher.wait_published(early)
    publisher.drop()
    for number in range(30):
        publisher.send(topic, number, 1 + number % 2)
    publisher.connect()
    publisher.publish(topic, "end", 2)
    heard = listener.hear_until_end()
    # Each QoS has an order of its own.
    assert texts(m for m in heard if m.qos == 1) == ["before the first connection", *map(str, range(0, 30, 2))]
    assert texts(m for m in heard if m.qos == 2) == [str(number) for number in range(1, 30, 2)]


@both
@pytest.mark.parametrize("qos", [1, 2])
def test_messages_wait_in_order_for_a_session_whose_client_is_away(broker, connect, topic, version, qos):
    away, publisher = connect(version, topic, session=True), connect(version)
    assert not away.connack.session_present
    away.subscribe(topic, qos)
    away.drop()
    wait_until_gone(broker, topic)
    for number in range(50):
        assert publisher.publish(topic, number, qos) == 0
    assert away.connect().session_present
    publisher.publish(topic, "end", qos)
    heard = away.hear_until_end()
    assert texts(heard) == [str(number) for number in range(50)]
    assert not any(message.dup for message in heard)


@both
def test_a_clean_start_forgets_the_session(client, connect, topic, version):
    old, publisher = connect(version, topic, session=True), connect(version)
    old.subscribe(f"{topic}/old")
    old.disconnect()
    publisher.publish(f"{topic}/old", "for the old session", 1)
    clean = connect(version, topic)
    assert not clean.connack.session_present
    clean.subscribe(f"{topic}/new")
    publisher.publish(f"{topic}/old", "for the old session, again", 1)
    publisher.publish(f"{topic}/new", "end", 2)
    assert clean.hear_until_end() == []
    clean.disconnect()
    assert not old.connect().session_present


def test_a_disconnect_can_end_the_session(connect, topic):
    leaving = connect(V5, topic, session=True)
    leaving.disconnect(SessionExpiryInterval=0)
    assert not leaving.connect().session_present
    leaving.disconnect()
    assert leaving.connect().session_present


@both
@pytest.mark.parametrize("qos", [1, 2])
def test_unacknowledged_messages_come_again_in_order_until_acknowledged(connect, topic, version, qos):
    listener = connect(version, topic, session=True, manual_ack=True)
    publisher = connect(version)
    listener.subscribe(topic, qos)
    for number in range(3):
        publisher.publish(topic, number, qos)
    first = [listener.hear() for _ in range(3)]
    assert [(message.payload, message.dup) for message in first] == [(b"0", False), (b"1", False), (b"2", False)]
    listener.drop()
    listener.connect()
    if qos == 1:
        again = [listener.hear() for _ in range(3)]
        assert [(message.payload, message.dup) for message in again] == [(b"0", True), (b"1", True), (b"2", True)]
        assert [message.mid for message in again] == [message.mid for message in first]
    # At QoS 2 only the PUBREL comes again: paho had the messages and sent the PUBRECs itself.
    for message in first:
        listener.paho.ack(message.mid, qos)
    # What is answered came after what was acknowledged.
    listener.publish(f"{topic}/acknowledged")
    listener.paho.manual_ack_set(False)
    for _ in range(2):
        publisher.publish(topic, "end", qos)
        assert listener.hear_until_end() == []
        listener.drop()
        listener.connect()


@both
@pytest.mark.parametrize(
    "qos,broken,dups",
    [(1, "_send_puback", [False, True]), (2, "_send_pubrec", [True]), (2, "_send_pubcomp", [False])],
)
def test_a_receiver_that_breaks_off_anywhere_gets_its_message(connect, topic, version, qos, broken, dups):
    listener, publisher = connect(version, topic, session=True), connect(version)
    listener.subscribe(topic)
    listener.break_at(broken)
    publisher.publish(topic, "important", qos)
    listener.wait_closed()
    assert listener.connect().session_present
    publisher.publish(topic, "end", 2)
    heard = listener.hear_until_end()
    assert [(message.payload, message.dup) for message in heard] == [(b"important", dup) for dup in dups]
    # That was the last of it.
    listener.drop()
    listener.connect()
    publisher.publish(topic, "end", 2)
    assert listener.hear_until_end() == []


@both
@pytest.mark.parametrize(
    "qos,broken,copies", [(1, "_handle_pubackcomp", 2), (2, "_handle_pubrec", 1), (2, "_handle_pubackcomp", 1)]
)
def test_a_publisher_that_breaks_off_anywhere_gets_its_acknowledgement(connect, topic, version, qos, broken, copies):
    publisher, listener = connect(version, topic, session=True), connect(version)
    listener.subscribe(topic)
    publisher.break_at(broken)
    sent = publisher.send(topic, "important", qos)
    publisher.wait_closed()
    assert publisher.connect().session_present
    publisher.wait_published(sent)
    publisher.publish(topic, "end", 2)
    heard = listener.hear_until_end()
    # The publisher's DUP is its own affair.
    assert [(message.payload, message.dup) for message in heard] == [(b"important", False)] * copies


@both
def test_a_will_is_sent_when_the_connection_breaks(client, connect, topic, version):
    observer = connect(version)
    observer.subscribe(topic)
    mortal = client(version).will(topic, "gone", 1, retain=True)
    mortal.connect()
    mortal.drop()
    message = observer.hear()
    assert (message.payload, message.qos, message.retain) == (b"gone", 1, False)
    observer.subscribe(topic)
    assert observer.hear().retain
    observer.publish(topic, retain=True)


@both
def test_a_will_is_not_sent_after_a_goodbye(broker, client, connect, topic, version):
    observer = connect(version)
    observer.subscribe(topic)
    polite = client(version, topic).will(topic, "gone")
    polite.connect()
    polite.disconnect()
    wait_until_gone(broker, topic)
    observer.publish(topic, "end", 2)
    assert observer.hear_until_end() == []


@both
def test_a_will_is_sent_when_a_client_falls_silent(client, connect, topic, version):
    observer = connect(version)
    observer.subscribe(topic)
    silent, pinging = (client(version, keep_alive=2).will(topic, name) for name in ("silent", "pinging"))
    pinging.connect()
    silent.connect()
    silent.paho.loop_stop()
    assert observer.hear().payload == b"silent"
    observer.publish(topic, "end", 2)
    assert observer.hear_until_end() == []


def test_a_will_is_sent_after_a_disconnect_that_asks_for_it(client, connect, topic):
    observer = connect(V5)
    observer.subscribe(topic)
    leaving = client(V5).will(topic, "gone", 2, **EVERY_PROPERTY)
    leaving.connect()
    leaving.disconnect(reason=0x04)
    will = observer.hear()
    assert (will.payload, will.qos) == (b"gone", 2)
    assert given(will) == EVERY_PROPERTY


def test_a_delayed_will_waits_for_the_end_of_the_session(broker, client, connect, topic):
    observer = connect(V5)
    observer.subscribe(topic)
    mortal = client(V5, topic, session=True).will(topic, "gone", WillDelayInterval=250)
    mortal.connect()
    mortal.drop()
    wait_until_gone(broker, topic)
    # Back in time: nothing happened.
    mortal.connect()
    mortal.drop()
    wait_until_gone(broker, topic)
    observer.publish(topic, "end", 2)
    assert observer.hear_until_end() == []
    mortal.connect(clean_start=True)
    observer.publish(topic, "end", 2)
    assert texts(observer.hear_until_end()) == ["gone"]


def test_a_delayed_will_is_sent_when_its_time_has_come(client, connect, topic):
    observer = connect(V5)
    observer.subscribe(topic)
    mortal = client(V5, topic, session=True).will(topic, "gone", WillDelayInterval=1)
    mortal.connect()
    mortal.drop()
    assert observer.hear().payload == b"gone"
    assert mortal.connect().session_present


def given(message):
    """The properties of EVERY_PROPERTY that a message has."""
    return {name: value for name in EVERY_PROPERTY if (value := getattr(message.properties, name, None)) is not None}


@any_qos
def test_properties_arrive_as_they_were_published(connect, topic, qos):
    client = connect(V5)
    client.subscribe(topic)
    client.publish(topic, "水", qos, MessageExpiryInterval=100, **EVERY_PROPERTY)
    message = client.hear()
    assert given(message) == EVERY_PROPERTY
    assert 0 < message.properties.MessageExpiryInterval <= 100
    client.publish(topic, "bare", qos)
    assert client.hear().properties.json() == {}


def test_message_expiry_counts_down_while_a_message_waits(broker, connect, topic):
    away, publisher, observer = connect(V5, topic, session=True), connect(V5), connect(V5)
    away.subscribe(f"{topic}/+")
    away.drop()
    wait_until_gone(broker, topic)
    for name, seconds in (("long", 100), ("short", 1)):
        publisher.publish(f"{topic}/{name}", name, retain=True, MessageExpiryInterval=seconds)

    def retained():
        observer.subscribe(f"{topic}/#")
        publisher.publish(f"{topic}/observer/end", "end", 2)
        return {message.payload: message.properties.MessageExpiryInterval for message in observer.hear_until_end()}

    left = wait_until(lambda: (left := retained()) and b"short" not in left and left, "a retained message to expire")
    assert 0 < left[b"long"] < 100
    away.connect()
    publisher.publish(f"{topic}/end", "end", 2)
    waited = away.hear_until_end()
    assert texts(waited) == ["long"]
    assert 0 < waited[0].properties.MessageExpiryInterval <= left[b"long"]


def test_a_request_is_answered_on_its_response_topic(connect, topic):
    requester, responder = connect(V5), connect(V5)
    responder.subscribe(f"{topic}/requests")
    requester.subscribe(f"{topic}/answers/#")
    for number in range(2):
        own = {"ResponseTopic": f"{topic}/answers/{number}", "CorrelationData": bytes([number, 0, 255])}
        requester.publish(f"{topic}/requests", f"question {number}", **own)
    for _ in range(2):
        request = responder.hear()
        asked = request.properties
        responder.publish(asked.ResponseTopic, b"re: " + request.payload, CorrelationData=asked.CorrelationData)
    answers = [requester.hear() for _ in range(2)]
    assert [(answer.topic, answer.payload, answer.properties.CorrelationData) for answer in answers] == [
        (f"{topic}/answers/{number}", b"re: question %d" % number, bytes([number, 0, 255])) for number in range(2)
    ]


def test_a_message_names_the_subscriptions_it_matched(connect, topic):
    client = connect(V5)
    client.subscribe(f"{topic}/#", identifier=1)
    client.subscribe(f"{topic}/a", identifier=268_435_455)
    client.subscribe(f"{topic}/+/none")
    for name in ("a", "b", "b/none"):
        client.publish(f"{topic}/{name}", name)
    client.subscribe(f"{topic}/#")
    client.publish(f"{topic}/b", "no longer")
    client.publish(f"{topic}/b", "end")
    heard = client.hear_until_end()
    named = [sorted(message.properties.json().get("SubscriptionIdentifier", [])) for message in heard]
    assert list(zip(texts(heard), named)) == [("a", [1, 268_435_455]), ("b", [1]), ("b/none", [1]), ("no longer", [])]


@both
def test_a_retained_message_is_replaced_and_cleared(connect, topic, version):
    publisher, present = connect(version), connect(version)
    present.subscribe(f"{topic}/+")
    for payload in ("old", "new"):
        publisher.publish(f"{topic}/kept", payload, retain=True)
    assert [(m.payload, m.retain) for m in (present.hear(), present.hear())] == [(b"old", False), (b"new", False)]
    late = connect(version)
    late.subscribe(f"{topic}/+", 0)
    message = late.hear()
    assert (message.payload, message.retain, message.qos) == (b"new", True, 0)
    publisher.publish(f"{topic}/kept", retain=True)
    assert present.hear().payload == b""
    latest = connect(version)
    latest.subscribe(f"{topic}/+")
    publisher.publish(f"{topic}/end", "end", 2)
    assert latest.hear_until_end() == []


@pytest.mark.parametrize("handling,first,second", [(0, ["kept"], ["kept"]), (1, ["kept"], []), (2, [], [])])
def test_retain_handling_says_when_retained_messages_are_sent(connect, topic, handling, first, second):
    client = connect(V5)
    client.publish(f"{topic}/kept", "kept", retain=True)
    for expected in (first, second):
        client.subscribe(f"{topic}/+", retainHandling=handling)
        client.publish(f"{topic}/end", "end", 2)
        assert texts(client.hear_until_end()) == expected


def test_retain_as_published_keeps_the_flag(connect, topic):
    publisher, keeping, plain = connect(V5), connect(V5), connect(V5)
    keeping.subscribe(topic, retainAsPublished=True)
    plain.subscribe(topic)
    publisher.publish(topic, "retained", retain=True)
    publisher.publish(topic, "not")
    assert [keeping.hear().retain, keeping.hear().retain] == [True, False]
    assert [plain.hear().retain, plain.hear().retain] == [False, False]


def test_no_local_spares_a_client_its_own_messages(connect, topic):
    own, other = connect(V5), connect(V5)
    own.subscribe(topic, noLocal=True)
    other.subscribe(topic)
    own.publish(topic, "mine", 2)
    other.publish(topic, "end", 2)
    assert own.hear_until_end() == []
    assert texts(other.hear_until_end()) == ["mine"]


@both
def test_a_shared_subscription_divides_the_messages(connect, topic, version):
    members, publisher = [connect(version) for _ in range(3)], connect(version)
    for member in members:
        assert member.subscribe(f"$share/group/{topic}/+") == [2]
        member.subscribe(f"{topic}/end/now")
    sent = [str(number) for number in range(60)]
    for number in sent:
        publisher.publish(f"{topic}/work", number, 1 + int(number) % 2)
    publisher.publish(f"{topic}/end/now", "end", 2)
    shares = [texts(member.hear_until_end()) for member in members]
    assert sorted(sum(shares, []), key=int) == sent
    assert all(shares)


@both
def test_wildcards_match_levels_and_leave_sys_topics_out(connect, topic, version):
    publisher = connect(version)
    names = ["a", "a/", "a/b", "a/b/c", "/a", "b"]
    expected = {"a/#": {"a", "a/", "a/b", "a/b/c"}, "a/+": {"a/", "a/b"}, "+": {"a", "b"}, "+/+": {"a/", "a/b", "/a"}}
    for topic_filter, matching in expected.items():
        listener = connect(version)
        listener.subscribe(f"{topic}/{topic_filter}")
        listener.subscribe(f"{topic}/the/very/end")
        for name in names:
            publisher.publish(f"{topic}/{name}", name, 2)
        publisher.publish(f"{topic}/the/very/end", "end", 2)
        assert set(texts(listener.hear_until_end())) == matching
    everything, system = connect(version), connect(version)
    assert everything.subscribe("#") == everything.subscribe("+/broker/+") == [2]
    assert system.subscribe("$SYS/broker/version") == [2]
    version_there = system.hear()
    assert version_there.retain and b"mockforge" in version_there.payload.lower()
    system.subscribe("$SYS/broker/uptime", 1)
    wait_until(lambda: not system.hear().retain, "a figure that was published now")
    publisher.publish(f"{topic}/end", "end", 2)
    assert not [message for message in everything.hear_until_end() if message.topic.startswith("$")]


def test_topic_aliases_stand_for_the_topic_they_were_last_given(connect, topic):
    publisher, listener = connect(V5), connect(V5)
    listener.subscribe(f"{topic}/+")
    assert publisher.connack.properties.TopicAliasMaximum == 64
    named = [("a", 1), ("", 1), ("b", 64), ("", 1), ("", 64), ("c", 1), ("", 1)]
    for (name, alias), meant in zip(named, "aababcc"):
        for qos in (0, 1, 2):
            publisher.publish(name and f"{topic}/{name}", f"{topic}/{meant}", qos, TopicAlias=alias)
    publisher.publish(f"{topic}/end", "end", 2)
    heard = listener.hear_until_end()
    assert len(heard) == 3 * len(named)
    for message in heard:
        assert message.topic == message.payload.decode()
        assert "TopicAlias" not in message.properties.json()


def test_a_topic_alias_out_of_range_ends_the_connection(connect, topic):
    publisher = connect(V5)
    publisher.send(topic, "too high", TopicAlias=65)
    assert publisher.wait_closed() == 0x94
    publisher.paho.drop_out_messages()
    publisher.connect()
    # An alias is not older than its connection.
    publisher.send("", "never set", 0, TopicAlias=1)
    assert publisher.wait_closed() == 0x82


def test_a_client_without_a_name_is_given_one_that_resumes_its_session(connect):
    first, second = connect(V5, "", session=True), connect(V5)
    named = first.connack.properties.AssignedClientIdentifier
    assert named and named != second.connack.properties.AssignedClientIdentifier
    first.drop()
    again = connect(V5, named, session=True)
    assert again.connack.session_present
    assert not hasattr(again.connack.properties, "AssignedClientIdentifier")


def test_the_server_sets_a_keep_alive_that_is_too_long(connect):
    assert connect(V5, keep_alive=3600).connack.properties.ServerKeepAlive == 60
    assert not hasattr(connect(V5, keep_alive=30).connack.properties, "ServerKeepAlive")


def test_a_message_over_the_clients_maximum_packet_size_is_left_out(connect, topic):
    small, large = connect(V5, MaximumPacketSize=200), connect(V5)
    for listener in (small, large):
        listener.subscribe(topic)
    for payload in ("x" * 200, "fits", "end"):
        large.publish(topic, payload, 2)
    assert texts(small.hear_until_end()) == ["fits"]
    assert texts(large.hear_until_end()) == ["x" * 200, "fits"]


def test_no_more_than_the_clients_receive_maximum_is_unacknowledged(connect, topic):
    slow, publisher = connect(V5, manual_ack=True, ReceiveMaximum=2), connect(V5)
    slow.subscribe(f"{topic}/#")
    for number in range(6):
        publisher.publish(f"{topic}/counted", number, 1)
    # QoS 0 is not limited, so it passes those that wait.
    publisher.publish(f"{topic}/free", "end", 0)
    heard = slow.hear_until_end()
    assert texts(heard) == ["0", "1"]
    for number in range(2, 6):
        slow.paho.ack(heard[-1].mid, 1)
        heard.append(slow.hear())
        publisher.publish(f"{topic}/free", "end", 0)
        assert slow.hear_until_end() == []
    assert texts(heard) == ["0", "1", "2", "3", "4", "5"]


def test_acknowledgements_say_when_nobody_is_there(connect, topic):
    client = connect(V5)
    assert client.publish(topic, "to nobody", 1) == 0x10
    assert client.unsubscribe(topic) == [0x11]
    assert [client.subscribe(topic, qos) for qos in (0, 1, 2)] == [[0], [1], [2]]
    assert client.publish(topic, "to somebody", 1) == 0
    assert client.unsubscribe(topic) == [0]


def test_an_unknown_authentication_method_is_refused(client):
    stranger = client(V5, AuthenticationMethod="KERBEROS")
    assert stranger.connect().reason == 0x8C
    stranger.wait_closed()


@both
def test_a_second_client_with_the_same_name_takes_over(connect, topic, version):
    first = connect(version, topic, session=True)
    second = connect(version, topic, session=True)
    assert second.connack.session_present
    assert first.wait_closed() == (0x8E if version == V5 else 0x80)


@both
def test_a_packet_over_the_limit_ends_the_connection(connect, topic, version):
    reckless, listener = connect(version), connect(version)
    listener.subscribe(topic)
    reckless.send(topic, bytes(3 << 20))
    assert reckless.wait_closed() == (0x95 if version == V5 else 0x80)
    listener.publish(topic, "end", 2)
    assert listener.hear_until_end() == []


def test_features_that_are_off_are_told_and_refused(topic):
    off = {
        "MAXIMUM_QOS": "1",
        "RETAIN_AVAILABLE": "false",
        "WILDCARD_SUBSCRIPTION_AVAILABLE": "false",
        "SUBSCRIPTION_IDENTIFIER_AVAILABLE": "false",
        "SHARED_SUBSCRIPTION_AVAILABLE": "false",
    }
    with (
        Mockforge(**{f"MOCKFORGE_MQTT_LIMITS_{name}": value for name, value in off.items()}) as broker,
        Client(broker, V5) as client,
        Client(broker, V311) as older,
    ):
        told = client.connect().properties.json()
        assert told["MaximumQoS"] == 1 and told["RetainAvailable"] == 0
        assert told["WildcardSubscriptionAvailable"] == told["SharedSubscriptionAvailable"] == 0
        assert told["SubscriptionIdentifierAvailable"] == 0
        assert client.subscribe(topic, 2) == [1]
        refused = {
            0x9A: lambda: client.send(topic, "refused", 0, retain=True),
            0x9B: lambda: client.send(topic, "refused", 2),
            0x9E: lambda: client.send_subscribe(f"$share/group/{topic}"),
            0xA1: lambda: client.send_subscribe(topic, identifier=1),
            0xA2: lambda: client.send_subscribe(f"{topic}/+"),
        }
        for reason, attempt in refused.items():
            attempt()
            assert client.wait_closed() == reason
            client.paho.drop_out_messages()
            client.connect()
        older.connect()
        assert older.subscribe(topic, 2) == [1]
        assert older.subscribe(f"{topic}/+") == [0x80]

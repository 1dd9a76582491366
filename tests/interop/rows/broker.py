from rows import BAD_TOKEN, Row, bad, refused

COUNTERS = [
    *["closed_connections", "subscriptions_total", "messages_per_second", "bytes_received", "bytes_sent", "uptime"],
    *["qos0", "qos1", "qos2", "sessions", "active_connections", "clients_connected", "retained_messages", "retained_bytes"],
]
NOBODY = refused({"client_id": "nobody"}, "NOT_FOUND", "CLIENT_NOT_FOUND")


def publish_two(scene):
    scene.device.publish("parity/s", '{"n":1}', 1, ContentType="application/json", UserProperty=("a", "b"))
    scene.device.publish("parity/s", b"\xff\x00", 0)


def victim(scene):
    scene.connect("victim")
    return {"client_id": "victim", "reason_code": 0x98, "with_will": True}


def retained(scene):
    for name, payload in [("one", {"v": 1}), ("two", "x")]:
        message = {"topic": f"parity/kept/{name}", "payload": payload, "retain": True}
        scene.call("Broker.Publish", {**message, "properties": {"content_type": "a/b"}})
    return {"filter": ["parity/kept/+", "parity/none"]}


ROWS = {
    "Broker.Publish": Row(
        {
            "topic": "parity/listened",
            "payload": {"v": 1.5, "a": [True, None]},
            "qos": 1,
            "properties": {"content_type": "application/json", "user_properties": [{"name": "a", "value": "b"}]},
        },
        bad=[
            bad({}, "topic"),
            bad({"topic": "a/#"}, "topic"),
            bad({"topic": "a", "qos": 3}, "qos"),
            bad({"topic": "a", "properties": {"response_topic": "+"}}, "properties.response_topic"),
        ],
    ),
    "Broker.PublishBatch": Row(
        {"messages": [{"topic": "parity/listened", "payload": "x"}, {"topic": "a/#", "qos": 4}, {"topic": "b", "qos": 2}]},
        bad=[bad({}, "messages")],
    ),
    "Broker.ListTopics": Row(
        lambda scene: {**retained(scene), "page_size": 1},
        differs=["messages", "last_at", "missed"],
        bad=[BAD_TOKEN, bad({"filter": ["a", "#/b"]}, "filter[1]")],
    ),
    "Broker.ListRetained": Row(retained, bad=[BAD_TOKEN, bad({"filter": ["a", "#/b"]}, "filter[1]")]),
    "Broker.DeleteRetained": Row(retained, bad=[bad({}, "filter"), bad({"filter": ["#/b"]}, "filter[0]")]),
    "Broker.Subscribe": Row(
        {"filter": ["parity/s"], "qos": 1, "limit": 2},
        differs=["received_at"],
        happen=publish_two,
        count=2,
        bad=[bad({}, "filter"), bad({"filter": ["a", "#/b"]}, "filter[1]"), bad({"filter": ["a"], "qos": 3}, "qos")],
    ),
    "Broker.ListSubscriptions": Row({"client_id": "device"}, bad=[BAD_TOKEN]),
    "Broker.GetStats": Row({}, differs=COUNTERS),
    "Broker.ListClients": Row({"connected_only": True, "page_size": 1}, differs=["connected_at"], bad=[BAD_TOKEN]),
    "Broker.GetClient": Row({"client_id": "device"}, differs=["connected_at"], bad=[NOBODY]),
    "Broker.DisconnectClient": Row(victim, bad=[NOBODY, bad({"client_id": "device", "reason_code": 4}, "reason_code")]),
}

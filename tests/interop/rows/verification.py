from rows import BAD_TOKEN, Row, bad

MOVING = ["at", "sequence", "cursor"]


def published(**request):
    """Asks about two messages that come after what was there."""

    def publish(scene):
        since = scene.call("Verification.Count", {})["cursor"]
        scene.device.publish("parity/v", '{"v":1}', 1)
        scene.device.publish("parity/v", '{"v":3}', 1)
        return {"since": since, **request}

    return publish


MEANT = {"topic": ["parity/v"], "payload": {"$.v": {"gt": 2}}, "client": "dev*", "qos": [1]}
BAD_MATCH = bad({"match": {"topic": ["a/#/b"], "qos": [3]}}, "match.topic[0]", "match.qos")

ROWS = {
    "Verification.WaitForMessages": Row(
        published(match=MEANT, timeout="10s"),
        differs=MOVING,
        bad=[BAD_MATCH, bad({"timeout": "601s"}, "timeout")],
    ),
    "Verification.Verify": Row(
        published(
            ordered=True,
            expectations=[{"match": MEANT, "count": {"eq": 1}}, {"match": {"topic": ["parity/none"]}, "count": {"gte": 1}}],
        ),
        differs=MOVING,
        bad=[
            bad({}, "expectations"),
            bad({"expectations": [{"count": {"gt": 3, "lt": 2}}]}, "expectations[0].count"),
        ],
    ),
    "Verification.Count": Row(published(match=MEANT), differs=MOVING, bad=[BAD_MATCH]),
    "Verification.Find": Row(
        published(page_size=1, newest_first=True),
        differs=[*MOVING, "next_page_token"],
        bad=[BAD_MATCH, BAD_TOKEN],
    ),
}

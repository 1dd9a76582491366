from rows import BAD_TOKEN, Row, bad, refused

NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "WEBHOOK_NOT_FOUND")
TIMES = ["id", "queued_at", "ended_at", "duration", "request_body"]


def webhook(scene):
    return {
        "id": "parity",
        "topic": "parity/hooked",
        "url": f"http://127.0.0.1:{scene.sink.port}/x?token=secret",
        "headers": {"X-Token": "secret", "X-Source": "{{topic}}"},
        "timeout": "2.500s",
        "secret": "shh",
    }


def made(scene):
    scene.forget("Webhooks.DeleteWebhook", "parity")
    scene.call("Webhooks.CreateWebhook", {"webhook": webhook(scene)})
    return {"id": "parity"}


def to_be_made(scene):
    scene.forget("Webhooks.DeleteWebhook", "parity")
    return {"webhook": webhook(scene)}


def delivered(scene):
    tried = scene.call("Webhooks.TestWebhook", {**made(scene), "payload": "x"})
    assert tried["state"] == "DELIVERY_STATE_DELIVERED"
    return {"id": "parity", "delivery": tried["id"]}


ROWS = {
    "Webhooks.CreateWebhook": Row(
        to_be_made,
        bad=[bad({}, "webhook"), bad({"webhook": {"topic": "a", "url": "ftp://x"}}, "webhook.url")],
    ),
    "Webhooks.GetWebhook": Row(made, bad=[NOTHING]),
    "Webhooks.ListWebhooks": Row(lambda scene: made(scene) and {}, bad=[BAD_TOKEN]),
    "Webhooks.UpdateWebhook": Row(
        lambda scene: {**made(scene), "webhook": {**webhook(scene), "retries": 0}},
        parts=[lambda scene: {**made(scene), "webhook": {"retries": 1, "headers": {}}, "update_mask": "retries,headers"}],
        bad=[bad({"id": "parity"}, "webhook"), bad({"id": "parity", "webhook": {"url": "http://x"}}, "webhook.topic")],
    ),
    "Webhooks.DeleteWebhook": Row(made, bad=[NOTHING]),
    "Webhooks.ListDeliveries": Row(
        lambda scene: {"id": delivered(scene)["id"], "states": ["DELIVERY_STATE_DELIVERED"]},
        differs=TIMES,
        bad=[NOTHING, bad({"id": "parity", "page_token": "!"}, "page_token")],
    ),
    "Webhooks.Redeliver": Row(
        delivered,
        differs=TIMES,
        bad=[refused({"id": "parity", "delivery": "none"}, "NOT_FOUND", "DELIVERY_NOT_FOUND")],
    ),
    "Webhooks.TestWebhook": Row(
        lambda scene: {**made(scene), "topic": "parity/hooked", "payload": {"v": 1}}, differs=TIMES, bad=[NOTHING]
    ),
}

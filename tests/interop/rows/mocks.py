from rows import BAD_TOKEN, Row, bad, refused

MOCK = {
    "id": "parity",
    "topic": "parity/{{room}}/get",
    "qos": 1,
    "when": {"payload": {"$.v": {"gt": 3}}, "client": "dev*"},
    "responses": [{"topic": "parity/answer", "payload": {"room": "{{room}}"}, "delay": {"uniform": {"max_ms": 5}}}],
    "set_state": {"last": {"value": "{{payload.v}}"}},
}
NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "MOCK_NOT_FOUND")


def made(request=None):
    def make(scene):
        scene.forget("Mocks.DeleteMock", "parity")
        scene.call("Mocks.CreateMock", {"mock": MOCK})
        return {"id": "parity"} if request is None else request

    return make


def to_be_made(scene):
    scene.forget("Mocks.DeleteMock", "parity")
    return {"mock": MOCK}


def unmatched(scene):
    made()(scene)
    scene.device.publish("parity/hall/get", '{"v":1}', 1)
    return {"topic": "parity/#"}


ROWS = {
    "Mocks.CreateMock": Row(
        to_be_made,
        bad=[
            bad({}, "mock"),
            bad({"mock": {"topic": "a/#/b"}}, "mock.topic"),
            bad({"mock": {"topic": "a", "responses": [{"payload": "{{#if"}]}}, "mock.responses[0].payload"),
        ],
    ),
    "Mocks.GetMock": Row(made(), bad=[NOTHING]),
    "Mocks.ListMocks": Row(made({}), bad=[BAD_TOKEN]),
    "Mocks.UpdateMock": Row(
        made({"id": "parity", "mock": {**MOCK, "qos": 0, "enabled": False}}),
        parts=[
            made({"id": "parity", "mock": {"enabled": False, "when": {"client": "x"}}, "update_mask": "enabled,when.client"}),
            made({"id": "parity", "mock": {"set_state": {"a": {"value": 1}}}, "update_mask": "setState"}),
        ],
        bad=[
            bad({"id": "parity", "mock": {}, "update_mask": "when.nothing"}, "update_mask.paths[0]"),
            refused({"id": "nothing", "mock": {**MOCK, "id": ""}}, "NOT_FOUND", "MOCK_NOT_FOUND"),
            bad({"id": "a"}, "mock"),
        ],
    ),
    "Mocks.DeleteMock": Row(made(), bad=[NOTHING]),
    "Mocks.ResetMocks": Row(made({})),
    "Mocks.FireMock": Row(
        made({"id": "parity", "topic": "parity/hall/get", "payload": {"v": 9007199254740993}, "client_id": "dev"}),
        bad=[NOTHING],
    ),
    "Mocks.ListUnmatched": Row(unmatched, differs=["at", "count"], bad=[bad({"topic": "a/#/b"}, "topic")]),
}

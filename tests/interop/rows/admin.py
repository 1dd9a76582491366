from rows import Row, bad

ROWS = {
    "Admin.GetServerInfo": Row({}, differs=["uptime"]),
    "Admin.WatchEvents": Row(
        {"kinds": ["EVENT_KIND_PACKET"], "topics": ["parity/w"], "include_raw": True},
        differs=["at"],
        happen=lambda scene: scene.device.publish("parity/w", "x", 0),
        bad=[bad({"topics": ["#/a"]}, "topics[0]")],
    ),
    "Admin.Reset": Row({"journal": True, "state": True}, differs=["cursor"], any=True),
    "Admin.GetConfig": Row({}, bad=[bad({"section": "mqtt.nothing"}, "section")]),
    # What it would change stays, for the other rows.
    "Admin.ApplyConfig": Row(
        {"yaml": "mqtt: {max_connections: 5, mocks: [{id: a, topic: a}]}", "name": "parity.yaml", "validate_only": True},
        bad=[
            (
                {"yaml": "mqtt:\n  prot: 1\n  keep_alive_secs: x\n  mocks: [{topic: 'a/#/b'}]\n"},
                "INVALID_ARGUMENT",
                "BAD_CONFIG",
                ["mqtt.prot", "mqtt.keep_alive_secs", "mqtt.mocks[0].topic"],
            ),
            bad({"yaml": "mqtt: {proxies: [{id: a, upstream: 'mqtts://a#cafile=/etc/hostname'}]}"}, "mqtt.proxies[0].upstream"),
        ],
    ),
    "Admin.Shutdown": Row({}, alone=True),
    "Admin.GetLogFilter": Row({}),
    "Admin.SetLogFilter": Row({"filter": "info,mockforge::net=warn"}, bad=[bad({"filter": "warn,inof"}, "filter")]),
}

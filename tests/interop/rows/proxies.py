from types import SimpleNamespace

from pahoclient import V5, Client
from rows import BAD_TOKEN, Row, bad, refused

NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "PROXY_NOT_FOUND")
UPSTREAM = "mqtt://127.0.0.1:1"
PLACES = ["address", "listen"]


def to_be_made(scene):
    scene.forget("Proxies.DeleteProxy", "parity")
    return {"proxy": {"id": "parity", "upstream": UPSTREAM, "enabled": True}}


def made(request=None):
    def make(scene):
        scene.call("Proxies.CreateProxy", to_be_made(scene))
        return {"id": "parity"} if request is None else request

    return make


def through(scene):
    """A device that is connected through a proxy, and the number of its connection."""
    scene.forget("Proxies.DeleteProxy", "through")
    upstream = f"mqtt://127.0.0.1:{scene.server.port}"
    proxy = scene.call("Proxies.CreateProxy", {"proxy": {"id": "through", "upstream": upstream}})
    scene.through = Client(SimpleNamespace(port=int(proxy["address"].rsplit(":", 1)[1])), V5, "through")
    scene.through.connect()
    [connection] = scene.call("Proxies.ListConnections", {"id": "through"})["connections"]
    return {"id": "through", "connection": connection["connection"]}


def listed(scene):
    return {"id": through(scene)["id"]}


ROWS = {
    "Proxies.CreateProxy": Row(
        to_be_made,
        differs=PLACES,
        bad=[
            bad({}, "proxy"),
            bad({"proxy": {"id": "a/b", "listen": "x"}}, "proxy.id", "proxy.listen", "proxy.upstream"),
            bad({"proxy": {"upstream": "http://x"}}, "proxy.upstream"),
            bad({"proxy": {"id": "default", "upstream": UPSTREAM}}, "proxy.id"),
            refused({"proxy": {"upstream": UPSTREAM, "listen": "192.0.2.1:1"}}, "FAILED_PRECONDITION", "CANNOT_LISTEN"),
        ],
    ),
    "Proxies.GetProxy": Row(made(), differs=PLACES, bad=[NOTHING]),
    "Proxies.ListProxies": Row(made({}), differs=PLACES, bad=[BAD_TOKEN]),
    "Proxies.UpdateProxy": Row(
        made({"id": "parity", "proxy": {"enabled": False}, "update_mask": "enabled"}),
        parts=[made({"id": "parity", "proxy": {"enabled": False}, "update_mask": "enabled"})],
        differs=PLACES,
        bad=[
            refused({"id": "nothing", "proxy": {"upstream": UPSTREAM}}, "NOT_FOUND", "PROXY_NOT_FOUND"),
            bad({"proxy": {}, "id": "parity", "update_mask": "id"}, "update_mask.paths[0]"),
        ],
    ),
    "Proxies.DeleteProxy": Row(made(), bad=[NOTHING]),
    "Proxies.ListConnections": Row(
        listed, differs=["connection", "peer", "connected_at"], bad=[NOTHING, bad({"id": "a", "page_token": "!"}, "page_token")]
    ),
    "Proxies.CloseConnection": Row(
        through,
        bad=[
            bad({"id": "parity", "connection": 0}, "connection"),
            refused({"id": "nothing", "connection": 1}, "NOT_FOUND", "PROXY_NOT_FOUND"),
        ],
    ),
}

"""What the tests of chaos share: servers under chaos, their journals, and the statistics they are held against."""

import asyncio
import contextlib
import json
import math
import re
import time
import urllib.error
import urllib.parse

from peers import Mockforge, Mosquitto
from rawmqtt import PUBLISH, Client, Ended

KINDS = ["broker", "before mosquitto", "before mockforge"]
DIRECTIONS = {"DIRECTION_CLIENT_TO_SERVER": "c2s", "DIRECTION_SERVER_TO_CLIENT": "s2c"}


class Chaotic(Mockforge):
    """A broker, or a proxy before another one, with the settings `text`. `between` makes what lies before the upstream."""

    def __init__(self, kind, folder, text="mqtt: {enabled: true}\n", *flags, between=lambda upstream: upstream, **variables):
        self.kind, self.upstream = kind, None
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "mockforge.yaml"
        settings.write_text(text)
        if kind != "broker":
            self.upstream = Mosquitto() if kind == "before mosquitto" else Mockforge()
            flags = ["--upstream", f"mqtt://127.0.0.1:{between(self.upstream).port}", *flags]
        try:
            super().__init__("--config", settings, *flags, **variables)
        except BaseException:
            if self.upstream:
                self.upstream.__exit__(None, None, None)
            raise

    def __exit__(self, *exception):
        super().__exit__(*exception)
        if self.upstream:
            self.upstream.__exit__(*exception)

    @property
    def chaos(self):
        return self.rest("/chaos")

    def rule(self, *actions, when=None, id="", **match):
        """Makes a rule; its id."""
        rule = {"id": id, "match": match, "actions": list(actions), **({"when": when} if when else {})}
        return self.rest("/chaos/rules", rule)["id"]

    def refused(self, path, body):
        """The status and the text of a refusal."""
        try:
            return 200, json.dumps(self.rest(path, body))
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def reset(self):
        return self.rest("/chaos:reset", {})

    def faults(self, after=0, **match):
        """The journal behind number `after`, oldest first."""
        query = {f"filter.{name}": value for name, value in match.items()}
        found, token = [], ""
        while True:
            asked = {**query, "from": after + 1, "page_size": 1000, **({"page_token": token} if token else {})}
            page = self.rest(f"/chaos/faults?{urllib.parse.urlencode(asked)}")
            found += map(Fault, page.get("faults", []))
            token = page.get("next_page_token")
            if not token:
                return found

    def last_fault(self):
        """The number of the newest fault."""
        return max([fault["number"] for fault in self.rest("/chaos/faults?page_size=1").get("faults", [])], default=0)

    def fault_figures(self):
        """The counts in the metrics by (rule, action)."""
        pattern = r'(?m)^mqtt_faults_total\{rule="([^"]*)",action="([^"]*)"\} (\d+)$'
        return {(rule, action): int(count) for rule, action, count in re.findall(pattern, self.metrics())}

    def metric(self, name):
        found = re.search(rf"(?m)^{re.escape(name)} (\d+)$", self.metrics())
        assert found, f"no {name} in {self.metrics()}"
        return int(found[1])


class Fault:
    """A fault of the journal."""

    def __init__(self, listed):
        self.number, self.rule, self.action = listed["number"], listed["rule"], listed["action"]
        self.detail, self.client = listed.get("detail", {}), listed.get("client_id", "")
        self.direction = DIRECTIONS[listed["direction"]]
        self.type = listed["type"].removeprefix("PACKET_TYPE_")
        self.nth, self.topic = listed["nth"], listed.get("topic", "")

    @property
    def key(self):
        """All that has to be the same when it is injected again."""
        return (self.client, self.direction, self.type, self.nth, self.rule, self.action, str(self.detail))

    def __repr__(self):
        return f"#{self.number} {self.key}"


def by_client(faults, clients):
    """What happened to each client and direction, in order: the two directions have no order between them."""
    journals = {(client, direction): [] for client in clients for direction in ("c2s", "s2c")}
    for fault in faults:
        if (fault.client, fault.direction) in journals:
            journals[fault.client, fault.direction].append(fault.key)
    return journals


class Follower:
    """Reads the journal from here on while it grows, since it keeps only so much."""

    def __init__(self, server):
        self.server, self.faults = server, []
        self.before = server.last_fault()

    async def __aenter__(self):
        self.is_over = False
        self.task = asyncio.create_task(asyncio.to_thread(self._follow))
        return self

    def _follow(self):
        while not self.is_over:
            self.read()
            time.sleep(0.1)
        self.read()

    def read(self):
        self.faults += self.server.faults(self.faults[-1].number if self.faults else self.before)

    async def __aexit__(self, *exception):
        self.is_over = True
        await self.task
        if exception[0] is None:
            numbers = range(self.before + 1, self.before + len(self.faults) + 1)
            assert [fault.number for fault in self.faults] == list(numbers), "the journal has gaps"


def assert_rate(count, of, probability, what):
    """Five standard deviations of the binomial distribution, which have to be less than a quarter of the rate."""
    expected = of * probability
    limit = 5 * math.sqrt(of * probability * (1 - probability))
    print(f"{what}: {count} of {of} = {count / of:.3%}, configured {probability:.3%} ± {limit / of:.3%}")
    assert limit < expected / 4, f"{of} are too few to tell {probability} from a rate that is off by a quarter"
    assert abs(count - expected) < limit, f"{what}: {count} of {of} where {expected:.0f} ± {limit:.0f} were to be expected"


def assert_distribution(samples, cumulative, what, slack=0.0):
    """Kolmogorov-Smirnov at five standard deviations (α = 5.7e-7), with `slack` for what is not chance."""
    ordered, count = sorted(samples), len(samples)
    distance = max(
        max(abs((index + 1) / count - cumulative(value)), abs(cumulative(value) - index / count))
        for index, value in enumerate(ordered)
    )
    limit = math.sqrt(-math.log(5.7e-7 / 2) / 2 / count) + slack
    # Scaled by a quarter, the distribution would be further away than that from any sample that passes.
    span = ordered[-1] * 1.25 / 2000
    for scale in (0.75, 1.25):
        away = max(abs(cumulative(step * span / scale) - cumulative(step * span)) for step in range(2001))
        assert 2 * limit < away, f"{count} samples are too few to tell it from one that is off by a quarter"
    print(f"{what}: {count} samples, Kolmogorov-Smirnov distance {distance:.4f}, limit {limit:.4f}")
    assert distance < limit, what


def uniform(least, greatest):
    return lambda value: min(max((value - least) / (greatest - least), 0.0), 1.0)


def normal(mean, deviation):
    """Never less than 0."""
    return lambda value: 0.0 if value < 0 else 0.5 * (1 + math.erf((value - mean) / deviation / math.sqrt(2)))


def lognormal(median, sigma):
    return lambda value: 0.0 if value <= 0 else 0.5 * (1 + math.erf(math.log(value / median) / sigma / math.sqrt(2)))


class Listener:
    """A subscriber that nothing befalls: all it heard on its filter, in order."""

    def __init__(self, client):
        self.client = client

    @classmethod
    async def of(cls, port, name, topic_filter, qos=0):
        client = await Client.connected(port, name)
        await client.subscribe(topic_filter, qos)
        return cls(client)

    async def hear(self, count):
        """The next payloads, so many of them."""
        return [(await self.client.hear(PUBLISH)).payload for _ in range(count)]

    async def nothing(self):
        """Payloads that came so far; everything that was sent before has come."""
        return [packet.payload for packet in await self.client.ping() if packet.kind == PUBLISH]


async def until_end(client):
    """What came before the connection ended, and how it did."""
    with contextlib.suppress(Ended):
        while True:
            await client.hear(256)
    return client.heard, client.end

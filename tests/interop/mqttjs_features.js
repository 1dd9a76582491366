// One feature of MQTT.js through the broker; ends with 0 if everything was as expected.
// Arguments: PORT PROTOCOL_VERSION SCENARIO [PROTOCOL [CA_FILE]]
//
// A message `end` follows where something must not come: what came before it is all there was.
const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const { once } = require("node:events");
const fs = require("node:fs");
const mqtt = require("mqtt");

const [port, version] = process.argv.slice(2, 4).map(Number);
const [scenario, protocol = "mqtt", authority] = process.argv.slice(4);
const ca = authority && fs.readFileSync(authority);
const five = version === 5;
const topic = `js/${scenario}/${version}`;

// A session that outlives its connection.
const session = { clientId: topic, clean: false, properties: five ? { sessionExpiryInterval: 300 } : undefined };
// MQTT.js's own reconnecting, at once.
const reconnecting = { reconnectPeriod: 5 };

function start(options = {}) {
  const way = { protocol, host: "localhost", port, path: "/mqtt", ca };
  const client = mqtt.connect({ ...way, protocolVersion: version, reconnectPeriod: 0, ...options });
  client.inbox = [];
  client.on("message", (name, payload, packet) => {
    client.inbox.push({ name, text: payload.toString(), payload, ...packet });
    client.emit("heard");
  });
  return client;
}

async function connect(options) {
  const client = start(options);
  [client.connack] = await once(client, "connect");
  return client;
}

async function hear(client) {
  while (client.inbox.length === 0) await once(client, "heard");
  return client.inbox.shift();
}

async function hearUntilEnd(client) {
  const heard = [];
  for (;;) {
    const message = await hear(client);
    if (message.text === "end") return heard;
    heard.push(message);
  }
}

const texts = (messages) => messages.map((message) => message.text);
const range = (count) => Array.from({ length: count }, (_, number) => `${number}`);

// Breaks the connection without a goodbye; MQTT.js connects again by itself.
async function breakConnection(client) {
  client.stream.destroy();
  [client.connack] = await once(client, "connect");
}

// The next packet of a kind.
async function received(client, command) {
  for (;;) {
    const [packet] = await once(client, "packetreceive");
    if (packet.cmd === command) return packet;
  }
}

// Loses the next packet of a kind, and the connection with it.
function loseNext(client, command) {
  client.on("packetreceive", function look(packet) {
    if (packet.cmd !== command) return;
    client.off("packetreceive", look);
    packet.cmd = "lost";
    client.stream.destroy();
  });
}

const scenarios = {
  async thousands() {
    const [listener, publisher] = [await connect(), await connect()];
    for (const qos of [0, 1, 2]) {
      await listener.subscribeAsync(`${topic}/${qos}`, { qos });
      await Promise.all(range(1000).map((text) => publisher.publishAsync(`${topic}/${qos}`, text, { qos })));
      await publisher.publishAsync(`${topic}/${qos}`, "end", { qos });
      assert.deepEqual(texts(await hearUntilEnd(listener)), range(1000));
    }
  },

  async mebibyte() {
    const [listener, publisher] = [await connect(), await connect()];
    await listener.subscribeAsync(topic, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      const payload = crypto.randomBytes(1 << 20);
      await publisher.publishAsync(topic, payload, { qos });
      assert(payload.equals((await hear(listener)).payload));
    }
  },

  async "offline-queue"() {
    const listener = await connect();
    await listener.subscribeAsync(`${topic}/+`, { qos: 2 });
    const publisher = start({ ...session, ...reconnecting });
    const publish = (when) =>
      Promise.all(range(15).map((n) => publisher.publishAsync(`${topic}/${n % 3}`, `${when} ${n}`, { qos: n % 3 })));
    await publish("before");
    publisher.stream.destroy();
    await once(publisher, "close");
    await publish("between");
    await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
    const heard = await hearUntilEnd(listener);
    for (const qos of [0, 1, 2]) {
      const numbers = range(15).filter((n) => n % 3 === qos);
      const expected = ["before", "between"].flatMap((when) => numbers.map((n) => `${when} ${n}`));
      assert.deepEqual(texts(heard.filter((message) => message.qos === qos)), expected);
    }
  },

  async "persistent-session"() {
    const [away, publisher] = [await connect(session), await connect()];
    assert.equal(away.connack.sessionPresent, false);
    await away.subscribeAsync(`${topic}/+`, { qos: 2 });
    await away.endAsync();
    for (const n of range(40)) await publisher.publishAsync(`${topic}/${n % 2}`, n, { qos: 1 + (n % 2) });
    const again = await connect(session);
    assert.equal(again.connack.sessionPresent, true);
    await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
    const heard = await hearUntilEnd(again);
    for (const odd of [0, 1]) {
      const expected = range(40).filter((n) => n % 2 === odd);
      assert.deepEqual(texts(heard.filter((message) => message.qos === 1 + odd)), expected);
    }
    await again.endAsync();
    assert.equal((await connect({ ...session, clean: true })).connack.sessionPresent, false);
  },

  async "redelivery-qos-1"() {
    const [listener, publisher] = [await connect({ ...session, ...reconnecting }), await connect()];
    await listener.subscribeAsync(topic, { qos: 2 });
    const { handleMessage } = listener;
    listener.handleMessage = () => {}; // no PUBACK
    await publisher.publishAsync(topic, "important", { qos: 1 });
    const first = await hear(listener);
    listener.handleMessage = handleMessage;
    await breakConnection(listener);
    assert.equal(listener.connack.sessionPresent, true);
    const second = await hear(listener);
    assert.deepEqual([first.text, first.dup], ["important", false]);
    assert.deepEqual([second.text, second.dup, second.messageId], ["important", true, first.messageId]);
    for (let round = 0; round < 2; round++) {
      await publisher.publishAsync(topic, "end", { qos: 2 });
      assert.deepEqual(await hearUntilEnd(listener), []);
      await breakConnection(listener);
    }
  },

  async "redelivery-qos-2"() {
    const [listener, publisher] = [await connect({ ...session, ...reconnecting }), await connect()];
    await listener.subscribeAsync(topic, { qos: 2 });
    const { put } = listener.incomingStore;
    const arrived = new Promise((resolve) => {
      listener.incomingStore.put = resolve; // no PUBREC
    });
    await publisher.publishAsync(topic, "important", { qos: 2 });
    assert.equal((await arrived).dup, false);
    listener.incomingStore.put = put;
    await breakConnection(listener);
    const message = await hear(listener);
    assert.deepEqual([message.text, message.dup], ["important", true]);
    for (let round = 0; round < 2; round++) {
      await publisher.publishAsync(topic, "end", { qos: 2 });
      assert.deepEqual(await hearUntilEnd(listener), []);
      await breakConnection(listener);
    }
  },

  async "lost-acknowledgements"() {
    const [listener, publisher] = [await connect(), await connect({ ...session, ...reconnecting })];
    await listener.subscribeAsync(topic, { qos: 2 });
    for (const [lost, qos, copies] of [["puback", 1, 2], ["pubrec", 2, 1], ["pubcomp", 2, 1]]) {
      loseNext(publisher, lost);
      // Settles after the second connection's acknowledgement; MQTT.js fails for any reason but success.
      await publisher.publishAsync(topic, lost, { qos });
      await publisher.publishAsync(topic, "end", { qos: 2 });
      assert.deepEqual(texts(await hearUntilEnd(listener)), Array(copies).fill(lost));
    }
  },

  async resubscribe() {
    const [listener, publisher] = [await connect(reconnecting), await connect()];
    await listener.subscribeAsync({ [`${topic}/a`]: { qos: 1 }, [`${topic}/b/#`]: { qos: 2 } });
    const again = received(listener, "suback");
    await breakConnection(listener);
    await again;
    await publisher.publishAsync(`${topic}/b/c`, "heard again", { qos: 2 });
    assert.equal((await hear(listener)).text, "heard again");
  },

  async will() {
    const observer = await connect();
    await observer.subscribeAsync(topic, { qos: 2 });
    const carried = { contentType: "text/plain", responseTopic: "r", correlationData: Buffer.from([0, 255]) };
    const will = {
      topic,
      payload: Buffer.from("gone"),
      qos: 2,
      properties: five ? { ...carried, userProperties: { k: ["v", "w"] }, payloadFormatIndicator: true } : undefined,
    };
    const expect = async () => {
      const message = await hear(observer);
      assert.deepEqual([message.text, message.qos, message.retain], ["gone", 2, false]);
      if (!five) return;
      const { userProperties, payloadFormatIndicator, ...properties } = message.properties;
      assert.deepEqual({ ...userProperties }, { k: ["v", "w"] });
      assert.equal(payloadFormatIndicator, true);
      assert.deepEqual({ ...properties }, carried);
    };
    await (await connect({ will })).endAsync();
    await observer.publishAsync(topic, "end", { qos: 2 });
    assert.deepEqual(await hearUntilEnd(observer), []);
    (await connect({ will })).stream.destroy();
    await expect();
    if (five) {
      await (await connect({ will })).endAsync(false, { reasonCode: 0x04 });
      await expect();
      const delayed = { ...will, properties: { ...will.properties, willDelayInterval: 1 } };
      (await connect({ ...session, will: delayed })).stream.destroy();
      await expect();
    }
  },

  async retained() {
    const publisher = await connect();
    for (const text of ["old", "kept"]) await publisher.publishAsync(`${topic}/a`, text, { qos: 1, retain: true });
    const late = await connect();
    await late.subscribeAsync(`${topic}/+`, { qos: 2 });
    const message = await hear(late);
    assert.deepEqual([message.text, message.retain, message.qos], ["kept", true, 1]);
    await publisher.publishAsync(`${topic}/a`, "", { qos: 1, retain: true });
    assert.deepEqual((await hear(late)).retain, false);
    const latest = await connect();
    await latest.subscribeAsync(`${topic}/+`, { qos: 2 });
    await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
    assert.deepEqual(await hearUntilEnd(latest), []);
  },

  async shared() {
    const members = await Promise.all(range(3).map(() => connect()));
    for (const member of members) {
      await member.subscribeAsync([`$share/group/${topic}/work`, `${topic}/end`], { qos: 2 });
    }
    const publisher = await connect();
    for (const n of range(60)) await publisher.publishAsync(`${topic}/work`, n, { qos: 2 });
    await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
    const shares = [];
    for (const member of members) shares.push(texts(await hearUntilEnd(member)));
    assert.deepEqual(shares.flat().sort((a, b) => a - b), range(60));
    assert(shares.every((share) => share.length > 0), JSON.stringify(shares));
  },

  async system() {
    const [everything, system] = [await connect(), await connect()];
    await everything.subscribeAsync(["#", "+/broker/uptime", `${topic}/#`], { qos: 2 });
    await system.subscribeAsync("$SYS/broker/#", { qos: 1 });
    const seen = new Map();
    for (;;) {
      const { name, text, retain } = await hear(system);
      seen.set(name, text);
      if (name === "$SYS/broker/uptime" && !retain) break; // published now
    }
    assert.match(seen.get("$SYS/broker/version"), /mockforge/i);
    await system.publishAsync(`${topic}/end`, "end", { qos: 2 });
    const names = (await hearUntilEnd(everything)).map((message) => message.name);
    assert.deepEqual(names.filter((name) => name.startsWith("$")), []);
  },

  async takeover() {
    const first = await connect(session);
    const told = five && received(first, "disconnect");
    const closed = once(first, "close");
    const second = await connect(session);
    assert.equal(second.connack.sessionPresent, true);
    if (five) assert.equal((await told).reasonCode, 0x8e);
    await closed;
  },

  async "too-large"() {
    const client = await connect();
    const told = five && received(client, "disconnect");
    const closed = once(client, "close");
    client.on("error", () => {}); // the rest of the packet may meet a closed socket
    client.publish(topic, Buffer.alloc(3 << 20), { qos: 0 });
    if (five) assert.equal((await told).reasonCode, 0x95);
    await closed;
  },

  async properties() {
    const client = await connect();
    await client.subscribeAsync(topic, { qos: 2, properties: { subscriptionIdentifier: 268435455 } });
    const sent = {
      payloadFormatIndicator: true,
      contentType: "text/plain; charset=utf-8",
      responseTopic: "answers/here",
      correlationData: Buffer.from(range(256)),
      userProperties: { b: ["1", "2", "1"], a: "é" },
    };
    for (const qos of [0, 1, 2]) {
      await client.publishAsync(topic, "水", { qos, properties: { ...sent, messageExpiryInterval: 100 } });
      const { messageExpiryInterval, subscriptionIdentifier, ...properties } = (await hear(client)).properties;
      assert(messageExpiryInterval > 0 && messageExpiryInterval <= 100);
      assert.equal(subscriptionIdentifier, 268435455);
      assert.deepEqual(Object.keys(properties.userProperties), ["b", "a"]);
      assert.deepEqual({ ...properties, userProperties: { ...properties.userProperties } }, sent);
    }
  },

  async request() {
    const [requester, responder] = [await connect(), await connect()];
    await responder.subscribeAsync(`${topic}/requests`, { qos: 1 });
    await requester.subscribeAsync(`${topic}/answers/+`, { qos: 1 });
    responder.on("message", (_, payload, { properties: { responseTopic, correlationData } }) => {
      responder.publish(responseTopic, `re: ${payload}`, { qos: 1, properties: { correlationData } });
    });
    for (const n of range(3)) {
      const properties = { responseTopic: `${topic}/answers/${n}`, correlationData: Buffer.from([n, 0, 255]) };
      await requester.publishAsync(`${topic}/requests`, `question ${n}`, { qos: 1, properties });
      const answer = await hear(requester);
      assert.deepEqual([answer.name, answer.text], [properties.responseTopic, `re: question ${n}`]);
      assert.deepEqual(answer.properties.correlationData, properties.correlationData);
    }
  },

  async "subscribe-options"() {
    const [publisher, other] = [await connect(), await connect()];
    await publisher.publishAsync(`${topic}/kept`, "kept", { qos: 1, retain: true });
    for (const [rh, first, second] of [[0, ["kept"], ["kept"]], [1, ["kept"], []], [2, [], []]]) {
      const client = await connect();
      for (const expected of [first, second]) {
        await client.subscribeAsync(`${topic}/+`, { qos: 2, rh });
        await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
        assert.deepEqual(texts(await hearUntilEnd(client)), expected);
      }
      await client.endAsync();
    }
    await publisher.subscribeAsync(`${topic}/live`, { qos: 2, nl: true, rap: true });
    await other.subscribeAsync(`${topic}/live`, { qos: 2 });
    await publisher.publishAsync(`${topic}/live`, "mine", { qos: 2 });
    await other.publishAsync(`${topic}/live`, "retained", { qos: 2, retain: true });
    await other.publishAsync(`${topic}/live`, "end", { qos: 2 });
    const flags = (messages) => messages.map(({ text, retain }) => [text, retain]);
    assert.deepEqual(flags(await hearUntilEnd(publisher)), [["retained", true]]);
    assert.deepEqual(flags(await hearUntilEnd(other)), [["mine", false], ["retained", false]]);
  },

  async "aliases-to-the-broker"() {
    const listener = await connect();
    await listener.subscribeAsync(`${topic}/#`, { qos: 2 });
    for (const [option, names] of [["autoAssignTopicAlias", 100], ["autoUseTopicAlias", 1]]) {
      const publisher = await connect({ [option]: true });
      const maximum = publisher.connack.properties.topicAliasMaximum;
      assert.equal(maximum, 64);
      let bare = 0;
      publisher.on("packetsend", (packet) => (bare += packet.cmd === "publish" && packet.topic === "" ? 1 : 0));
      if (option === "autoUseTopicAlias") {
        await publisher.publishAsync(`${topic}/0`, `${topic}/0`, { properties: { topicAlias: maximum } });
      }
      // More topics than aliases, so that these are given anew.
      for (const name of range(names).map((n) => `${topic}/${n}`)) {
        for (const qos of [0, 1, 2]) await publisher.publishAsync(name, name, { qos });
      }
      await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
      assert.equal(bare, option === "autoUseTopicAlias" ? 3 : 2 * names);
      const heard = await hearUntilEnd(listener);
      assert.equal(heard.length, option === "autoUseTopicAlias" ? 4 : 3 * names);
      for (const { name, text } of heard) assert.equal(name, text);
    }
  },

  async "aliases-from-the-broker"() {
    const properties = { ...session.properties, topicAliasMaximum: 2 };
    const [listener, publisher] = [await connect({ ...session, ...reconnecting, properties }), await connect()];
    const published = [];
    listener.on("packetreceive", (packet) => packet.cmd === "publish" && published.push(packet));
    await listener.subscribeAsync(`${topic}/+`, { qos: 2 });
    for (let connection = 0; connection < 2; connection++) {
      for (let round = 0; round < 4; round++) {
        for (const name of ["a", "b", "c"].map((level) => `${topic}/${level}`)) {
          await publisher.publishAsync(name, name, { qos: round % 3 });
        }
      }
      await publisher.publishAsync(`${topic}/end`, "end", { qos: 2 });
      const heard = await hearUntilEnd(listener);
      assert.equal(heard.length, 12);
      // MQTT.js gives QoS 2 messages without their topic, which is its own shortcoming.
      for (const { name, text } of heard) assert(name === text || name === "");
      const aliases = published.splice(0).map((packet) => [packet.topic, packet.properties?.topicAlias]);
      assert.deepEqual(aliases.slice(0, 6), [
        [`${topic}/a`, 1], [`${topic}/b`, 2], [`${topic}/c`, undefined], ["", 1], ["", 2], [`${topic}/c`, undefined],
      ]);
      await breakConnection(listener);
    }
  },

  async "packets-within-the-maximum"() {
    // MQTT.js ends a connection with a packet that is larger than it asked for.
    const [small, publisher] = [await connect({ properties: { maximumPacketSize: 200 } }), await connect()];
    await small.subscribeAsync(topic, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      await publisher.publishAsync(topic, "x".repeat(200), { qos });
      await publisher.publishAsync(topic, "fits", { qos });
    }
    await publisher.publishAsync(topic, "end", { qos: 2 });
    assert.deepEqual(texts(await hearUntilEnd(small)).sort(), ["fits", "fits", "fits"]);
  },

  async "receive-maximum"() {
    // MQTT.js ends a connection with more QoS 2 messages under way than it asked for.
    const [slow, publisher] = [await connect({ properties: { receiveMaximum: 2 } }), await connect()];
    await slow.subscribeAsync(topic, { qos: 2 });
    await Promise.all(range(200).map((n) => publisher.publishAsync(topic, n, { qos: 2 })));
    await publisher.publishAsync(topic, "end", { qos: 2 });
    assert.deepEqual(texts(await hearUntilEnd(slow)), range(200));
  },

  async "what-connack-says"() {
    const [first, second] = [await connect({ clientId: "", keepalive: 3600 }), await connect({ clientId: "" })];
    const { assignedClientIdentifier, serverKeepAlive } = first.connack.properties;
    assert(assignedClientIdentifier);
    assert.notEqual(assignedClientIdentifier, second.connack.properties.assignedClientIdentifier);
    assert.equal(serverKeepAlive, 60);
    const stranger = start({ properties: { authenticationMethod: "KERBEROS" } });
    const [error] = await once(stranger, "error");
    assert.equal(error.code, 0x8c);
  },

  async "reason-codes"() {
    const client = await connect();
    for (const [qos, answer] of [[1, "puback"], [2, "pubrec"]]) {
      const acknowledged = received(client, answer);
      await client.publishAsync(topic, "to nobody", { qos });
      assert.equal((await acknowledged).reasonCode, 0x10);
    }
    assert.deepEqual((await client.unsubscribeAsync([topic, `${topic}/b`])).granted, [0x11, 0x11]);
    const granted = await client.subscribeAsync({ [topic]: { qos: 1 }, [`${topic}/b`]: { qos: 2 } });
    assert.deepEqual(granted.map(({ qos }) => qos), [1, 2]);
    assert.deepEqual((await client.unsubscribeAsync([topic, `${topic}/c`])).granted, [0, 0x11]);
  },

  async scram() {
    const method = "SCRAM-SHA-256";
    const auth = (reasonCode, text) => ({
      cmd: "auth",
      reasonCode,
      properties: { authenticationMethod: method, authenticationData: Buffer.from(text) },
    });
    // Begins with the first message of an exchange and answers the server's.
    const exchange = (client, password) => {
      const scram = new Scram("alice", password);
      client.handleAuth = (packet, callback) => {
        const said = `${packet.properties.authenticationData}`;
        if (packet.reasonCode === 0x18) return callback(null, auth(0x18, scram.answer(said)));
        scram.verify(said);
        client.emit("proven");
        callback();
      };
      return scram;
    };
    const properties = { authenticationMethod: method };
    const attempt = (password) => {
      const client = start({ manualConnect: true, properties });
      const scram = exchange(client, password);
      client.options.properties.authenticationData = Buffer.from(scram.first);
      client.connect();
      return [client, scram];
    };
    const [alice, scram] = attempt("secret");
    const [connack] = await once(alice, "connect");
    scram.verify(`${connack.properties.authenticationData}`);
    const again = exchange(alice, "secret");
    alice._sendPacket(auth(0x19, again.first));
    await once(alice, "proven");
    const [mallory] = attempt("guess");
    const [error] = await once(mallory, "error");
    assert.equal(error.code, 0x87);
  },
};

// The client's half of RFC 5802 with RFC 7677's hash.
class Scram {
  constructor(user, password) {
    this.password = password;
    this.bare = `n=${user},r=${crypto.randomBytes(18).toString("base64")}`;
    this.first = `n,,${this.bare}`;
  }

  answer(challenge) {
    const hmac = (key, text) => crypto.createHmac("sha256", key).update(text).digest();
    const [, nonce, salt, rounds] = challenge.match(/^r=([^,]+),s=([^,]+),i=(\d+)$/);
    const salted = crypto.pbkdf2Sync(this.password, Buffer.from(salt, "base64"), Number(rounds), 32, "sha256");
    const key = hmac(salted, "Client Key");
    const final = `c=${Buffer.from("n,,").toString("base64")},r=${nonce}`;
    const exchange = `${this.bare},${challenge},${final}`;
    const signature = hmac(crypto.createHash("sha256").update(key).digest(), exchange);
    this.expected = `v=${hmac(hmac(salted, "Server Key"), exchange).toString("base64")}`;
    return `${final},p=${Buffer.from(key.map((byte, index) => byte ^ signature[index])).toString("base64")}`;
  }

  verify(final) {
    assert.equal(final, this.expected);
  }
}

setTimeout(() => {
  console.error(`${scenario}: nothing came in time`);
  process.exit(1);
}, 20000);
scenarios[scenario]().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

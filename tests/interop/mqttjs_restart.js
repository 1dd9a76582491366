// MQTT.js with persistent sessions while its server ends, says `end it` when it should, and is started again
// on the same port. Ends with 0 if everything was as expected.
// Arguments: PORT PROTOCOL_VERSION
const assert = require("node:assert/strict");
const { once } = require("node:events");
const mqtt = require("mqtt");

const [port, version] = process.argv.slice(2).map(Number);

function start(clientId) {
  const client = mqtt.connect({
    host: "127.0.0.1",
    port,
    clientId,
    protocolVersion: version,
    clean: false,
    properties: version === 5 ? { sessionExpiryInterval: 300 } : undefined,
    reconnectPeriod: 50,
  });
  client.inbox = [];
  client.on("message", (_, payload, packet) => {
    // What was acknowledged at QoS 1 just before the end may come again.
    if (!(packet.dup && packet.qos === 1)) client.inbox.push(payload.toString());
    client.emit("heard");
  });
  // Nobody listens for a while.
  client.on("error", () => {});
  return client;
}

// Loses the next packet of a kind, and the connection with it; no connection is made until the server ends.
function loseNext(client, command) {
  client.on("packetreceive", function look(packet) {
    if (packet.cmd !== command) return;
    client.off("packetreceive", look);
    packet.cmd = "lost";
    client.options.port = 1;
    client.stream.destroy();
  });
  return once(client, "close");
}

async function main() {
  const listener = start("listener");
  await once(listener, "connect");
  await listener.subscribeAsync("js/+", { qos: 2 });
  const expected = [];
  for (const [lost, qos] of [["puback", 1], ["pubrec", 2], ["pubcomp", 2]]) {
    const publisher = start(`publisher-${lost}`);
    const [connack] = await once(publisher, "connect");
    assert.equal(connack.sessionPresent, false);
    const closed = loseNext(publisher, lost);
    const published = publisher.publishAsync("js/cut", lost, { qos });
    await closed;
    expected.push({ publisher, published, lost, copies: qos === 1 ? 2 : 1 });
  }
  // `once` of node:events would fail with the errors on the way.
  const back = [listener, ...expected.map(({ publisher }) => publisher)].map(
    (client) => new Promise((resolve) => client.once("connect", resolve)),
  );
  console.log("end it");
  await new Promise((resolve) => listener.once("close", resolve));
  for (const { publisher } of expected) publisher.options.port = port;
  for (const connack of await Promise.all(back)) assert.equal(connack.sessionPresent, true);
  for (const { published } of expected) await published;
  const last = start("last");
  await last.publishAsync("js/end", "end", { qos: 2 });
  while (!listener.inbox.includes("end")) await once(listener, "heard");
  for (const { lost, copies } of expected) {
    assert.equal(listener.inbox.filter((text) => text === lost).length, copies, lost);
  }
  await Promise.all([last, listener, ...expected.map(({ publisher }) => publisher)].map((client) => client.endAsync()));
}

setTimeout(() => { console.error("not done in time"); process.exit(1); }, 30000).unref();
main().catch((error) => { console.error(error); process.exit(1); });

// A device as people write them, in MQTT 3.1.1: it reports and obeys commands.
// Arguments: PORT [OPTION…]; options are name=… (else the library draws one), wrong=PART, number=N.
const assert = require("node:assert");
const mqtt = require("mqtt");

const [port, ...words] = process.argv.slice(2);
const { name, wrong, number = "1" } = Object.fromEntries(words.map((word) => word.split("=")));

async function main() {
  const client = await mqtt.connectAsync({
    host: "127.0.0.1",
    port: Number(port),
    clientId: name,
    protocolVersion: 4,
    keepalive: 30,
    reconnectPeriod: 0,
    connectTimeout: 10000,
  });
  const commands = [];
  let waiting;
  client.on("message", (topic, payload, packet) => {
    commands.push({ topic, payload: payload.toString(), qos: packet.qos });
    waiting?.();
  });
  const next = async () => {
    while (commands.length === 0) await new Promise((resolve) => (waiting = resolve));
    return commands.shift();
  };
  const filter = wrong === "subscription" ? `devices/${number}/command/#` : `devices/${number}/commands/#`;
  const granted = await client.subscribeAsync(filter, { qos: 2 });
  assert.deepStrictEqual(granted.map((one) => one.qos), [2]);
  for (let n = 0; n < 20; n++) {
    const value = wrong === "payload" && n === 7 ? 0 : n * 1.5;
    await client.publishAsync(`devices/${number}/data`, JSON.stringify({ n, value }), { qos: n % 3 });
  }
  await client.publishAsync(`devices/${number}/ready`, "", { qos: 2 });
  for (let n = 0; n < 6; n++) {
    const command = await next();
    assert.deepStrictEqual(command, { topic: `devices/${number}/commands/${n}`, payload: `{"do": ${n}}`, qos: n % 3 });
    await client.publishAsync(`devices/${number}/replies`, command.payload, { qos: 1 });
  }
  await client.unsubscribeAsync(`devices/${number}/commands/#`);
  await client.endAsync();
}

setTimeout(() => {
  console.error("nothing came for too long");
  process.exit(2);
}, 30000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});

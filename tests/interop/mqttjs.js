// MQTT.js through the broker: publishes and hears its own messages; prints what came as JSON.
// Arguments: PORT PROTOCOL_VERSION
const mqtt = require("mqtt");

const [port, version] = process.argv.slice(2).map(Number);
const client = mqtt.connect({ host: "127.0.0.1", port, protocolVersion: version, reconnectPeriod: 0 });
const heard = [];
const timer = setTimeout(() => { console.error("nothing came in time"); process.exit(1); }, 15000);

client.on("error", (error) => { console.error(error.message); process.exit(1); });
client.on("connect", async () => {
  const [granted] = await client.subscribeAsync("js/#", { qos: 2 });
  if (granted.qos !== 2) throw new Error(`granted ${granted.qos}`);
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(`js/${qos}`, `payload ${qos}`, {
      qos,
      properties: version === 5
        ? { contentType: "text/plain", userProperties: { k: "v" }, correlationData: Buffer.from([0, 255]) }
        : undefined,
    });
  }
});
client.on("message", async (topic, payload, packet) => {
  heard.push({ topic, payload: payload.toString(), qos: packet.qos, user: packet.properties?.userProperties?.k ?? null });
  if (heard.length === 3) {
    await client.endAsync();
    clearTimeout(timer);
    console.log(JSON.stringify(heard));
  }
});

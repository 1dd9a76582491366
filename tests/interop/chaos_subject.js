// MQTT.js as a client under chaos, with its own reconnecting; says in lines of JSON what happens to it.
// Arguments: PORT PROTOCOL_VERSION NAME KEEP_ALIVE. On standard input: a line `QOS PAYLOAD` for each message to publish.
const mqtt = require("mqtt");
const readline = require("node:readline");

const [port, protocolVersion, name, keepalive] = process.argv.slice(2);
const five = protocolVersion === "5";
const say = (event) => console.log(JSON.stringify(event));

const client = mqtt.connect({
  host: "127.0.0.1",
  port: Number(port),
  clientId: name,
  protocolVersion: Number(protocolVersion),
  clean: false,
  keepalive: Number(keepalive),
  properties: five ? { sessionExpiryInterval: 300 } : undefined,
});
let isSubscribed = false;

client.on("connect", () => {
  say({ connected: true });
  if (isSubscribed) return;
  isSubscribed = true;
  client.subscribe(`down/${name}`, { qos: 2 }, (error, granted) => say({ ready: error?.message ?? granted[0].qos }));
});
client.on("close", () => say({ closed: true }));
client.on("error", (error) => say({ error: error.message }));
client.on("message", (_, payload, { qos, dup }) => say({ heard: payload.toString("latin1"), qos, dup }));

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [qos, payload] = line.split(" ");
  client.publish(`up/${name}`, payload, { qos: Number(qos) }, (error) => say(error ? { failed: payload } : { acked: payload }));
}).on("close", () => process.exit(0));

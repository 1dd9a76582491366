// Three gateways with persistent sessions and Wills: each publishes, loses its connection without a
// DISCONNECT, comes back to what waited for it, and says goodbye in the end. Argument: PORT
const mqtt = require("mqtt");

const port = Number(process.argv[2]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function connect(number, protocolVersion) {
  return mqtt.connectAsync({
    host: "127.0.0.1",
    port,
    clientId: `gateway-${number}`,
    protocolVersion,
    clean: false,
    keepalive: 10,
    reconnectPeriod: 0,
    properties: protocolVersion === 5 ? { sessionExpiryInterval: 120 } : undefined,
    will: { topic: `status/gateway-${number}`, payload: Buffer.from("offline"), qos: 1, retain: true },
  });
}

async function gateway(number, protocolVersion) {
  let client = await connect(number, protocolVersion);
  await client.subscribeAsync(`gateway/${number}/down`, { qos: 1 });
  await client.publishAsync(`status/gateway-${number}`, "online", { qos: 1, retain: true });
  for (let round = 0; round < 3; round++) {
    for (let n = 0; n < 4; n++) {
      await client.publishAsync(`gateway/${number}/up`, JSON.stringify({ round, n }), { qos: n % 3 });
      await pause(120);
    }
    client.stream.destroy();
    await pause(400 + 50 * number);
    client = await connect(number, protocolVersion);
    await client.publishAsync(`status/gateway-${number}`, "online", { qos: 1, retain: true });
  }
  await client.endAsync();
}

async function backend() {
  const client = await mqtt.connectAsync({ host: "127.0.0.1", port, clientId: "backend", protocolVersion: 4 });
  for (let n = 0; n < 15; n++) {
    for (const number of [0, 1, 2]) await client.publishAsync(`gateway/${number}/down`, `set ${n}`, { qos: 1 });
    await pause(200);
  }
  await client.endAsync();
}

Promise.all([gateway(0, 4), gateway(1, 5), gateway(2, 5), backend()]).catch((error) => {
  console.error(error);
  process.exit(1);
});

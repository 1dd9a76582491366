// Connect's gRPC-Web client, as pages use it. node grpcweb.js URL FILE: FILE holds a FileDescriptorSet.
const { readFileSync } = require("node:fs");
const { createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const { createGrpcWebTransport } = require("@connectrpc/connect-web");

const [baseUrl, file] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(file)));
const client = (name) => createClient(registry.getService(`mockforge.mqtt.v1.${name}`), createGrpcWebTransport({ baseUrl }));

async function main() {
  const heard = {};
  const broker = client("Broker");
  heard.version = (await client("Admin").getServerInfo({})).version;

  // Headers come before the first message, so what is published then is delivered; then we go away.
  const leaving = new AbortController();
  const publish = () => broker.publish({ topic: "page/1", payload: Buffer.from("hello"), qos: 1 });
  const options = { signal: leaving.signal, onHeader: publish };
  try {
    for await (const { event } of broker.subscribe({ filter: ["page/#"] }, options)) {
      heard.message = [event.value.topic, Buffer.from(event.value.payload).toString()];
      leaving.abort();
    }
  } catch (error) {
    heard.left = Code[ConnectError.from(error).code];
  }

  try {
    await client("Mocks").getMock({ id: "nothing" });
  } catch (error) {
    heard.refused = [Code[error.code], error.details.map((detail) => detail.type)];
  }

  const steps = [{ wait: "1ms" }, { mark: "here" }];
  const scenario = Buffer.from(JSON.stringify({ scenario: "of a page", steps }));
  heard.events = [];
  for await (const { event } of client("Scenarios").runScenario({ scenario, allowEmpty: true })) {
    heard.events.push(event.case);
  }
  console.log(JSON.stringify(heard));
}

main();

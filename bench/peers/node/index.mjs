// ingest-fn's job in JavaScript, as one would write it with AWS SDK v3, and Lambda's runtime loop.

import { createHash, timingSafeEqual } from "node:crypto";
import http from "node:http";
import { SQSClient, SendMessageCommand } from "@aws-sdk/client-sqs";
import { SSMClient, GetParameterCommand } from "@aws-sdk/client-ssm";

const ID = /^[A-Za-z0-9_-]{1,64}$/;
const LIMIT = (1 << 20) - 1024;
const { env } = process;

const sqs = new SQSClient({ maxAttempts: 20 });
const ssm = new SSMClient({});
const sha256 = (key) => createHash("sha256").update(key).digest();

let keys = [];
let readAt = 0;
let hurriedAt = 0;

async function readKeys() {
  const command = new GetParameterCommand({ Name: env.WEBHOOK_KEYS_PARAMETER, WithDecryption: true });
  const { Parameter } = await ssm.send(command);
  const lines = Parameter.Value.split("\n").map((line) => line.trim());
  keys = lines.filter((key) => key.length >= 32).map(sha256);
  readAt = Date.now();
}

function match(key) {
  const digest = sha256(key);
  let found = 0;
  keys.forEach((active, index) => {
    if (timingSafeEqual(active, digest)) found = index + 1;
  });
  return found;
}

async function slot(key) {
  if (Date.now() - readAt >= 60_000) await readKeys();
  let found = match(key);
  if (!found && Date.now() - hurriedAt >= 10_000) {
    hurriedAt = Date.now();
    await readKeys();
    found = match(key);
  }
  return found;
}

class Unusable extends Error {
  constructor(reason, detail) {
    super(detail);
    this.reason = reason;
  }
}

function checked(name, value) {
  if (value != null && !(typeof value === "string" && ID.test(value))) {
    throw new Unusable("invalid-id", `${name} is off the rule`);
  }
  return value;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function read(body) {
  let event;
  try {
    event = JSON.parse(utf8.decode(body));
  } catch {
    throw new Unusable("unreadable", "not JSON in UTF-8");
  }
  const type = event?.type;
  if (typeof type !== "string" || !type) throw new Unusable("no-type", "no type");
  if (type === "PING") return { type };
  const { content } = event;
  if (content != null && (typeof content !== "object" || Array.isArray(content))) {
    throw new Unusable("unreadable", "content is not an object");
  }
  const conversation = checked("content.conversationId", content?.conversationId);
  checked("id", event.id);
  return { type, event, conversation };
}

const ascii = (value) =>
  JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

function send(url, body, name, value) {
  const MessageAttributes = { [name]: { DataType: "String", StringValue: value } };
  return sqs.send(new SendMessageCommand({ QueueUrl: url, MessageBody: body, MessageAttributes }));
}

async function receive(event) {
  const given = Object.entries(event.headers ?? {}).filter(([name]) => name.toLowerCase() === "x-api-key");
  const number = given.length === 1 && given[0][1] ? await slot(given[0][1]) : 0;
  if (!number) return [401, "unauthorized", "Unauthorized", 0];
  const body = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8");
  const receivedAt = new Date().toISOString();
  try {
    const { type, event: parsed, conversation } = read(body);
    if (type === "PING") return [200, "pong", null, number];
    if (conversation == null) return [200, "ignored", "Ignored", number];
    const message = ascii({ v: 1, receivedAt, event: parsed });
    if (message.length > LIMIT) throw new Unusable("too-large", "more than a queue message holds");
    await send(env.EVENTS_QUEUE_URL, message, "type", type.slice(0, 128).replace(/[^ -~]/g, "?"));
    return [200, "queued", "Queued", number];
  } catch (err) {
    if (!(err instanceof Unusable)) throw err;
    const { reason, message: detail } = err;
    const message = { v: 1, receivedAt, reason, detail, origin: "ingest-fn" };
    try {
      message.raw = utf8.decode(body.subarray(0, LIMIT / 8));
    } catch {
      Object.assign(message, { raw: body.subarray(0, LIMIT / 2).toString("base64"), encoding: "base64" });
    }
    await send(env.QUARANTINE_QUEUE_URL, ascii(message), "reason", reason);
    return [200, "quarantined", "Quarantined", number];
  }
}

const directive = (dimensions, names) => ({
  Namespace: "GladlyRelay",
  Dimensions: [dimensions],
  Metrics: names.map((Name) => ({ Name, Unit: "Count" })),
});

function emit(metric, number) {
  const names = metric ? [metric] : [];
  const CloudWatchMetrics = [directive(["FunctionName"], names)];
  const line = { FunctionName: env.AWS_LAMBDA_FUNCTION_NAME };
  for (const name of names) line[name] = 1;
  if (number) {
    CloudWatchMetrics.push(directive(["FunctionName", "Slot"], ["KeySlot"]));
    Object.assign(line, { Slot: String(number), KeySlot: 1 });
  }
  line._aws = { Timestamp: Date.now(), CloudWatchMetrics };
  console.log(JSON.stringify(line));
}

async function handle(event) {
  let outcome;
  try {
    outcome = await receive(event);
  } catch {
    outcome = [503, "unavailable", "Unavailable", 0];
  }
  const [statusCode, status, metric, number] = outcome;
  emit(metric, number);
  return { statusCode, headers: { "content-type": "application/json" }, body: JSON.stringify({ status }) };
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const [host, port] = env.AWS_LAMBDA_RUNTIME_API.split(":");

function exchange(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      { agent, host, port, method, path: `/2018-06-01/runtime/invocation/${path}` },
      (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("end", () => resolve([response.headers, Buffer.concat(parts)]));
        response.on("error", reject);
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

await readKeys();
for (;;) {
  const [headers, event] = await exchange("GET", "next");
  const answer = await handle(JSON.parse(event));
  await exchange("POST", `${headers["lambda-runtime-aws-request-id"]}/response`, JSON.stringify(answer));
}

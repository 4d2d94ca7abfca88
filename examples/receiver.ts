// A receiver of gladly-relay's deliveries, as docs/DELIVERY.md defines it: Node.js 24 and its SQLite, nothing else.
//
// RECEIVER_TOKEN=… PORT=8080 DATABASE=receiver.db node examples/receiver.ts listens on loopback, behind what does TLS.
import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";

// What is used here of the schema; json-schema-to-typescript writes all of it.
type Conversation = { id: string; customerId?: string; fetchedAt: string };
type Tombstone = { kind: string; at: string; customerId?: string; from?: string; into?: string };
type Delivery = { schema: string; events: { id: string }[]; conversations: Conversation[]; tombstones?: Tombstone[] };

const MAX_BYTES = 64 * 1024 * 1024; // of a body, and of what it is decompressed to
const digest = (text: string) => createHash("sha256").update(text).digest();
if (!process.env.RECEIVER_TOKEN) throw new Error("RECEIVER_TOKEN is missing");
const AUTHORIZATION = digest(`Bearer ${process.env.RECEIVER_TOKEN}`);

const db = new DatabaseSync(process.env.DATABASE ?? "receiver.db", { timeout: 5000 });
// What is erased or replaced is overwritten with zeros in the same transaction, so no VACUUM has to follow. SQLite's own
// journal is removed with it; a write-ahead log would keep a copy until its checkpoint. Backups are yours to expire.
db.exec(`PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, json TEXT);
CREATE TABLE IF NOT EXISTS conversation (id TEXT PRIMARY KEY, customer TEXT, fetched TEXT, json TEXT);
CREATE INDEX IF NOT EXISTS customers ON conversation (customer);
CREATE TABLE IF NOT EXISTS deleted (customer TEXT PRIMARY KEY, at TEXT);
CREATE TABLE IF NOT EXISTS merged (customer TEXT, survivor TEXT, PRIMARY KEY (customer, survivor));
CREATE INDEX IF NOT EXISTS merged_survivor ON merged (survivor)`);
const EVENT = db.prepare("INSERT OR IGNORE INTO event VALUES (?, ?)");
const CONVERSATION = db.prepare(`INSERT INTO conversation VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
SET customer = excluded.customer, fetched = excluded.fetched, json = excluded.json WHERE excluded.fetched >= fetched`);
const DELETED = db.prepare("INSERT INTO deleted VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)");
const MERGED = db.prepare("INSERT OR IGNORE INTO merged VALUES (?, ?)");
// Whichever arrives last, a snapshot, a deletion or a merge, this erases what is void now: of the customers that a delivery
// names (?), and of those merged into them, what was fetched before the customer, or one that they were merged into, was
// deleted. UNION drops repeats, so a cycle of merges ends. Id and time stay, so that no older snapshot takes the place.
const ERASE = db.prepare(`WITH RECURSIVE named (customer) AS (
  SELECT value FROM json_each(?) UNION SELECT merged.customer FROM merged JOIN named ON survivor = named.customer)
UPDATE conversation SET json = NULL WHERE customer IN named AND EXISTS (WITH RECURSIVE owner (customer) AS (
  SELECT conversation.customer UNION SELECT survivor FROM merged JOIN owner USING (customer))
SELECT 1 FROM owner JOIN deleted USING (customer) WHERE fetched < at)`);

/** RFC 3339 in UTC with nine fraction digits, which sorts as text. A Date alone would drop six of them. */
function utc(time: string): string {
  const parts = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d\d):?(\d\d))$/.exec(time);
  if (!parts) throw new TypeError("not a time");
  const [, date, clock, fraction = "", hours = "+00", minutes = "00"] = parts;
  return `${new Date(`${date}T${clock}${hours}:${minutes}`).toISOString().slice(0, 19)}.${fraction.padEnd(9, "0")}`;
}

/** Every statement may be repeated, and none depends on what came before: neither repeats nor the order matter. */
function store({ events, conversations, tombstones = [] }: Delivery): void {
  for (const { kind, customerId, from, into, at } of tombstones) {
    if (kind === "customer-deleted") DELETED.run(customerId!, utc(at));
    if (kind === "customer-merged") MERGED.run(from!, into!);
    if (kind === "conversation-merged") CONVERSATION.run(from!, null, "~", null); // no time is later, so this stays
  }
  for (const event of events) EVENT.run(event.id, JSON.stringify(event));
  for (const it of conversations) {
    CONVERSATION.run(it.id, it.customerId ?? null, utc(it.fetchedAt), JSON.stringify(it));
  }
  const customers = [...conversations.map((it) => it.customerId), ...tombstones.map((it) => it.customerId ?? it.from)];
  ERASE.run(JSON.stringify(customers.filter((id) => id !== undefined)));
}

async function receive(request: IncomingMessage): Promise<number> {
  if (!(Number(request.headers["content-length"]) <= MAX_BYTES)) return 413;
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  let body: Buffer = Buffer.concat(chunks);
  if (request.headers["content-encoding"] === "gzip") {
    body = await promisify(gunzip)(body, { maxOutputLength: MAX_BYTES });
  }
  const delivery: Delivery = JSON.parse(body.toString());
  if (delivery.schema !== "gladly-relay/delivery/1") return 422;
  db.exec("BEGIN IMMEDIATE"); // nothing waits until its end, so one connection serves one transaction after another
  store(delivery);
  db.exec("COMMIT");
  return 200;
}

/** What "gladly-relay conformance" reads, and nothing that is real. */
function state(url: URL): string | undefined {
  const prefix = url.searchParams.get("prefix") ?? "";
  if (url.pathname !== "/state" || !prefix.startsWith("conformance-")) return undefined;
  const where = "WHERE json IS NOT NULL AND id BETWEEN ?1 AND ?1 || '~'";
  const read = (table: string) => db.prepare(`SELECT json FROM ${table} ${where}`).all(prefix).map((row) => row.json);
  return `{"conversations":[${read("conversation")}],"events":[${read("event")}]}`;
}

async function answer(request: IncomingMessage): Promise<[status: number, body?: string]> {
  try {
    if (!timingSafeEqual(digest(request.headers.authorization ?? ""), AUTHORIZATION)) return [401];
    if (request.method === "POST") return [await receive(request)];
    const body = request.method === "GET" ? state(new URL(request.url!, "http://localhost")) : "";
    return [body === undefined ? 404 : 200, body];
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK");
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ERR_SQLITE_ERROR") return [503]; // busy or full, for example: the relay tries again
    return [code === "ERR_BUFFER_TOO_LARGE" ? 413 : 422]; // it does not fit the schema
  }
}

const server = createServer(async (request, response) => {
  const [status, body] = await answer(request);
  response.writeHead(status).end(body);
});
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});

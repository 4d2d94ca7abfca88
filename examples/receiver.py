"""A receiver of gladly-relay's deliveries, as docs/DELIVERY.md defines it: Python 3.10 and SQLite, nothing else.

RECEIVER_TOKEN=… PORT=8080 DATABASE=receiver.db python3 examples/receiver.py listens on loopback, behind what does TLS.
"""
import hmac, json, os, re, sqlite3, zlib
from contextlib import closing
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

AUTHORIZATION = b"Bearer " + os.environ["RECEIVER_TOKEN"].encode()
MAX_BYTES = 64 << 20  # of a body, and of what it is decompressed to
TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d\d):?(\d\d))", re.ASCII)
TABLES = """
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, json TEXT);
CREATE TABLE IF NOT EXISTS conversation (id TEXT PRIMARY KEY, customer TEXT, fetched TEXT, json TEXT);
CREATE INDEX IF NOT EXISTS customers ON conversation (customer);
CREATE TABLE IF NOT EXISTS deleted (customer TEXT PRIMARY KEY, at TEXT);
CREATE TABLE IF NOT EXISTS merged (customer TEXT, survivor TEXT, PRIMARY KEY (customer, survivor));
CREATE INDEX IF NOT EXISTS merged_survivor ON merged (survivor)"""
CONVERSATION = """INSERT INTO conversation VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
SET customer = excluded.customer, fetched = excluded.fetched, json = excluded.json WHERE excluded.fetched >= fetched"""
DELETED = "INSERT INTO deleted VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)"
# Whichever arrives last, a snapshot, a deletion or a merge, this erases what is void now: of the customers that a delivery
# names (?), and of those merged into them, what was fetched before the customer, or one that they were merged into, was
# deleted. UNION drops repeats, so a cycle of merges ends. Id and time stay, so that no older snapshot takes the place.
ERASE = """WITH RECURSIVE named (customer) AS (
  SELECT value FROM json_each(?) UNION SELECT merged.customer FROM merged JOIN named ON survivor = named.customer)
UPDATE conversation SET json = NULL WHERE customer IN named AND EXISTS (WITH RECURSIVE owner (customer) AS (
  SELECT conversation.customer UNION SELECT survivor FROM merged JOIN owner USING (customer))
SELECT 1 FROM owner JOIN deleted USING (customer) WHERE fetched < at)"""

def connect():
    db = sqlite3.connect(os.environ.get("DATABASE", "receiver.db"), timeout=5, isolation_level=None)
    # What is erased or replaced is overwritten with zeros in the same transaction, so no VACUUM has to follow. SQLite's own
    # journal is removed with it; a write-ahead log would keep a copy until its checkpoint. Backups are yours to expire.
    db.executescript("PRAGMA secure_delete = ON;" + TABLES)
    return closing(db)  # which rolls back what was not committed

def utc(time):
    """RFC 3339 in UTC with nine fraction digits, which sorts as text. A datetime alone would drop three of them."""
    date, clock, fraction, hours, minutes = TIME.fullmatch(time).groups()
    instant = datetime.fromisoformat(f"{date}T{clock}{hours or '+00'}:{minutes or '00'}").astimezone(timezone.utc)
    return f"{instant.isoformat()[:19]}.{(fraction or '').ljust(9, '0')}"

def store(db, delivery):
    """Every statement may be repeated, and none depends on what came before: neither repeats nor the order matter."""
    tombstones, conversations = delivery.get("tombstones", []), delivery["conversations"]
    for tombstone in tombstones:
        match tombstone["kind"]:
            case "customer-deleted":
                db.execute(DELETED, (tombstone["customerId"], utc(tombstone["at"])))
            case "customer-merged":
                db.execute("INSERT OR IGNORE INTO merged VALUES (?, ?)", (tombstone["from"], tombstone["into"]))
            case "conversation-merged":  # no time is later than "~", so no snapshot replaces this
                db.execute(CONVERSATION, (tombstone["from"], None, "~", None))
    for event in delivery["events"]:
        db.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", (event["id"], json.dumps(event)))
    for conversation in conversations:
        id, customer, fetched = conversation["id"], conversation.get("customerId"), utc(conversation["fetchedAt"])
        db.execute(CONVERSATION, (id, customer, fetched, json.dumps(conversation)))
    customers = [about.get("customerId", about.get("from")) for about in tombstones + conversations]
    db.execute(ERASE, (json.dumps(customers),))

class Receiver(BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", 60

    def do_POST(self):
        length = int(self.headers.get("content-length", MAX_BYTES + 1))
        if not self.is_authorized() or length > MAX_BYTES:
            self.rfile.read(min(length, 1 << 20))  # a client that is still sending might miss the answer
            self.close_connection = True
            return self.answer(413 if self.is_authorized() else 401)
        try:
            body = self.rfile.read(length)
            if self.headers.get("content-encoding") == "gzip":
                body = zlib.decompressobj(wbits=31).decompress(body, MAX_BYTES + 1)
            if len(body) > MAX_BYTES:
                return self.answer(413)
            delivery = json.loads(body)
            if delivery["schema"] != "gladly-relay/delivery/1":
                return self.answer(422)
            with connect() as db:
                db.execute("BEGIN IMMEDIATE")
                store(db, delivery)
                db.execute("COMMIT")
            self.answer(200)
        except sqlite3.Error:  # busy or full, for example: the relay tries again
            self.answer(503)
        except (AttributeError, LookupError, TypeError, ValueError, zlib.error):  # it does not fit the schema
            self.answer(422)

    def do_GET(self):  # what "gladly-relay conformance" reads, and nothing that is real
        url = urlsplit(self.path)
        prefix = parse_qs(url.query).get("prefix", [""])[0]
        if not self.is_authorized() or url.path != "/state" or not prefix.startswith("conformance-"):
            return self.answer(404 if self.is_authorized() else 401)
        select = "SELECT json FROM {} WHERE json IS NOT NULL AND id BETWEEN ?1 AND ?1 || '~'"
        with connect() as db:
            rows = {f"{name}s": db.execute(select.format(name), (prefix,)) for name in ("conversation", "event")}
            self.answer(200, json.dumps({name: [json.loads(text) for text, in rows[name]] for name in rows}).encode())

    def do_HEAD(self):
        self.answer(200 if self.is_authorized() else 401)

    def is_authorized(self):
        return hmac.compare_digest(self.headers.get("authorization", "").encode(), AUTHORIZATION)

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        self.wfile.write(body)

if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

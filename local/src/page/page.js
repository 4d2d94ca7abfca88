// Asks for the state once a second and shows it. Everything that comes from outside is put in as text, never as HTML.
"use strict";

const ASK_AGAIN_MS = 1000;
const ANSWER_TIMEOUT_MS = 10000;

const NAMES = {
  sent: "Sent", queued: "Queued", held: "Held", delivered: "Delivered", covered: "Covered", gone: "Gone",
  tombstone: "Tombstone", quarantined: "Quarantined", ignored: "Ignored", pong: "Pong", unauthorized: "Unauthorized",
  unavailable: "Unavailable", removed: "Removed", running: "Running", paused: "Paused", breaker: "Circuit breaker open",
};
/** What a conversation's id is made of. */
const ID = /^[A-Za-z0-9_-]{1,64}$/;
const CUSTOMER = "customer", AGENT = "agent";

const byId = (id) => document.getElementById(id);
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
const short = (id) => (id.length > 10 ? `${id.slice(0, 8)}…` : id);
const badge = (state) => make("span", `badge ${state}`, NAMES[state] ?? state);

/** An element with this text or these children. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A time of today as a clock shows it; of another day with its day. */
function clock(time) {
  const at = new Date(time);
  if (!time || Number.isNaN(at.getTime())) return "";
  const hours = at.toLocaleTimeString([], { hour12: false });
  const day = at.toLocaleDateString([], { day: "numeric", month: "short" });
  return at.toDateString() === new Date().toDateString() ? hours : `${day}, ${hours}`;
}

function age(from, to) {
  const seconds = Math.max(0, Math.round((new Date(to) - new Date(from)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

function bytes(number) {
  return number < 1000 ? `${number} B` : `${(number / 1000).toFixed(1)} kB`;
}

/** Sets a text only if it differs, so that a screen reader announces only changes. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children those of `items`: each keeps its element, and with it the focus, while it stays the same. */
function setChildren(parent, items, key, build) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const item of items) {
    const id = key(item);
    const content = JSON.stringify(item);
    let child = known.get(id);
    if (child?.dataset.content !== content) {
      const built = build(item);
      Object.assign(built.dataset, { key: id, content });
      if (child?.contains(document.activeElement)) {
        parent.replaceChild(built, child);
        (built.querySelector("a") ?? built).focus();
      } else {
        child?.remove();
      }
      child = built;
    }
    known.delete(id);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== child) parent.insertBefore(child, place);
    before = child;
  }
  for (const gone of known.values()) gone.remove();
}

/** The id of the conversation that the address names. */
const isOpen = () => new URLSearchParams(location.hash.slice(1)).get("conversation") ?? "";

/** A link that opens a conversation. */
function linkTo(conversation, className, ...children) {
  const link = make("a", className, ...children);
  link.href = `#conversation=${encodeURIComponent(conversation)}`;
  return link;
}

function showExtraction({ extraction, webhookEnabled }) {
  const { state, by, reason, until, mapping } = extraction;
  const parts = [by && `by ${by}`, reason, until && `until ${clock(until)}`, `mapping ${mapping.toLowerCase()}`];
  if (!webhookEnabled) parts.push("Gladly's webhook is disabled");
  const text = ` ${parts.filter(Boolean).join(" · ")}`;
  const element = byId("extraction");
  if (element.textContent !== NAMES[state] + text) element.replaceChildren(badge(state), text);
}

function showFigures(state) {
  const { states, backlog, quarantined, deliveryCount, conversations, violations, now } = state;
  const total = Object.values(states).reduce((sum, number) => sum + number, 0);
  const arrived = ["delivered", "covered", "gone", "tombstone"].reduce((sum, name) => sum + (states[name] ?? 0), 0);
  const oldest = backlog.oldestReceivedAt && `oldest ${age(backlog.oldestReceivedAt, now)}`;
  const settling = backlog.settling > 0 && `${backlog.settling} settling`;
  const shown = conversations.filter(({ void: why }) => why === undefined).length;
  const gone = conversations.length - shown;
  const figures = [
    ["Webhooks", total, ""],
    ["Backlog", backlog.total, [oldest, settling].filter(Boolean).join(", ")],
    ["Arrived", arrived, `in ${count(deliveryCount, "delivery", "deliveries")}`],
    ["Conversations shown", shown, gone > 0 ? `${gone} void` : ""],
    ["Quarantined", quarantined, violations > 0 ? count(violations, "schema violation", "schema violations") : ""],
  ];
  setChildren(byId("figures"), figures, ([name]) => name, ([name, number, note]) =>
    make("div", "", make("dt", "", name), make("dd", "", String(number)), make("dd", "", note)));
  const words = Object.entries(states).map(([name, number]) => `${number} ${(NAMES[name] ?? name).toLowerCase()}`);
  setText(byId("summary"), `${count(total, "webhook", "webhooks")}: ${words.join(", ")}`);
}

/** What the relay answered to each of Gladly's attempts. */
function answers({ via, attempts }) {
  if (via === "hand") return "sent by hand";
  if (via === "backfill") return "from Gladly's list";
  const lines = attempts.map(({ number, status, answer }) => {
    const text = `${status ?? "none"} ${answer}`.trim();
    return attempts.length > 1 ? `${number}: ${text}` : text;
  });
  return lines.join("\n");
}

function webhookRow(webhook) {
  const { at, type, conversation, event, state, detail, delivery } = webhook;
  // May be wrapped behind a slash or an underscore.
  const parts = (type || "no event").split(/(?<=[/_])/);
  const kind = make("td", "", ...parts.flatMap((part) => [part, make("wbr")]));
  kind.title = event;
  if (ID.test(conversation)) kind.append(make("div", "id", linkTo(conversation, "", conversation)));
  else if (conversation) kind.append(make("div", "id", conversation));
  const became = make("td", "", badge(state), " ", make("span", "detail", detail));
  if (delivery) became.append(make("span", "detail", ", in "), make("span", "id", short(delivery)));
  return make("tr", "", make("td", "time", clock(at)), kind, make("td", "answer", answers(webhook)), became);
}

function deliveryRow({ id, sentAt, events, conversations, tombstones, bytes: size, wireBytes }) {
  const packed = wireBytes < size ? `${bytes(size)}, sent as ${bytes(wireBytes)}` : bytes(size);
  const number = (text) => make("td", "number", String(text));
  const name = make("td", "id", short(id));
  name.title = id;
  return make("tr", "", make("td", "time", clock(sentAt)), name, number(events), number(conversations),
    number(tombstones), number(packed));
}

function tombstoneRow({ kind, at, customerId, from, into }) {
  const of = make("td", "id");
  if (kind === "conversation-merged") of.append(linkTo(from, "", from));
  else of.append(customerId ?? from ?? "");
  return make("tr", "", make("td", "time", clock(at)), make("td", "", make("span", "badge", kind)), of,
    make("td", "id", into ?? ""));
}

function conversationRow({ id, void: why, customer, status, fetchedAt, current }) {
  const name = make("span", "name", why === undefined ? customer ?? "Unknown customer" : short(id));
  const note = why === undefined ? `${(status ?? "").toLowerCase()} · fetched ${clock(fetchedAt)}` : `void: ${why}`;
  const link = linkTo(id, why === undefined ? "" : "gone-by", name, make("span", "note", note));
  if (current) link.setAttribute("aria-current", "true");
  return make("li", "", link);
}

function itemRow({ item, customer, agent }) {
  const { author = {}, type, timestamp, subject, text } = item;
  const names = { [CUSTOMER]: customer ?? "Customer", [AGENT]: author.id === agent?.id && agent?.name ? agent.name : "Agent" };
  const who = names[author.kind] ?? author.kind ?? "";
  const kind = (type ?? "").toLowerCase().replaceAll("_", " ");
  const row = make("li", [CUSTOMER, AGENT].includes(author.kind) ? author.kind : "",
    make("div", "by", [who, kind, clock(timestamp)].filter(Boolean).join(" · ")));
  if (subject) row.append(make("div", "subject", make("strong", "", subject)));
  if (text) row.append(make("div", "text", text));
  return row;
}

function eventRow({ event, delivery }) {
  const after = `${(event.heldMs / 1000).toFixed(1)} s later`;
  return make("li", "", make("span", "time", clock(event.receivedAt)), make("span", "", event.type),
    make("span", "detail", `${event.snapshot}, ${after}, in `, make("span", "id", short(delivery))));
}

function showConversation({ conversation, deliveryCount }) {
  const id = isOpen();
  const snapshot = conversation?.snapshot;
  const heading = byId("conversation-heading");
  const facts = byId("conversation-facts");
  if (!id) {
    setText(heading, "No conversation is open");
    setText(facts, "Choose one from the list.");
  } else if (snapshot) {
    const { status, inbox, agent, topics = [], customer, fetchedAt, truncated } = snapshot;
    setText(heading, customer?.name ?? "Unknown customer");
    const parts = [status, inbox?.name, agent?.name, topics.map(({ name, id: topic }) => name ?? topic).join(", "),
      `fetched ${clock(fetchedAt)}`, truncated && "truncated", id];
    setText(facts, parts.filter(Boolean).join(" · "));
  } else {
    setText(heading, `Conversation ${id}`);
    setText(facts, conversation?.void ? "A reader no longer shows it." : "No snapshot of it has been delivered.");
  }
  const isVoid = byId("conversation-void");
  isVoid.hidden = !conversation?.void;
  setText(isVoid, conversation?.void ? `Void: ${conversation.void}. Its text is forgotten; only ids of events are left.` : "");
  const { items = [], customer, agent } = snapshot ?? {};
  setChildren(byId("items"), items.map((item) => ({ item, customer: customer?.name, agent })), ({ item }) => item.id, itemRow);
  const events = conversation?.events ?? [];
  byId("conversation-events").hidden = events.length === 0;
  setChildren(byId("event-rows"), events, ({ event }) => event.id, eventRow);
}

let hasWebhooks = false;

function show(state) {
  showExtraction(state);
  showFigures(state);
  const open = isOpen();
  const lists = [
    ["webhook", "no-webhooks", state.webhooks, ({ event }) => event, webhookRow],
    ["delivery", "no-deliveries", state.deliveries, ({ id, sentAt }) => `${id} ${sentAt}`, deliveryRow],
    ["tombstone", "no-tombstones", state.tombstones, ({ eventId, kind }) => `${eventId} ${kind}`, tombstoneRow],
    ["conversation", "no-conversations", state.conversations.map((row) => ({ ...row, current: row.id === open })),
      ({ id }) => id, conversationRow],
  ];
  for (const [name, empty, items, key, build] of lists) {
    setChildren(byId(`${name}-rows`), items, key, build);
    byId(empty).hidden = items.length > 0;
  }
  showConversation(state);
  const commands = byId("commands");
  commands.hidden = state.commands.length === 0;
  // Out of the way once there is something to see; opened again, they stay.
  if (!hasWebhooks && state.webhooks.length > 0) [hasWebhooks, commands.open] = [true, false];
  setText(byId("command-lines"), state.commands.join("\n"));
  setText(byId("updated"), `Updated ${clock(state.now)}`);
}

let timer;
let latest = 0;

/** Asks now, and again a second after the answer. */
async function ask() {
  clearTimeout(timer);
  const number = ++latest;
  const open = isOpen();
  const alert = byId("alert");
  try {
    const query = open ? `?conversation=${encodeURIComponent(open)}` : "";
    const answer = await fetch(`state${query}`, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const state = await answer.json();
    if (number !== latest) return;
    show(state);
    alert.hidden = true;
  } catch {
    if (number !== latest) return;
    setText(alert, "The relay does not answer: what is shown is old. “make up” starts it again.");
    alert.hidden = false;
  }
  timer = setTimeout(ask, ASK_AGAIN_MS);
}

addEventListener("hashchange", ask);
ask();

//! Gladly and the destination, as far as the relay sees them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future,
    time::Duration,
};

use aws_smithy_runtime_api::client::{
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    checker::{NONE_FOUND, invariant, refusal},
    plan::{ConversationKind, FaultKind, Upstream},
    world::{EPOCH, World},
};

/// Where Gladly is.
pub(crate) const GLADLY: &str = "https://acme.gladly.com/api/v1";
/// Where deliveries go.
pub(crate) const DESTINATION: &str = "https://ingest.example.com/deliveries";
/// Requests that Gladly takes in a second, all of the organisation's together.
const QUOTA: usize = 10;
/// A list of names that failed is asked for again after a minute, by an environment that may have
/// waited for another call.
const LISTS_RETRIED: SignedDuration = SignedDuration::from_mins(3);
/// How far an event may be ahead of the clock by which a snapshot covers it.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// What somebody outside does with a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Response { status: u16, body: String, headers: Vec<(&'static str, String)> },
    Reset,
    Hang,
}

/// When Gladly was asked.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    second: VecDeque<Timestamp>,
}

/// What the destination has.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// When the fetch of every snapshot it took began, by conversation.
    snapshots: BTreeMap<String, Vec<Timestamp>>,
    /// Conversations that were refused with nothing beside them.
    refused: BTreeSet<String>,
    /// When it last took anything.
    pub(crate) accepted_at: Timestamp,
    /// Conversations that each environment called gone though they are not, since Gladly last
    /// showed it one or the breaker closed.
    pub(crate) called_gone: BTreeMap<u64, BTreeSet<String>>,
}

/// So many conversations that are not found, and none that is, are Gladly's own fault.
const MISSING: usize = 10;
/// What an invocation was told at its beginning it may believe at its end.
pub(crate) const INVOCATION: Duration = Duration::from_mins(5);

impl Delivered {
    pub(crate) fn refused_alone(&self, conversation: &str) -> bool {
        self.refused.contains(conversation)
    }
}

impl Reply {
    pub(crate) fn json(body: &Value) -> Self {
        Self::text(body.to_string())
    }

    pub(crate) fn text(body: String) -> Self {
        Self::Response { status: 200, body, headers: Vec::new() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Response { status, body: "{}".into(), headers: Vec::new() }
    }

    /// The reply as the client gets it.
    pub(crate) async fn send(self) -> Result<HttpResponse, ConnectorError> {
        match self {
            Self::Response { status, body, headers } => {
                let status =
                    status.try_into().map_err(|err| ConnectorError::other(Box::new(err), None))?;
                let mut response = HttpResponse::new(status, SdkBody::from(body));
                for (name, value) in headers {
                    response.headers_mut().insert(name, value);
                }
                Ok(response)
            }
            Self::Reset => Err(ConnectorError::io("reset".into())),
            Self::Hang => future::pending().await,
        }
    }
}

impl World {
    /// How one side fails now, if it does.
    fn failure(&self, upstream: Upstream) -> Option<Reply> {
        let fault_kind = match self.plan.fault_kind(upstream, self.elapsed()) {
            Some(FaultKind::Flaky) => self.goes_wrong(0.5).then(|| {
                if upstream == Upstream::Gladly { FaultKind::Status(503) } else { FaultKind::Reset }
            })?,
            Some(FaultKind::Missing) => return None,
            Some(fault_kind) => fault_kind,
            None if self.goes_wrong(self.plan.net_faults) => {
                let faults = [
                    FaultKind::Reset,
                    FaultKind::Hang,
                    FaultKind::Status(503),
                    FaultKind::Status(429),
                ];
                faults[self.state().rng.usize(0..faults.len())]
            }
            None => return None,
        };
        Some(match fault_kind {
            FaultKind::Status(429) => Reply::Response {
                status: 429,
                body: "{}".into(),
                headers: vec![("retry-after", self.state().rng.u32(1..8).to_string())],
            },
            FaultKind::Status(status) => Reply::status(status),
            FaultKind::Hang => Reply::Hang,
            FaultKind::Reset | FaultKind::Flaky | FaultKind::Token | FaultKind::Missing => {
                Reply::Reset
            }
        })
    }

    /// The token that one side takes now.
    pub(crate) fn token(&self, upstream: Upstream) -> String {
        let name = if upstream == Upstream::Gladly { "gladly" } else { "destination" };
        format!("{name}-token-{}", self.plan.tokens_replaced(upstream, self.elapsed()))
    }

    /// Gladly's answer.
    pub(crate) async fn gladly(&self, request: &HttpRequest, environment: u64) -> Reply {
        if self.goes_wrong(0.02) {
            self.count("slow answers");
            let long = self.time_between(1_000, 12_000);
            sleep(long).await;
        }
        self.count("calls to Gladly");
        if let Some(reply) = self.failure(Upstream::Gladly) {
            self.count("failed calls to Gladly");
            return reply;
        }
        let token = request.headers().get("authorization").unwrap_or_default().to_owned();
        if token != basic(&self.token(Upstream::Gladly)) {
            self.count("refused credentials");
            return Reply::status(401);
        }
        let now = self.now();
        let mut left = usize::MAX;
        if self.plan.rate == "4" {
            let mut state = self.state();
            let others = if self.is_calm() { 0 } else { self.plan.others };
            let second = &mut state.quota.second;
            let is_over = |at: &Timestamp| now.duration_since(*at) >= SignedDuration::from_secs(1);
            while second.front().is_some_and(is_over) {
                second.pop_front();
            }
            left = QUOTA.saturating_sub(others + second.len());
            if left == 0 {
                state.tally.count("429s of Gladly's own");
                return Reply::status(429);
            }
            second.push_back(now);
            if left <= 3 {
                state.tally.count("quotas nearly used up");
            }
        }
        let path = request.uri().strip_prefix(GLADLY).unwrap_or_default();
        let mut reply = match self.gap(request.method(), path).await {
            Some(reply) => reply,
            None => self.rest(path),
        };
        if path.starts_with("/conversations/")
            && matches!(reply, Reply::Response { status: 200, .. })
        {
            self.state().delivered.called_gone.remove(&environment);
        }
        if let Reply::Response { headers, .. } = &mut reply {
            headers.push(("ratelimit-remaining-second", left.saturating_sub(1).to_string()));
        }
        reply
    }

    fn rest(&self, path: &str) -> Reply {
        let parts: Vec<_> = path.split('/').skip(1).collect();
        match parts[..] {
            ["organization"] => Reply::json(&json!({"id": "o-1", "name": "Acme"})),
            ["agents"] => Reply::json(&json!([{"id": "a-1", "name": "Ada"}])),
            ["inboxes"] => Reply::json(&json!([{"id": "x-1", "name": "Help"}])),
            ["topics"] => Reply::json(&json!([{"id": "t-1", "name": "Refunds"}])),
            ["conversations", id] | ["conversations", id, "items"] => {
                let Some(conversation) = self.plan.conversation(id) else {
                    return Reply::status(404);
                };
                if self.plan.is_missing(self.elapsed(), self.elapsed()) {
                    self.count("conversations not found for a while");
                    return Reply::status(404);
                }
                match conversation.nature {
                    ConversationKind::Gone => return Reply::status(404),
                    ConversationKind::Poison if !self.is_calm() => return Reply::status(500),
                    _ => {}
                }
                if parts.len() == 3 {
                    let shown = conversation.items.iter().filter(|(at, _)| *at <= self.elapsed());
                    let shown = shown.map(|(at, item)| json!({
                        "id": item, "conversationId": id, "timestamp": instant(*at).to_string(),
                        "initiator": {"id": conversation.customer, "type": "CUSTOMER"},
                        "content": {"type": "SMS", "content": format!("text of {item}"), "from": "+1", "to": "+2"},
                    }));
                    return Reply::json(&shown.collect());
                }
                Reply::json(&json!({
                    "id": id, "customerId": conversation.customer, "status": "CLOSED", "inboxId": "x-1",
                    "agentId": "a-1", "topicIds": ["t-1"], "createdAt": EPOCH.to_string(),
                }))
            }
            ["customer-profiles", id] => {
                let known = self.plan.is_merged(id.trim_end_matches("-merged"));
                match known {
                    Some(true) if !id.ends_with("-merged") => {
                        let moved = json!({"code": "moved", "meta": {"old": id, "new": format!("{id}-merged")}});
                        Reply::Response {
                            status: 301,
                            body: json!({"errors": [moved]}).to_string(),
                            headers: Vec::new(),
                        }
                    }
                    Some(_) => Reply::json(&json!({
                        "id": id, "name": format!("name of {id}"),
                        "emails": [{"original": "a@example.org"}],
                    })),
                    None => Reply::status(404),
                }
            }
            _ => {
                self.violate(invariant::SOUND, || format!("Gladly has no {path}"));
                Reply::status(404)
            }
        }
    }

    /// The destination's answer.
    pub(crate) fn destination(
        &self,
        request: &HttpRequest,
        environment: u64,
        began: Timestamp,
    ) -> Reply {
        self.count("deliveries");
        let failure = self.failure(Upstream::Destination);
        // What was taken may go unanswered.
        let unheard = matches!(failure, Some(Reply::Reset | Reply::Hang)) && self.goes_wrong(0.3);
        let mut failure = failure;
        if let Some(failure) = failure.take_if(|_| !unheard) {
            self.count("failed deliveries");
            if matches!(failure, Reply::Response { status: 400 | 422, .. }) {
                self.note_refusal(&read(request));
            }
            return failure;
        }
        let token = request.headers().get("authorization").unwrap_or_default();
        if token != format!("Bearer {}", self.token(Upstream::Destination)) {
            self.count("refused credentials");
            return Reply::status(403);
        }
        let delivery = read(request);
        if request.headers().get("idempotency-key") != delivery["id"].as_str() {
            self.violate(invariant::HONEST, || {
                "the idempotency key is not the delivery's id".into()
            });
        }
        let guilty = conversations(&delivery)
            .into_iter()
            .find_map(|id| refusal(self.plan.conversation(id)?.nature));
        if let Some(status) = guilty {
            self.count("refused deliveries");
            self.note_refusal(&delivery);
            return Reply::status(status);
        }
        if let Err(why) = self.take(&delivery, environment, began) {
            self.violate(invariant::HONEST, || format!("{why}: {delivery}"));
        }
        if let Some(failure) = failure {
            self.count("answers lost");
            return failure;
        }
        Reply::status(200)
    }

    fn note_refusal(&self, delivery: &Value) {
        let ids = conversations(delivery);
        if let [id] = ids.iter().collect::<Vec<_>>()[..] {
            self.state().delivered.refused.insert((*id).to_owned());
        }
    }

    /// Books a delivery, or says what is wrong with it.
    fn take(&self, delivery: &Value, environment: u64, began: Timestamp) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if delivery["schema"] != "gladly-relay/delivery/1"
            || delivery["organization"] != "acme.gladly.com"
        {
            return Err("another schema or organisation".into());
        }
        let now = self.now();
        self.state().delivered.accepted_at = now;
        let list = |name: &str| delivery[name].as_array().cloned().unwrap_or_default();
        let mut fetched = BTreeMap::new();
        for snapshot in list("conversations") {
            let (id, at) =
                (text(&snapshot["id"]), text(&snapshot["fetchedAt"]).parse::<Timestamp>());
            let at = at.map_err(|_| "no fetchedAt")?;
            self.check_snapshot(&snapshot, &id, at)?;
            self.state().delivered.snapshots.entry(id.clone()).or_default().push(at);
            fetched.insert(id, at);
        }
        for event in list("events") {
            let (id, conversation) = (text(&event["id"]), text(&event["conversationId"]));
            let recorded =
                text(&event["timestamp"]).parse::<Timestamp>().map_err(|_| "no timestamp")?;
            let mut state = self.state();
            let known = state.delivered.snapshots.get(&conversation).into_iter().flatten();
            let covered = known.clone().any(|at| at.duration_since(recorded) >= SKEW);
            if event["type"] == "RELAY/IMPORTED" && self.plan.conversation(&conversation).is_some()
            {
                drop(state);
                self.see_imported(&conversation);
                continue;
            }
            let Some(booked) = state.checker.events.get_mut(&id) else {
                return Err(format!("{id} is no event of ours"));
            };
            let planned = &self.plan.conversations[booked.conversation];
            if planned.id != conversation {
                return Err(format!("{id} is about {}, not {conversation}", planned.id));
            }
            booked.deliveries += 1;
            let (first, waited) = (booked.deliveries == 1, now.duration_since(booked.at));
            let honest = match event["snapshot"].as_str() {
                Some("included") => fetched.contains_key(&conversation),
                Some("covered") => covered,
                Some("gone") if planned.nature == ConversationKind::Gone => true,
                // Few that are not found are taken for gone, but never many, nor by whoever began
                // when the breaker was open for that.
                Some("gone") => {
                    let called = state.delivered.called_gone.entry(environment).or_default();
                    called.insert(conversation.clone());
                    let few = called.len() < MISSING;
                    few && !state.checker.unclosed_before(began, "gladly", NONE_FOUND)
                        && (0..=INVOCATION.as_secs()).any(|ago| {
                            let at = self.elapsed().saturating_sub(Duration::from_secs(ago));
                            self.plan.is_missing(at, at)
                        })
                }
                _ => false,
            };
            let tally = &mut state.tally;
            tally.count(if first { "events delivered" } else { "events delivered again" });
            if first && waited > self.plan.retention {
                tally.count("events delivered past the retention");
            }
            match event["snapshot"].as_str() {
                Some("covered") => tally.count("events covered"),
                Some("gone") => tally.count("events gone"),
                _ => {}
            }
            drop(state);
            self.note(|| {
                format!("env {environment} delivers {id} of {conversation}, {}", event["snapshot"])
            });
            if !honest {
                return Err(format!("{id} says {}", event["snapshot"]));
            }
        }
        Ok(())
    }

    /// Whether a snapshot is whole and of one conversation.
    fn check_snapshot(
        &self,
        snapshot: &Value,
        id: &str,
        fetched_at: Timestamp,
    ) -> Result<(), String> {
        let conversation = self.plan.conversation(id);
        let conversation = conversation.ok_or_else(|| format!("there is no conversation {id}"))?;
        let merged = self.plan.is_merged(&conversation.customer).unwrap_or_default();
        let customer = format!("{}{}", conversation.customer, if merged { "-merged" } else { "" });
        if snapshot["customer"]["id"] != customer {
            return Err(format!("{id} has the customer {}", snapshot["customer"]));
        }
        let items = snapshot["items"].as_array().map_or(&[][..], |items| items);
        let there: BTreeSet<_> = items.iter().filter_map(|item| item["id"].as_str()).collect();
        for (at, item) in &conversation.items {
            if instant(*at) <= fetched_at && !there.contains(item.as_str()) {
                return Err(format!("{item} showed before the fetch"));
            }
        }
        for item in items {
            let item_id = item["id"].as_str().unwrap_or_default();
            let whole = item_id.starts_with(&format!("{id}-i-"))
                && item["type"] == "SMS"
                && item["text"] == format!("text of {item_id}")
                && item["author"] == json!({"kind": "customer", "id": conversation.customer});
            if !whole {
                return Err(format!("{id} has the item {item}"));
            }
        }
        // A list of names that fails costs names alone, until a minute after it could be read.
        let may_lack = fetched_at < instant(self.plan.calm) + LISTS_RETRIED;
        let named = |entry: &Value, name: &str| {
            entry["id"].is_string() && (entry["name"] == name || may_lack && entry["name"].is_null())
        };
        let named = named(&snapshot["inbox"], "Help")
            && named(&snapshot["agent"], "Ada")
            && named(&snapshot["topics"][0], "Refunds");
        if snapshot["status"] != "CLOSED" || !named {
            return Err(format!("{id} lacks what Gladly says of it"));
        }
        Ok(())
    }
}

fn read(request: &HttpRequest) -> Value {
    serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or_default()
}

fn conversations(delivery: &Value) -> BTreeSet<&str> {
    let events = delivery["events"].as_array().into_iter().flatten();
    events.filter_map(|event| event["conversationId"].as_str()).collect()
}

pub(crate) fn instant(at: Duration) -> Timestamp {
    EPOCH + SignedDuration::try_from(at).unwrap_or_default()
}

/// Basic credentials of the API user.
fn basic(token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("relay@example.org:{token}")))
}

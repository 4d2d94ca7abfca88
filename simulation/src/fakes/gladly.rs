//! Gladly's REST API.

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use testing::{
    connector::{Body, Reply},
    settings::GLADLY_EMAIL,
};
use tokio::time::sleep;

use super::{failure, recovery, status, token};
use crate::{
    constants::{EPOCH, GLADLY, instant},
    gladly::Caller,
    invariant,
    plan::{ConversationKind, Upstream},
    sim::Simulation,
};

/// Gladly's reply.
pub(crate) async fn ask(sim: &Simulation, request: &HttpRequest, environment: u64) -> Reply {
    if sim.goes_wrong(0.02) {
        sim.count("slow answers");
        let long = sim.time_between(1_000, 12_000);
        sleep(long).await;
    }
    sim.count("calls to Gladly");
    if let Some(reply) = failure(sim, Upstream::Gladly) {
        sim.count("failed calls to Gladly");
        return reply;
    }
    let given = request.headers().get("authorization").unwrap_or_default().to_owned();
    if given != basic(&token(sim, Upstream::Gladly)) {
        sim.count("refused credentials");
        return status(401);
    }
    let mut left = usize::MAX;
    if sim.plan.rate == "4" {
        let others = if sim.is_calm() { 0 } else { sim.plan.others };
        left = {
            let (now, elapsed) = (sim.now(), sim.elapsed());
            let gladly = &mut sim.state().gladly;
            match &mut gladly.shared {
                Some(shared) => shared.take(elapsed, Caller::Environment(environment)),
                None => gladly.take_request(now, others),
            }
        };
        if left == 0 {
            sim.count("429s of Gladly's own");
            return status(429).header("ratelimit-remaining-second", "0");
        }
        if left <= 3 {
            sim.count("quotas nearly used up");
        }
    }
    let path = request.uri().strip_prefix(GLADLY).unwrap_or_default();
    let reply = match recovery::reply(sim, request.method(), path).await {
        Some(reply) => reply,
        None => rest(sim, path),
    };
    if path.starts_with("/conversations/") && reply.code() == Some(200) {
        sim.check(|checker, _| checker.conversation_found(environment));
    }
    reply.header("ratelimit-remaining-second", left.saturating_sub(1).to_string())
}

fn rest(sim: &Simulation, path: &str) -> Reply {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    match parts[..] {
        ["organization"] => Reply::json(json!({"id": "o-1", "name": "Acme"})),
        ["agents"] => Reply::json(json!([{"id": "a-1", "name": "Ada"}])),
        ["inboxes"] => Reply::json(json!([{"id": "x-1", "name": "Help"}])),
        ["topics"] => Reply::json(json!([{"id": "t-1", "name": "Refunds"}])),
        ["conversations", id] | ["conversations", id, "items"] => {
            let Some(conversation) = sim.plan.conversation(id) else {
                return status(404);
            };
            let now = sim.elapsed();
            if sim.plan.is_missing(now, now) {
                sim.count("conversations not found for a while");
                return status(404);
            }
            if conversation.is_gone(now) {
                return status(404);
            }
            if conversation.kind == ConversationKind::Poison && !sim.is_calm() {
                return status(500);
            }
            if parts.len() == 3 {
                let shown = conversation.items.iter().filter(|(at, _)| *at <= now);
                let shown = shown.map(|(at, item)| json!({
                    "id": item, "conversationId": id, "timestamp": instant(*at).to_string(),
                    "initiator": {"id": conversation.customer, "type": "CUSTOMER"},
                    "content": {"type": "SMS", "content": format!("text of {item}"), "from": "+1", "to": "+2"},
                }));
                return Reply::json(shown.collect());
            }
            sim.count("conversations fetched");
            Reply::json(json!({
                "id": id, "customerId": conversation.customer, "status": conversation.status(now), "inboxId": "x-1",
                "agentId": "a-1", "topicIds": ["t-1"], "createdAt": EPOCH.to_string(),
            }))
        }
        ["customer-profiles", id]
            if sim.plan.erasure(id).is_some_and(|it| it.shown_at <= sim.elapsed()) =>
        {
            let into = sim.plan.erasure(id).and_then(|erasure| erasure.into.as_ref());
            into.map_or_else(|| status(404), |into| moved(id, into))
        }
        ["customer-profiles", id] => {
            let known = sim.plan.is_merged(id.trim_end_matches("-merged"));
            match known {
                Some(true) if !id.ends_with("-merged") => moved(id, &format!("{id}-merged")),
                Some(_) => Reply::json(json!({
                    "id": id, "name": format!("name of {id}"),
                    "emails": [{"original": "a@example.org"}],
                })),
                None if !id.starts_with("u-") => {
                    Reply::json(json!({"id": id, "name": format!("name of {id}")}))
                }
                None => status(404),
            }
        }
        _ => {
            sim.violate(invariant::NO_PANIC_OR_INVALID_CALL, || format!("Gladly has no {path}"));
            status(404)
        }
    }
}

/// A customer who was merged into another.
fn moved(id: &str, into: &str) -> Reply {
    let moved = json!({"code": "moved", "meta": {"old": id, "new": into}});
    Reply::response(301, Body::Json(json!({"errors": [moved]})))
}

/// Basic credentials of the API user.
fn basic(token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{GLADLY_EMAIL}:{token}")))
}

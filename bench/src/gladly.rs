//! Gladly and the destination around extractor-fn: every conversation exists, every call takes as
//! long as configured, and every delivery is counted.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::http::{Body, Request, Response, serve};

/// A message text of the length of an e-mail.
const SAID: &str = "I ordered the blue one three weeks ago, was promised it within ten days, and \
    have since been told twice that it is on its way. The tracking page still says that the label \
    was created. Could somebody please find out where it is, or send me another one? I need it \
    before the end of the month. Thank you! – Maria Müller";

/// The simulated Gladly's properties.
#[derive(Clone, Copy)]
pub(crate) struct TestProfile {
    /// How long each call takes.
    pub(crate) delay: Duration,
    /// Items of each conversation.
    pub(crate) items: usize,
    /// Conversations of each customer.
    pub(crate) conversations_a_customer: u64,
    /// Events that Gladly lists of the last 24 hours.
    pub(crate) events: u64,
}

impl Default for TestProfile {
    fn default() -> Self {
        Self { delay: Duration::ZERO, items: 10, conversations_a_customer: 1, events: 0 }
    }
}

/// What has happened so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) calls: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) conversations: AtomicU64,
}

/// Answers as Gladly under `/api/v1` and as the destination under `/deliveries`.
pub(crate) fn start(profile: TestProfile) -> io::Result<(SocketAddr, Arc<Counts>)> {
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    let items = items(profile.items);
    let address = serve(None, move |request| match request.path.strip_prefix("/api/v1/") {
        Some(path) => {
            counted.calls.fetch_add(1, Ordering::Relaxed);
            thread::sleep(profile.delay);
            ask(path, profile, &items)
        }
        None => take(&request, &counted),
    })?;
    Ok((address, counts))
}

fn ask(path: &str, profile: TestProfile, items: &str) -> Response {
    let mut parts = path.split(['/', '?']);
    let answer = match (parts.next(), parts.next(), parts.next()) {
        (Some("conversations"), Some(id), None) => {
            let number: u64 = id.trim_start_matches("cv-").parse().unwrap_or_default();
            json!({
                "id": id, "customerId": format!("cu-{:019}", number / profile.conversations_a_customer),
                "status": "CLOSED", "createdAt": "2026-11-20T10:00:00Z",
                "inboxId": "in-1", "agentId": "ag-1", "topicIds": ["to-1", "to-2"],
            })
        }
        (Some("conversations"), Some(_), Some("items")) => return Response::new(200, items),
        (Some("customer-profiles"), Some(id), None) => json!({
            "id": id, "name": "Maria Müller",
            "emails": [{"normalized": "maria@example.com", "original": "Maria@example.com"}],
            "phones": [{"normalized": "+15555550100", "original": "+1 555 555 0100"}],
            "customAttributes": {"tier": "gold"},
        }),
        (Some("agents" | "topics" | "inboxes"), None, None) => {
            let named = |id: &str| json!({"id": id, "name": format!("name of {id}")});
            Value::Array(["ag-1", "to-1", "to-2", "in-1"].map(named).to_vec())
        }
        (Some("events"), Some(query), _) => return list(query, profile.events),
        _ => return Response::new(404, r#"{"errors":[]}"#),
    };
    Response::new(200, answer.to_string())
}

fn items(count: usize) -> String {
    let item = |number: usize| {
        let kind = ["EMAIL", "SMS", "CHAT_MESSAGE"][number % 3];
        let author = ["CUSTOMER", "AGENT"][number % 2];
        json!({
            "id": format!("it-{number}"), "timestamp": "2026-11-20T10:00:00.123Z",
            "initiator": {"id": "pe-1", "type": author},
            "content": {"type": kind, "subject": "Where is it?", "from": "maria@example.com", "content": SAID},
        })
    };
    (0..count).map(item).collect::<Value>().to_string()
}

/// The events since `startAt`, of which Gladly has `count`, spread over 20 hours.
fn list(query: &str, count: u64) -> Response {
    let value = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.and_then(|time| time.parse::<jiff::Timestamp>().ok())
    };
    let (Some(from), Some(to)) = (value("startAt"), value("endAt")) else {
        return Response::new(400, "{}");
    };
    let write = move |writer: &mut dyn Write| {
        let first = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(23);
        let step = jiff::SignedDuration::from_hours(20) / i32::try_from(count.max(1)).unwrap_or(1);
        let mut at = first;
        for number in 0..count {
            if at >= from && at < to {
                writeln!(
                    writer,
                    r#"{{"id":"ev-{number:019}","type":"CONTACT/MESSAGE_RECEIVED","timestamp":"{at}","initiator":{{"id":"cu-0123456789abcdef123","type":"CUSTOMER"}},"content":{{"channel":"EMAIL","contactId":"co-0123456789abcdef123","conversationId":"cv-{:019}","customerId":"cu-0123456789abcdef123","messageId":"it-{number:019}","context":{{"assignee":{{"inboxId":"in-0123456789abcdef123"}}}}}}}}"#,
                    number / 5
                )?;
            }
            at += step;
        }
        Ok(())
    };
    let headers = vec![("content-type", "application/x-jsonlines".to_owned())];
    Response { status: 200, headers, body: Body::Stream(Box::new(write)) }
}

fn take(request: &Request, counts: &Counts) -> Response {
    let delivery: HashMap<String, Value> =
        serde_json::from_slice(&request.body).unwrap_or_default();
    let count = |name| delivery.get(name).and_then(Value::as_array).map_or(0, Vec::len) as u64;
    counts.events.fetch_add(count("events"), Ordering::Relaxed);
    counts.conversations.fetch_add(count("conversations"), Ordering::Relaxed);
    Response::new(200, "{}")
}

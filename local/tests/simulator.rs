//! Tests of the Gladly simulator and the destination.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::post};
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use testing::{
    destination::{self, Destination},
    fault::Fault,
    gladly::{EVENT_TYPES, Gladly, Options},
};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(10);

fn client() -> Client {
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.build().unwrap()
}

/// A simulator without a rate limit.
fn gladly() -> Gladly {
    let options = Options { requests_per_second: None, time_scale: 0.000_02, ..Options::default() };
    Gladly::start(options).unwrap()
}

fn request(gladly: &Gladly, method: &str, path: &str) -> RequestBuilder {
    let Options { email, token, .. } = Options::default();
    let url = format!("{}{path}", gladly.url());
    client().request(method.parse().unwrap(), url).basic_auth(email, Some(token))
}

async fn fetch(gladly: &Gladly, path: &str) -> Response {
    request(gladly, "GET", path).send().await.unwrap()
}

async fn fetch_json(gladly: &Gladly, path: &str) -> Value {
    fetch(gladly, path).await.json().await.unwrap()
}

/// A webhook receiver that answers these statuses, repeating the last one, and keeps what it received.
#[derive(Clone)]
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

impl Receiver {
    async fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        let answer = async move |headers: HeaderMap, body: String| {
            let mut kept = kept.lock().unwrap();
            let status = statuses[kept.len().min(statuses.len() - 1)];
            kept.push((headers, serde_json::from_str(&body).unwrap()));
            StatusCode::from_u16(status).unwrap()
        };
        tokio::spawn(
            axum::serve(listener, Router::new().route("/hook", post(answer))).into_future(),
        );
        Self { url, got }
    }
}

#[tokio::test]
async fn calls_without_the_right_token_are_refused() {
    let gladly = gladly();
    let url = format!("{}/api/v1/organization", gladly.url());

    let anonymous = client().get(&url).send().await.unwrap();
    let wrong =
        client().get(&url).basic_auth("relay@example.org", Some("guess")).send().await.unwrap();

    assert_eq!(anonymous.status(), 401);
    assert_eq!(wrong.status(), 401);
    assert_eq!(fetch(&gladly, "/api/v1/organization").await.status(), 200);
    assert_eq!(gladly.traffic().count("GET /api/v1/organization"), 3);
}

#[tokio::test]
async fn every_response_carries_the_remaining_rate_limit() {
    let gladly = Gladly::start(Options::default()).unwrap();

    let answer = fetch(&gladly, "/api/v1/agents").await;

    assert_eq!(answer.headers()["ratelimit-limit-second"], "10");
    assert_eq!(answer.headers()["ratelimit-remaining-second"], "9");
}

#[tokio::test]
async fn calls_over_the_rate_limit_get_429() {
    let options = Options { requests_per_second: Some(1), ..Options::default() };
    let gladly = Gladly::start(options).unwrap();
    let http = client();
    let calls: Vec<_> = (0..10)
        .map(|_| tokio::spawn(http.get(format!("{}/api/v1/agents", gladly.url())).send()))
        .collect();

    let mut refused = 0;
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        if answer.status() == 429 {
            refused += 1;
            assert_eq!(answer.headers()["ratelimit-remaining-second"], "0");
        }
    }

    assert!(refused > 0);
    assert_eq!(gladly.traffic().throttled(), refused);
    assert!(gladly.traffic().busiest_second() > 1);
}

#[tokio::test]
async fn a_merged_customer_redirects_hop_by_hop_without_a_location() {
    let gladly = gladly();
    gladly.organization().add_customer("u-3", json!({"name": "Ingrid", "phones": null}));
    gladly.organization().merge_customer("u-1", "u-2");
    gladly.organization().merge_customer("u-2", "u-3");

    let moved = fetch(&gladly, "/api/v1/customer-profiles/u-1").await;

    assert_eq!(moved.status(), 301);
    assert!(!moved.headers().contains_key("location"));
    let body: Value = moved.json().await.unwrap();
    assert_eq!(body["errors"][0]["meta"], json!({"old": "u-1", "new": "u-2"}));
    assert_eq!(fetch(&gladly, "/api/v1/customer-profiles/u-2").await.status(), 301);
    let profile = fetch_json(&gladly, "/api/v1/customer-profiles/u-3").await;
    assert_eq!((&profile["name"], &profile["phones"]), (&json!("Ingrid"), &Value::Null));
    let missing = fetch_json(&gladly, "/api/v1/customer-profiles/u-9").await;
    assert_eq!(missing["errors"]["code"], "not_exist");
}

#[tokio::test]
async fn only_the_oldest_1000_items_of_a_conversation_are_listed() {
    let gladly = gladly();
    gladly.organization().add_conversation("c-1", "u-1", []);
    gladly.organization().fill("c-1", 1000);
    let whole = fetch(&gladly, "/api/v1/conversations/c-1/items").await;
    gladly.organization().fill("c-1", 1500);

    let limited = fetch(&gladly, "/api/v1/conversations/c-1/items").await;

    assert!(!whole.headers().contains_key("gladly-limited-data"));
    assert!(limited.headers().contains_key("gladly-limited-data"));
    let items: Vec<Value> = limited.json().await.unwrap();
    assert_eq!(items.len(), 1000);
    assert_eq!(items[0]["content"]["content"], "Message 1 of 1000");
}

#[tokio::test]
async fn the_api_returns_data_that_a_test_created() {
    let gladly = gladly();
    let voicemail = json!({"id": "i-2", "timestamp": null, "content": {"type": "VOICEMAIL"}});
    let note = json!({"id": "n-1", "content": {"type": "CONVERSATION_NOTE", "body": "Call back"}});
    let items = [json!({"type": "SMS", "content": "Hello"}), voicemail, note];
    gladly.organization().add_conversation("c-1", "u-1", items);
    gladly.organization().change_conversation("c-1", json!({"status": "CLOSED", "agentId": null}));
    gladly.organization().add_transcript("i-2", &["Is anybody there?"]);
    gladly.organization().unsupported.insert("i-9".to_owned());

    let conversation = fetch_json(&gladly, "/api/v1/conversations/c-1").await;
    assert_eq!(
        (&conversation["status"], &conversation["agentId"]),
        (&json!("CLOSED"), &Value::Null)
    );
    let items = fetch_json(&gladly, "/api/v1/conversations/c-1/items").await;
    assert_eq!(items[0]["initiator"], json!({"id": "u-1", "type": "CUSTOMER"}));
    assert_eq!(
        items[1],
        json!({"id": "i-2", "customerId": "u-1", "conversationId": "c-1", "content": {"type": "VOICEMAIL"}})
    );
    let transcript = fetch_json(&gladly, "/api/v1/conversation-items/i-2/voice-transcript").await;
    assert_eq!(transcript["paragraphs"][0]["transcript"], "Is anybody there?");
    assert_eq!(
        fetch_json(&gladly, "/api/v1/conversations/c-1/notes/n-1").await["content"]["body"],
        "Call back"
    );
    assert_eq!(fetch_json(&gladly, "/api/v1/customers/u-1/conversations").await[0]["id"], "c-1");
    for (path, status) in [
        ("conversation-items/i-2", 200),
        ("conversation-items/i-9", 400),
        ("conversation-items/n-1/voice-transcript", 404),
        ("conversations/c-1/notes/i-2", 404),
        ("conversations/c-2", 404),
        ("conversations/c-2/items", 404),
        ("nothing", 404),
    ] {
        assert_eq!(fetch(&gladly, &format!("/api/v1/{path}")).await.status(), status, "{path}");
    }

    gladly.organization().delete_conversation("c-1");
    assert_eq!(fetch(&gladly, "/api/v1/conversations/c-1").await.status(), 404);
}

#[tokio::test]
async fn generated_data_has_every_item_type_and_is_the_same_for_the_same_seed() {
    let options = || Options { conversations: 24, ..Options::default() };
    let (one, other) = (Gladly::start(options()).unwrap(), Gladly::start(options()).unwrap());
    let app = one.organization();

    let items: Vec<_> =
        app.conversations.values().flat_map(|conversation| &conversation.items).collect();
    let types: BTreeSet<_> =
        items.iter().filter_map(|item| item["content"]["type"].as_str()).collect();

    for wanted in "CHAT_MESSAGE EMAIL SMS FACEBOOK_MESSAGE WHATSAPP INSTAGRAM_DIRECT TWITTER CONVERSATION_NOTE PHONE_CALL \
        VOICEMAIL VOICE_AI_MESSAGE TOPIC_CHANGE CONVERSATION_STATUS_CHANGE CUSTOMER_ACTIVITY TASK TEXT FILES"
        .split_whitespace()
    {
        assert!(types.contains(wanted), "no {wanted}");
    }
    assert!(items.iter().any(|item| item.get("initiator").is_none()));
    assert!(items.iter().any(|item| item["content"]["status"].is_object()));
    for (kind, field) in
        [("TEXT", "text"), ("TEXT", "caption"), ("FILES", "text"), ("FILES", "caption")]
    {
        let contents = items.iter().map(|item| &item["content"]);
        let mut contents = contents.filter(|content| content["type"] == kind);
        assert!(contents.any(|content| content["content"][field].is_string()), "{kind}: {field}");
    }
    assert!(items.iter().any(|item| item["responder"]["type"] == "AGENT"));
    assert!(app.customers.values().any(|customer| customer["externalCustomerIds"].is_object()));
    let child = app.topics.iter().find(|topic| topic["parentId"].is_string()).unwrap();
    let mut topics = app.conversations.values().filter_map(|it| it.meta["topicIds"].as_array());
    assert!(topics.any(|ids| ids.contains(&child["id"])));
    assert!(
        items.iter().all(|item| item["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok())
    );
    assert!(app.moved.values().any(|new| app.moved.contains_key(new)));
    assert!(app.conversations.keys().all(|id| id.len() == 22));
    assert!(app.conversations.keys().eq(other.organization().conversations.keys()));
}

#[tokio::test]
async fn faults_affect_only_matching_calls() {
    let gladly = gladly();
    gladly.organization().add_conversation(
        "c-1",
        "u-1",
        [json!({"type": "SMS", "content": "Hello"})],
    );
    let (path, items) = ("/api/v1/conversations/c-1", "/api/v1/conversations/c-1/items");
    let any = "GET /api/v1/conversations/*";

    gladly.fault(Fault::status(429).header("retry-after", "2").on(any).after(1).times(1));
    let mut statuses = Vec::new();
    for path in [path, items, path, path] {
        statuses.push(fetch(&gladly, path).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 200]);

    gladly.fault(Fault::garbled().on(any).times(1));
    assert!(fetch(&gladly, path).await.json::<Value>().await.unwrap_err().is_decode());

    gladly.fault(Fault::cut().on(any).times(1));
    let cut = fetch(&gladly, path).await;
    assert_eq!(cut.status(), 200);
    assert!(cut.bytes().await.is_err());

    // A reset comes before the work is done, a lost answer after it; the caller sees no difference.
    for (fault, name) in [(Fault::reset(), "reset"), (Fault::lost(), "lost answer")] {
        gladly.fault(fault.on(any).times(1));
        assert!(request(&gladly, "GET", path).send().await.unwrap_err().is_request());
        assert_eq!(gladly.traffic().fault_hits()[&(any.to_owned(), name.to_owned())], 1);
    }

    gladly.fault(Fault::drip(1).on(any).times(1));
    assert_eq!(fetch_json(&gladly, path).await["id"], "c-1");

    let short = Fault::status(200).body("x").header("content-length", "9");
    gladly.fault(short.on(any).times(1));
    assert!(fetch(&gladly, path).await.bytes().await.is_err());

    gladly.fault(Fault::large(3).on(any).times(1));
    assert_eq!(fetch(&gladly, path).await.bytes().await.unwrap().len(), (3 << 20) + 2);

    gladly.fault(Fault::redirect(302, "https://elsewhere.example.com/").on(any).times(1));
    let redirected = fetch(&gladly, path).await;
    assert_eq!(
        (redirected.status().as_u16(), &redirected.headers()["location"]),
        (302, &"https://elsewhere.example.com/".parse().unwrap())
    );

    gladly.fault(Fault::hang().on("/api/v1/**").times(1));
    let hung = tokio::spawn(request(&gladly, "GET", items).send());
    assert!(gladly.wait_for(|gladly| gladly.traffic().count(items) == 2, SOON).await);
    hung.abort();
    assert_eq!(gladly.traffic().calls(items).last().unwrap().status, None);

    assert!(gladly.traffic().faults().is_empty());
    gladly.fault(Fault::status(503));
    assert_eq!(fetch(&gladly, path).await.status(), 503);
    gladly.traffic().clear_faults();
    assert_eq!(fetch(&gladly, path).await.status(), 200);
}

#[tokio::test]
async fn an_event_that_fails_is_sent_five_times_and_disables_the_webhook() {
    let (gladly, receiver) = (gladly(), Receiver::start(&[500, 302, 404, 406, 503]).await);
    gladly.organization().add_conversation("c-1", "u-1", []);
    gladly.subscribe(&receiver.url, &[("x-api-key", "k")]);

    let event = gladly.emit("CONVERSATION/CLOSED", "c-1");

    assert!(gladly.wait_for(|gladly| gladly.webhooks()[0]["enabled"] == false, SOON).await);
    assert!(gladly.webhooks()[0]["disabledAtDueToRetryLimit"].is_string());
    let attempts: Vec<_> =
        gladly.attempts().iter().map(|attempt| (attempt.number, attempt.status)).collect();
    assert_eq!(
        attempts,
        [(1, Some(500)), (2, Some(302)), (3, Some(404)), (4, Some(406)), (5, Some(503))]
    );
    let got = receiver.got.lock().unwrap().clone();
    assert!(got.iter().all(|(headers, body)| headers["x-api-key"] == "k" && *body == event));

    gladly.emit("CONVERSATION/CREATED", "c-1");
    let happened = gladly.organization().events.clone();
    let listed: Vec<_> = happened.iter().map(|event| &event["type"]).collect();
    assert_eq!(listed, ["CONVERSATION/CLOSED", "CONVERSATION/CREATED"]);
    assert_eq!(gladly.attempts().len(), 5);
}

#[tokio::test]
async fn any_2xx_ends_the_retries() {
    let (gladly, receiver) = (gladly(), Receiver::start(&[500, 204]).await);
    gladly.subscribe(&receiver.url, &[]);

    gladly.emit("CONVERSATION/CLOSED", "c-1");
    assert!(gladly.wait_for(|gladly| gladly.attempts().len() == 2, SOON).await);
    gladly.emit("CONVERSATION/CLOSED", "c-2");
    assert!(gladly.wait_for(|gladly| gladly.attempts().len() == 3, SOON).await);

    let last = gladly.attempts().pop().unwrap();
    assert_eq!((last.number, last.status), (1, Some(204)));
    assert_eq!(gladly.webhooks()[0]["enabled"], true);
}

#[tokio::test]
async fn a_webhook_is_enabled_only_when_its_ping_is_answered_200() {
    let (gladly, receiver) = (gladly(), Receiver::start(&[201, 200]).await);
    let settings = json!({
        "url": receiver.url, "events": EVENT_TYPES, "headers": {"x-api-key": "k"}, "enabled": true,
        "credentials": {"username": "u", "password": "p"},
    });

    let refused =
        request(&gladly, "POST", "/api/v1/webhooks").json(&settings).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(gladly.webhooks().is_empty());

    let created =
        request(&gladly, "POST", "/api/v1/webhooks").json(&settings).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let path = created.headers()["location"].to_str().unwrap().to_owned();
    let webhook = fetch_json(&gladly, &path).await;
    assert_eq!((&webhook["enabled"], &webhook["hasCredentials"]), (&json!(true), &json!(true)));
    assert_eq!(webhook["headerKeys"], json!(["x-api-key"]));
    assert!(webhook.get("headers").is_none() && webhook.get("credentials").is_none());
    let (headers, ping) = receiver.got.lock().unwrap().last().unwrap().clone();
    assert_eq!(ping["type"], "PING");
    assert_eq!(
        (&headers["x-api-key"], &headers["authorization"]),
        (&"k".parse().unwrap(), &"Basic dTpw".parse().unwrap())
    );

    for (method, body, status) in [
        ("POST", settings.clone(), 400),
        ("POST", json!({"url": "http://shop.example.com", "events": []}), 400),
        ("PATCH", json!({"url": "http://127.0.0.1:1/closed"}), 400),
        ("DELETE", Value::Null, 400),
        ("PATCH", json!({"enabled": false}), 204),
        ("DELETE", Value::Null, 204),
        ("DELETE", Value::Null, 404),
    ] {
        let path = if method == "POST" { "/api/v1/webhooks" } else { path.as_str() };
        let answer = request(&gladly, method, path).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {body}");
    }
}

#[tokio::test]
async fn re_enabling_clears_the_retry_limit() {
    let (gladly, receiver) = (gladly(), Receiver::start(&[200]).await);
    let id = gladly.subscribe(&receiver.url, &[]);
    gladly.disable_webhook(&id);
    assert!(gladly.webhooks()[0]["disabledAtDueToRetryLimit"].is_string());

    let path = format!("/api/v1/webhooks/{id}");
    let answer =
        request(&gladly, "PATCH", &path).json(&json!({"enabled": true})).send().await.unwrap();

    assert_eq!(answer.status(), 204);
    assert_eq!(gladly.webhooks()[0].get("disabledAtDueToRetryLimit"), None);
}

#[tokio::test]
async fn events_have_the_fields_of_their_type() {
    let gladly = gladly();
    gladly.organization().add_conversation("c-1", "u-1", []);

    for kind in EVENT_TYPES {
        let event = gladly.organization().event(kind, "c-1");
        let content = &event["content"];
        assert_eq!(
            (&content["conversationId"], &content["customerId"]),
            (&json!("c-1"), &json!("u-1"))
        );
        let old_style = matches!(kind, "MESSAGE/RECEIVED" | "CONVERSATION_STATUS/UPDATED");
        assert_eq!(event.get("initiator").is_none(), old_style, "{kind}");
        let bare = old_style || kind == "CONVERSATION/NOTE_CREATED";
        assert_eq!(content.get("context").is_none(), bare, "{kind}");
        for id in ["messageId", "conversationItemId"] {
            if let Some(item) = content[id].as_str() {
                let item = fetch_json(&gladly, &format!("/api/v1/conversation-items/{item}")).await;
                assert_eq!(item["content"]["type"], "CHAT_MESSAGE");
            }
        }
    }
    assert_eq!(gladly.organization().event("PING", "")["type"], "PING");
    assert_eq!(
        gladly.organization().conversations["c-1"].items.len(),
        3,
        "one message in, one out, one note"
    );
}

#[tokio::test]
async fn the_events_api_lists_a_range_of_the_last_24_hours_oldest_first() {
    let gladly = gladly();
    gladly.organization().add_conversation("c-1", "u-1", []);
    let ago = |hours| (Timestamp::now() - SignedDuration::from_hours(hours)).to_string();
    let late = gladly.emit("CONTACT/MESSAGE_RECEIVED", "c-1");
    gladly.emit("CONVERSATION_STATUS/UPDATED", "c-1");
    let mut early = gladly.organization().event("CONVERSATION_ASSIGNEE/UPDATED", "c-1");
    early["timestamp"] = ago(5).into();
    gladly.send(&early);

    let list = async |query: String| fetch(&gladly, &format!("/api/v1/events?{query}")).await;
    let all = list(format!("startAt={}&entities=CONVERSATION&entities=CONTACT", ago(23))).await;
    let text = all.text().await.unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, [early, late]);

    let contacts = list(format!("startAt={}&endAt={}&entities=CONTACT", ago(23), ago(1))).await;
    assert_eq!(contacts.text().await.unwrap(), "");
    for bad in [
        format!("startAt={}&entities=CONTACT", ago(25)),
        format!("startAt={}&endAt={}&entities=CONTACT", ago(1), ago(2)),
        format!("startAt={}", ago(1)),
        format!("startAt={}&entities=EVERYTHING", ago(1)),
        "entities=CONTACT".to_owned(),
    ] {
        let answer = list(bad).await;
        assert_eq!(answer.status(), 400);
        assert!(answer.json::<Value>().await.unwrap().is_array());
    }
}

#[tokio::test]
async fn an_export_holds_the_items_of_its_day() {
    let gladly = gladly();
    let job = &fetch_json(&gladly, "/api/v1/export/jobs?status=COMPLETED").await[0];
    let at = job["parameters"]["startAt"].as_str().unwrap();
    let item =
        json!({"id": "i-1", "timestamp": at, "content": {"type": "SMS", "content": "Hello"}});
    gladly.organization().add_conversation(
        "c-1",
        "u-1",
        [item, json!({"type": "SMS", "content": "Today"})],
    );

    let path = format!("/api/v1/export/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(fetch_json(&gladly, &path).await["files"], json!(["conversation_items.jsonl"]));
    let file = fetch(&gladly, &format!("{path}/files/conversation_items.jsonl"))
        .await
        .text()
        .await
        .unwrap();

    assert_eq!(file.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&file).unwrap()["id"], "i-1");
    assert_eq!(fetch(&gladly, &format!("{path}/files/nothing.jsonl")).await.status(), 404);
}

#[tokio::test]
async fn the_simulator_can_be_controlled_over_http() {
    let gladly = gladly();
    let sim = |method: &str, path: &str| request(&gladly, method, &format!("/_sim/{path}"));
    let add =
        json!({"id": "c-1", "customerId": "u-1", "items": [{"type": "SMS", "content": "Hello"}]});
    assert_eq!(sim("POST", "conversations").json(&add).send().await.unwrap().status(), 201);
    let emit = json!({"type": "CONVERSATION/CLOSED", "conversation": "c-1"});
    let event: Value = sim("POST", "emit").json(&emit).send().await.unwrap().json().await.unwrap();
    assert_eq!(event["type"], "CONVERSATION/CLOSED");
    let listed: Value = sim("GET", "conversations").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&listed[0]["status"], &listed[0]["firstMessage"]),
        (&json!("CLOSED"), &json!("Hello"))
    );

    let fault = json!({"on": "/api/v1/agents", "status": 418});
    assert_eq!(sim("POST", "faults").json(&fault).send().await.unwrap().status(), 204);
    assert_eq!(fetch(&gladly, "/api/v1/agents").await.status(), 418);
    assert_eq!(sim("DELETE", "faults").send().await.unwrap().status(), 204);
    assert_eq!(fetch(&gladly, "/api/v1/agents").await.status(), 200);
    let calls: Value = sim("GET", "calls").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        calls["calls"],
        json!({"GET /api/v1/agents -> 200": 1, "GET /api/v1/agents -> 418": 1})
    );
    assert_eq!(sim("GET", "webhooks").send().await.unwrap().status(), 200);
}

fn delivery(event: &str, fetched_at: &str) -> Value {
    let now = "2025-02-03T15:04:05.000Z";
    json!({
        "schema": "gladly-relay/delivery/1", "id": "ab".repeat(32), "organization": "acme.gladly.com", "sentAt": now,
        "events": [{
            "id": event, "type": "CONVERSATION/CLOSED", "receivedAt": now, "heldMs": 1, "conversationId": "c-1",
            "snapshot": "included", "origin": "webhook",
        }],
        "conversations": [{"id": "c-1", "fetchedAt": fetched_at, "items": [], "truncated": false}],
    })
}

async fn deliver(destination: &Destination, body: &Value, gzip: bool) -> StatusCode {
    let mut request = client()
        .post(destination.url())
        .header("authorization", "Bearer destination-token")
        .header("content-type", "application/json")
        .header("idempotency-key", "ab".repeat(32));
    let mut bytes = body.to_string().into_bytes();
    if gzip {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&bytes).unwrap();
        bytes = packed.finish().unwrap();
        request = request.header("content-encoding", "gzip");
    }
    request.body(bytes).send().await.unwrap().status()
}

#[tokio::test]
async fn the_destination_keeps_the_latest_snapshot_whatever_the_order() {
    let destination = Destination::start(destination::Options::default()).unwrap();
    let (early, late) =
        (delivery("e-1", "2025-02-03T15:04:05.9Z"), delivery("e-2", "2025-02-03T15:04:05.91Z"));

    assert_eq!(deliver(&destination, &late, true).await, 200);
    assert_eq!(deliver(&destination, &early, false).await, 200);
    assert_eq!(deliver(&destination, &early, false).await, 200);

    assert!(destination.wait_for(|it| it.event_ids().len() == 2, SOON).await);
    assert_eq!(destination.conversation("c-1").unwrap()["fetchedAt"], "2025-02-03T15:04:05.91Z");
    assert_eq!((destination.times("e-1"), destination.times("e-2")), (2, 1));
    let deliveries = destination.deliveries();
    assert_eq!(deliveries.len(), 3);
    assert!(deliveries[0].wire_bytes < deliveries[0].bytes);
    assert!(destination.invalid().is_empty());
    let page = client().get(destination.url()).send().await.unwrap().text().await.unwrap();
    assert!(page.starts_with("3 deliveries, 2 events, 1 conversations"), "{page}");
}

#[tokio::test]
async fn the_destination_refuses_what_breaks_the_schema() {
    let destination = Destination::start(destination::Options::default()).unwrap();
    let mut body = delivery("e-1", "yesterday");
    body["events"][0]["snapshot"] = Value::Null;

    assert_eq!(deliver(&destination, &body, false).await, 422);

    let invalid = destination.invalid();
    assert_eq!(invalid.len(), 2, "{invalid:?}");
    assert!(invalid.iter().any(|violation| violation.starts_with("/conversations/0/fetchedAt: ")));
    assert!(destination.deliveries().is_empty());
}

#[tokio::test]
async fn the_destination_rejects_wrong_tokens_chosen_conversations_and_large_bodies() {
    let destination = Destination::start(destination::Options {
        max_bytes: Some(2000),
        ..destination::Options::default()
    })
    .unwrap();
    let body = delivery("e-1", "2025-02-03T15:04:05Z");

    let unauthorized = client().post(destination.url()).json(&body).send().await.unwrap();
    assert_eq!(unauthorized.status(), 401);
    destination.refuse("c-1", StatusCode::BAD_REQUEST);
    assert_eq!(deliver(&destination, &body, false).await, 400);
    destination.accept();
    destination.fault(Fault::status(503).times(1));
    assert_eq!(deliver(&destination, &body, false).await, 503);
    let mut large = body.clone();
    large["organization"] = "x".repeat(2000).into();
    assert_eq!(deliver(&destination, &large, true).await, 413);
    assert!(destination.deliveries().is_empty());

    assert_eq!(deliver(&destination, &body, false).await, 200);
    assert!(destination.invalid().is_empty());
}

#[tokio::test]
async fn waiting_ends_at_the_timeout() {
    let gladly = gladly();
    assert!(!gladly.wait_for(|_| false, Duration::from_millis(10)).await);
}

#[tokio::test]
async fn dropping_a_server_closes_its_connections() {
    let gladly = gladly();
    gladly.fault(Fault::hang());
    let hung = tokio::spawn(request(&gladly, "GET", "/api/v1/agents").send());
    assert!(gladly.wait_for(|gladly| gladly.traffic().count("") == 1, SOON).await);
    let next = request(&gladly, "GET", "/api/v1/agents");

    drop(gladly);

    assert!(hung.await.unwrap().is_err());
    assert!(next.send().await.is_err());
}

#[tokio::test]
async fn fifty_of_each_run_in_parallel() {
    let pairs = (0..50).map(|_| {
        tokio::spawn(async {
            let gladly = gladly();
            let destination = Destination::start(destination::Options::default()).unwrap();
            gladly.organization().add_conversation("c-1", "u-1", []);
            let body = delivery("e-1", "2025-02-03T15:04:05Z");
            let fetched = fetch(&gladly, "/api/v1/conversations/c-1").await.status();
            (fetched, deliver(&destination, &body, false).await)
        })
    });
    for pair in pairs.collect::<Vec<_>>() {
        assert_eq!(pair.await.unwrap(), (StatusCode::OK, StatusCode::OK));
    }
}

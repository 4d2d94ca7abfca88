//! Deliveries, and how the destination's responses are handled.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use futures::future::join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};
use testing::{destination::Delivery, fault::Fault};

use crate::{DESTINATION_TOKEN, FIRST_BACKOFF, TestApp, record};

fn conversations(app: &TestApp, count: usize) -> Vec<Value> {
    (0..count).map(|n| app.conversation(&format!("c-{n}"))).collect()
}

#[tokio::test]
async fn a_delivery_matches_the_contract() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.extract(&[event]).await.is_done();

    let delivery = app.destination.deliveries().remove(0);
    let header = |name| delivery.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("content-encoding"), None);
    assert_eq!(header("user-agent"), Some(concat!("gladly-relay/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(header("idempotency-key"), delivery.body["id"].as_str());
    assert_eq!(header("authorization"), Some(&*format!("Bearer {DESTINATION_TOKEN}")));
    assert_eq!(delivery.body["schema"], "gladly-relay/delivery/1");
    let host = app.gladly.url().strip_prefix("http://").unwrap();
    assert_eq!(delivery.body["organization"], host);
    let conversation = &delivery.body["conversations"][0];
    assert_eq!(conversation["inbox"]["name"], app.gladly.organization().inboxes[0]["name"]);
    assert_eq!(conversation["agent"]["name"], app.gladly.organization().agents[0]["name"]);
    assert_eq!(conversation["topics"][0]["name"], app.gladly.organization().topics[0]["name"]);
    assert_eq!(conversation["items"][0]["text"], "Hello from c-1");
    assert_eq!(conversation["items"][0]["author"]["kind"], "customer");
    assert_eq!(conversation["customer"]["emails"], json!(["sample.customer@example.com"]));
    assert_eq!(conversation["customer"]["phones"], json!(["+15555550100"]));
    let text = delivery.body.to_string();
    assert!(!text.contains("null"), "absent fields are left out: {text}");
}

#[tokio::test]
async fn the_same_delivery_has_the_same_id_in_every_attempt() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.destination.fault(Fault::lost().times(2));
    app.extract([&event]).await.is_done();
    let deliveries = app.destination.deliveries();
    assert_eq!(deliveries.len(), 3, "accepted, but the answers were lost");
    assert!(deliveries.iter().all(|delivery| delivery.body == deliveries[0].body));
}

#[tokio::test]
async fn an_idempotency_key_is_never_reused_for_other_bytes() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    // Accepted, but the response is lost: each invocation sends the event again, and the last one twice.
    app.destination.fault(Fault::lost().times(6));
    app.destination.fault(Fault::lost().after(1).times(1));
    for _ in 0..2 {
        app.extract([&event]).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    }
    app.gladly.fault(Fault::status(404).on("GET /api/v1/conversations/**"));
    let seen_before = record(0, &event).received(2).sent_ago(SignedDuration::from_mins(10));
    for _ in 0..2 {
        app.batch(std::slice::from_ref(&seen_before)).await.is_done();
    }
    let deliveries = app.destination.deliveries();
    let snapshots = |delivery: &Delivery| delivery.body["events"][0]["snapshot"].clone();
    let snapshots: Vec<_> = deliveries.iter().map(snapshots).collect();
    assert_eq!(snapshots[..6], [(); 6].map(|()| json!("included")));
    assert!(
        snapshots[6..].iter().all(|snapshot| *snapshot == "gone") && snapshots.len() >= 8,
        "{snapshots:?}"
    );
    let mut bodies = BTreeMap::new();
    for Delivery { headers, body, .. } in &deliveries {
        let key = headers["idempotency-key"].to_str().unwrap();
        assert_eq!(body["id"], key);
        assert_eq!(bodies.entry(key).or_insert(body), &body, "{key}");
    }
    assert_eq!(bodies.len(), 4, "one key an invocation");
}

#[tokio::test]
async fn settings_control_compression_the_token_header_and_omitted_fields() {
    let app = TestApp::with(&[
        ("DESTINATION_GZIP", "true"),
        ("DESTINATION_TOKEN_HEADER", "X-Api-Key"),
        ("FORWARD_CUSTOMER_CONTACT", "false"),
        ("FORWARD_NOTES", "false"),
    ]);
    let event = app.conversation("c-1");
    let note = {
        let mut at_gladly = app.gladly.organization();
        at_gladly.add_item("c-1", json!({"type": "EMAIL", "from": "sam@example.com", "to": ["help@example.com"], "cc": ["x@example.com"], "subject": "Shoes", "content": "Too small"}));
        at_gladly.add_item("c-1", json!({"type": "TEXT", "customerAddress": "+1555", "content": {"text": "hi", "from": "deep"}}));
        at_gladly.event("CONVERSATION/NOTE_CREATED", "c-1")
    };
    app.extract(&[event, note]).await.is_done();

    let delivery = app.destination.deliveries().remove(0);
    assert_eq!(delivery.headers["content-encoding"], "gzip");
    assert!(delivery.wire_bytes < delivery.bytes);
    assert_eq!(delivery.headers["x-api-key"], DESTINATION_TOKEN);
    let conversation = &delivery.body["conversations"][0];
    let customer = conversation["customer"].as_object().unwrap();
    assert_eq!(
        customer.keys().collect::<BTreeSet<_>>(),
        BTreeSet::from([&"customAttributes".into(), &"id".into(), &"name".into()])
    );
    let items = conversation["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["type"] != "CONVERSATION_NOTE"));
    let email = items.iter().find(|item| item["type"] == "EMAIL").unwrap();
    assert_eq!((&email["subject"], &email["text"]), (&json!("Shoes"), &json!("Too small")));
    let text = conversation.to_string();
    for contact in ["sam@example.com", "x@example.com", "+1555", "deep"] {
        assert!(!text.contains(contact), "{contact} in {text}");
    }
}

#[tokio::test]
async fn deliveries_hold_at_most_100_conversations_and_a_megabyte() {
    let app = TestApp::new();
    let mut events = conversations(&app, 250);
    {
        let mut at_gladly = app.gladly.organization();
        for n in 0..10 {
            at_gladly.add_item(
                &format!("c-{n}"),
                json!({"type": "SMS", "content": "x".repeat(150_000)}),
            );
        }
        at_gladly.add_item("c-20", json!({"type": "SMS", "content": "y".repeat(1_500_000)}));
    }
    events.push(app.gladly.organization().event("CONVERSATION/CREATED", "c-20"));

    app.extract(&events).await.is_done();

    let deliveries = app.destination.deliveries();
    for delivery in &deliveries {
        let conversations = delivery.body["conversations"].as_array().unwrap();
        assert!(conversations.len() <= 100);
        assert!(
            delivery.bytes <= 1_000_000 || conversations.len() == 1,
            "{} bytes",
            delivery.bytes
        );
    }
    let large = deliveries.iter().find(|delivery| delivery.bytes > 1_500_000).unwrap();
    assert_eq!(large.body["events"].as_array().unwrap().len(), 2, "alone, whole, with its events");
    assert_eq!(app.destination.event_ids().len(), 251);
    assert!((4..=8).contains(&deliveries.len()), "{}", deliveries.len());
}

#[tokio::test]
async fn a_rejected_conversation_is_isolated_and_the_others_are_delivered() {
    for status in
        [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY]
    {
        let app = TestApp::new();
        let mut events = conversations(&app, 20);
        events.push(app.gladly.organization().event("CONVERSATION/CREATED", "c-7"));
        app.destination.refuse("c-7", status);

        app.extract(&events).await.is_done();

        assert_eq!(app.destination.conversations().len(), 19);
        let quarantined = app.quarantined();
        assert_eq!(quarantined.len(), 2, "both of its events");
        for (message, body) in &quarantined {
            assert_eq!(body["reason"], "rejected");
            assert_eq!(body["detail"], format!("the destination answered {}", status.as_u16()));
            assert_eq!(message.attributes, [("reason".to_owned(), "rejected".to_owned())]);
            assert!(body["raw"].as_str().unwrap().contains("c-7"));
        }
        assert!(app.destination.traffic().count("") <= 12, "halving");
    }
}

#[tokio::test]
async fn a_destination_that_rejects_everything_quarantines_nothing() {
    let app = TestApp::new();
    let events = conversations(&app, 60);
    app.destination.fault(Fault::status(422));
    let settled = app.extract(&events).await;
    assert_eq!(settled.kept.len(), 60);
    assert!(settled.visibility.values().all(|wait| FIRST_BACKOFF.contains(wait)));
    assert!(app.quarantined().is_empty());
    assert!(app.destination.traffic().count("") < 40, "it stops asking");

    let app = TestApp::new();
    let events = conversations(&app, 9);
    app.destination.fault(Fault::status(422));
    app.extract(&events).await.is_done();
    assert_eq!(app.quarantined().len(), 9, "nine may well be nine bad conversations");
}

#[tokio::test]
async fn everything_is_redelivered_after_an_unavailable_or_unwilling_destination() {
    let elsewhere =
        testing::destination::Destination::start(testing::destination::Options::default()).unwrap();
    let cases = [
        ("500", Fault::status(500), FIRST_BACKOFF),
        ("503 with a wish", Fault::status(503).header("retry-after", "90"), 90..=90),
        (
            "429 with a date long past",
            Fault::status(429).header("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"),
            FIRST_BACKOFF,
        ),
        ("429 with nonsense", Fault::status(429).header("retry-after", "soon"), FIRST_BACKOFF),
        ("408", Fault::status(408), FIRST_BACKOFF),
        ("401", Fault::status(401), FIRST_BACKOFF),
        ("403", Fault::status(403), FIRST_BACKOFF),
        ("404", Fault::status(404), FIRST_BACKOFF),
        ("a redirect", Fault::redirect(307, elsewhere.url()), FIRST_BACKOFF),
        ("a closed connection", Fault::reset(), FIRST_BACKOFF),
    ];
    join_all(cases.map(async |(name, fault, wait)| {
        let app = TestApp::new();
        let events = conversations(&app, 3);
        app.destination.fault(fault);
        app.extract(&events).await.assert_returned(&["m-0", "m-1", "m-2"], wait);
        assert!(app.quarantined().is_empty(), "{name}");
        // `breaker` tests how an open breaker closes.
        let opens = ["401", "403", "404", "a redirect"].contains(&name);
        let breaker = app.aws.state().parameters.contains_key("/relay/pause-breaker");
        assert_eq!(breaker, opens, "{name}");
        if !opens {
            app.destination.traffic().clear_faults();
            app.extract(&events).await.is_done();
            assert_eq!(app.destination.event_ids().len(), 3, "{name}");
        }
    }))
    .await;
    assert_eq!(elsewhere.traffic().count(""), 0, "redirects are never followed");
}

#[tokio::test]
async fn a_2xx_is_a_delivery_whatever_its_body() {
    let cut = |status| Fault::status(status).body("x").header("content-length", "9");
    for (name, fault) in [
        ("1 MiB and more", Fault::large(1)),
        ("60 MiB", Fault::large(60)),
        ("a broken body", Fault::cut()),
        ("a 201 that is cut", cut(201)),
        ("a 299 that is no JSON", Fault::status(299).body("<html>")),
        ("a 204", Fault::status(204)),
    ] {
        let app = TestApp::new();
        let event = app.conversation("c-1");
        app.destination.fault(fault);
        app.extract(&[event]).await.is_done();
        assert_eq!(app.destination.traffic().count(""), 1, "{name}");
    }
}

#[tokio::test]
async fn a_status_counts_even_if_its_body_is_cut() {
    let cut = |status| Fault::status(status).body("x").header("content-length", "9");
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.destination.fault(cut(422));
    app.extract(&[event]).await.is_done();
    assert_eq!((app.quarantined().len(), app.destination.traffic().count("")), (1, 1));

    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.destination.fault(cut(503).header("retry-after", "90"));
    app.extract(&[event]).await.assert_returned(&["m-0"], 90..=90);

    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.gladly.fault(cut(429).header("retry-after", "120"));
    app.extract(&[event]).await.assert_returned(&["m-0"], 110..=120);
}

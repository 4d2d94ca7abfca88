//! Deliveries in a bucket of the emulated S3, read back by DuckDB with the statements of docs/DESTINATIONS.md.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use local::{
    bucket::{Bucket, Objects},
    stack::{Function, Settings},
};
use serde_json::{Value, json};
use testing::{destination::violations, reader::Reader, root};

use crate::{TestApp, eventually};

const PREFIX: &str = "gladly/relay";

fn folder() -> PathBuf {
    root().join(".local/e2e-bucket")
}

/// The ids of a query's rows.
fn ids(objects: &Objects, folder: &Path, query: &str) -> Vec<String> {
    let rows = objects.query(folder, PREFIX, query).unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

fn compressed(lines: &[Value]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for line in lines {
        writeln!(encoder, "{line}").unwrap();
    }
    encoder.finish().unwrap()
}

/// Lines of tombstones about the test's conversations and customers.
fn tombstones() -> [Value; 5] {
    let tombstones = [
        json!({"kind": "customer-merged", "eventId": "t-1", "from": "u-c-1", "into": "u-8", "at": "2026-01-01T00:00:00.000Z"}),
        json!({"kind": "customer-merged", "eventId": "t-2", "from": "u-8", "into": "u-9", "at": "2026-01-01T00:00:00.000Z"}),
        json!({"kind": "customer-deleted", "eventId": "t-3", "customerId": "u-9", "at": "2199-01-01T00:00:00.000Z"}),
        json!({"kind": "conversation-merged", "eventId": "t-4", "from": "c-2", "into": "c-3", "at": "2026-01-01T00:00:00.000Z"}),
        json!({"kind": "customer-deleted", "eventId": "t-5", "customerId": "u-c-4", "at": "2020-01-01T00:00:00.000Z"}),
    ];
    tombstones.map(|mut tombstone| {
        tombstone["schema"] = json!("gladly-relay/delivery/1");
        tombstone["organization"] = json!("acme.gladly.com");
        tombstone["deliveryId"] = json!("0".repeat(64));
        tombstone
    })
}

/// Only a stack with a bucket may write to it, and with its key; updates the stack to one.
async fn check_permissions(app: &TestApp, settings: &mut Settings) {
    let policies = app.stack.role_policies(Function::Extractor).await.unwrap().concat();
    assert!(policies.contains("destination-token"), "{policies}");
    for absent in ["s3", "GenerateDataKey"] {
        let action = format!("{absent}%3A");
        assert!(!policies.contains(&action), "a stack that posts deliveries: {policies}");
    }
    *settings = settings.clone().with(
        "DestinationKeyArn",
        "arn:aws:kms:us-east-1:000000000000:key/1a2b3c4d-0000-4000-8000-000000000000",
    );
    app.stack.update(settings).await.unwrap();
    let policies = app.stack.role_policies(Function::Extractor).await.unwrap().concat();
    for part in [
        "s3%3APutObject",
        "arn%3Aaws%3As3%3A%3A%3Ae2e-deliveries/gladly/relay/%2A",
        "kms%3AGenerateDataKey",
    ] {
        let plain = policies.replace("%2F", "/");
        assert!(plain.contains(part), "{part}: {policies}");
    }
    assert!(!policies.contains("destination-token"), "{policies}");
}

#[tokio::test]
async fn what_the_functions_write_to_a_bucket_is_read_back_by_duckdb() {
    const SHOWN: &str = "SELECT id FROM conversations ORDER BY id";
    let app = TestApp::new("bucket").await;
    let emulator = app.stack.aws().emulator();
    let bucket = Bucket::create(emulator, "e2e-deliveries").await.unwrap();
    let mut settings = Settings {
        destination_url: format!("s3://e2e-deliveries/{PREFIX}"),
        ..app.settings.clone()
    };
    check_permissions(&app, &mut settings).await;
    app.stack.delete_parameter("/bucket/destination-token").await.unwrap();

    let mut events = app.queue_all(&["c-1", "c-2", "c-3", "c-4"]).await;
    let written = async |events: &[String]| {
        let wanted: BTreeSet<_> = events.iter().map(String::as_str).collect();
        eventually("the events are written", async || {
            let lines = bucket.objects().await.unwrap().lines("events").unwrap();
            let found: BTreeSet<_> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
            found.is_superset(&wanted)
        })
        .await;
    };
    written(&events).await;
    app.settled().await;
    // A newer snapshot of one, and an event that comes again.
    let more = app.gladly.organization().event("CONVERSATION/REOPENED", "c-1");
    for event in [&more, &more] {
        app.queue(event).await;
    }
    events.push(more["id"].as_str().unwrap().to_owned());
    written(&events).await;
    app.settled().await;

    let objects = bucket.objects().await.unwrap();
    let deliveries = objects.deliveries().unwrap();
    let mut reader = Reader::default();
    for delivery in &deliveries {
        assert_eq!(violations(delivery), Vec::<String>::new());
        reader.take(delivery);
    }
    assert!(deliveries.len() >= 2);
    let folder = folder();
    let query = "SELECT id, snapshot->>'$.fetchedAt' AS at, snapshot->>'$.items[0].text' AS text \
                 FROM conversations ORDER BY id";
    let rows = objects.query(&folder, PREFIX, query).unwrap();
    let expected: Vec<_> = reader
        .conversations()
        .iter()
        .map(|(id, it)| json!({"id": id, "at": it["fetchedAt"], "text": it["items"][0]["text"]}))
        .collect();
    assert_eq!(rows, expected, "the newest snapshot of each conversation");
    assert_eq!(rows.len(), 4);
    let seen = ids(&objects, &folder, "SELECT id FROM events");
    assert_eq!(seen.len(), 5, "each event once: {seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), events.into_iter().collect());

    // A deletion that the functions bring.
    let deletion = json!({
        "id": "deletion", "type": "CUSTOMER_PROFILE/DELETED", "timestamp": jiff::Timestamp::now().to_string(),
        "content": {"customerId": "u-c-3"},
    });
    app.queue(&deletion).await;
    eventually("the tombstone is written", async || {
        let tombstones = bucket.objects().await.unwrap().lines("tombstones").unwrap();
        tombstones.iter().any(|tombstone| tombstone["customerId"] == "u-c-3")
    })
    .await;
    let objects = bucket.objects().await.unwrap();
    assert_eq!(ids(&objects, &folder, SHOWN), ["c-1", "c-2", "c-4"]);

    // Merges, and deletions of merged customers, as the functions write them.
    let lines = tombstones();
    let partition = format!("{PREFIX}/tombstones/organization=acme.gladly.com/date=2199-01-01");
    bucket.put(&format!("{partition}/t.ndjson.gz"), compressed(&lines)).await.unwrap();
    let objects = bucket.objects().await.unwrap();
    let mut reader = Reader::default();
    objects.deliveries().unwrap().iter().for_each(|delivery| reader.take(delivery));
    let shown = ids(&objects, &folder, SHOWN);
    assert!(shown.iter().eq(reader.conversations().keys()), "as a reader of deliveries: {shown:?}");
    assert_eq!(
        shown,
        ["c-4"],
        "merged and deleted, merged away, deleted, fetched after a deletion"
    );
    app.end().await;
}

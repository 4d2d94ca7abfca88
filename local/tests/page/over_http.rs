//! The page and its state, as HTTP serves them.

use reqwest::header::HOST;
use serde_json::{Value, json};

use crate::{deletion, with_page};

/// The row of an event.
fn row<'a>(state: &'a Value, event: &str) -> &'a Value {
    let rows = state["webhooks"].as_array().unwrap();
    rows.iter().find(|row| row["event"] == event).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_state_follows_each_webhook_to_its_end() {
    with_page("page-state", async |app| {
        app.add("c-1", "Sample Customer", "Where is my order?");
        let delivered = app.emit("CONTACT/MESSAGE_RECEIVED", "c-1").await;
        app.arrived(&delivered).await;
        let state = app.state("?conversation=c-1").await;
        assert_eq!(state["extraction"]["state"], "running", "{state}");
        let shown = row(&state, &delivered);
        assert_eq!((&shown["state"], &shown["via"]), (&json!("delivered"), &json!("gladly")));
        let answer = json!([{"number": 1, "status": 200, "answer": "queued"}]);
        assert_eq!(shown["attempts"], answer);
        assert_eq!(state["deliveries"][0]["id"], shown["delivery"]);
        let open = &state["conversation"];
        assert_eq!(open["snapshot"]["items"][0]["text"], "Where is my order?");
        assert_eq!(open["events"][0]["event"]["id"], delivered.as_str());

        app.pause().await;
        let held = app.emit("CONVERSATION/CLOSED", "c-1").await;
        let state = app.state("").await;
        assert_eq!(state["extraction"]["by"], "ada");
        assert_eq!((&row(&state, &held)["state"], &state["backlog"]["total"]), (&json!("held"), &json!(1)));
        assert_eq!(state["conversation"], Value::Null, "none is open");

        let invalid = app.emit("CONVERSATION/CLOSED", "../agents").await;
        let state = app.state("").await;
        assert_eq!(row(&state, &invalid)["state"], "quarantined", "{state}");

        app.bury(json!([deletion("e-deleted", "u-c-1")])).await;
        let state = app.state("?conversation=c-1").await;
        assert_eq!(row(&state, "e-deleted")["state"], "tombstone");
        assert_eq!(state["tombstones"][0]["customerId"], "u-c-1");
        let void = json!({"id": "c-1", "void": "its customer was deleted", "customer": null, "status": null, "fetchedAt": null});
        assert_eq!(state["conversations"], json!([void]));
        assert_eq!(state["conversation"]["snapshot"], Value::Null);
        assert!(!state.to_string().contains("Where is my order?"));
    })
    .await;
}

#[tokio::test]
async fn it_is_served_under_this_machines_names_alone() {
    with_page("page-host", async |app| {
        let port = app.url.rsplit(':').next().unwrap().to_owned();
        for path in ["/", "/page.js", "/page.css", "/state"] {
            let get = |host: String| app.http.get(format!("{}{path}", app.url)).header(HOST, host);
            for host in ["127.0.0.1", "localhost", "LOCALHOST"] {
                let response = get(format!("{host}:{port}")).send().await.unwrap();
                assert_eq!(response.status(), 200, "{path} of {host}");
                let policy = response.headers()["content-security-policy"].to_str().unwrap();
                assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
                assert_eq!(response.headers()["x-content-type-options"], "nosniff");
                assert_eq!(response.headers()["cross-origin-resource-policy"], "same-origin");
            }
            for host in ["example.org", "127.0.0.1", "127.0.0.1.example.org", "localhost:1", ""] {
                let host =
                    if host.contains('.') { format!("{host}:{port}") } else { host.to_owned() };
                if host == format!("127.0.0.1:{port}") {
                    continue;
                }
                let response = get(host.clone()).send().await.unwrap();
                assert_eq!(response.status(), 403, "{path} of {host}");
                assert!(!response.text().await.unwrap().contains("webhooks"));
            }
        }
        let missing = app.http.get(format!("{}/other", app.url)).send().await.unwrap();
        assert_eq!(missing.status(), 404);
    })
    .await;
}

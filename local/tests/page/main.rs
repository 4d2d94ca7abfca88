//! The page: over HTTP, and in a real browser where one is installed ("make page" installs it).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod browser;
mod in_browser;

use std::time::Duration;

use axum::Router;
use jiff::{SignedDuration, Timestamp};
use local::{
    local_stack::LocalStack,
    page::{Page, Sources},
    stack::{Artifacts, EmulatedAws, Stack},
};
use reqwest::{Client, header::HOST};
use serde_json::{Value, json};
use testing::{destination::Destination, gladly::Gladly};
use tokio::{select, sync::OnceCell};

/// The longest that a step may take: the machine may be busy.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// The AWS of all tests. A static is never dropped: the emulator ends when this process does, in any way.
async fn aws() -> &'static EmulatedAws {
    static AWS: OnceCell<EmulatedAws> = OnceCell::const_new();
    let start =
        async || EmulatedAws::start("page", &Artifacts::build().await.unwrap()).await.unwrap();
    AWS.get_or_init(start).await
}

/// A relay with its page.
struct TestApp<'a> {
    name: String,
    stack: &'a Stack<'a>,
    gladly: &'a Gladly,
    destination: &'a Destination,
    /// The header that a delivery must have.
    token: String,
    url: String,
    http: Client,
}

/// Runs a test beside a page.
async fn with_page(name: &str, test: impl AsyncFnOnce(TestApp<'_>)) {
    let LocalStack { gladly, destination, settings } = LocalStack::start(6, 1.0).unwrap();
    let stack = aws().await.deploy(name, &settings).await.unwrap();
    gladly.subscribe(stack.webhook_url(), &[("x-api-key", &settings.webhook_keys[0])]);
    let page = Page::bind(0).await.unwrap();
    let app = TestApp {
        name: name.to_owned(),
        stack: &stack,
        gladly: &gladly,
        destination: &destination,
        token: format!("Bearer {}", settings.destination_token),
        url: page.url(),
        http: Client::builder().no_proxy().build().unwrap(),
    };
    let commands = ["make resume".to_owned()];
    let (gladly, destination) = (&gladly, &destination);
    let sources = Sources { gladly, destination, stack: &stack, commands: &commands };
    select! {
        () = test(app) => {}
        ended = page.serve(sources, Router::new()) => panic!("the page ended: {ended:?}"),
    }
    assert_eq!(destination.invalid(), Vec::<String>::new(), "deliveries fit the schema");
    stack.delete().await.unwrap();
}

impl TestApp<'_> {
    async fn state(&self, query: &str) -> Value {
        let response = self.http.get(format!("{}/state{query}", self.url)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// Adds a conversation with one message of its own customer.
    fn add(&self, conversation: &str, name: &str, message: &str) {
        let mut organization = self.gladly.organization();
        let customer = format!("u-{conversation}");
        organization.add_customer(&customer, json!({ "name": name }));
        let sms = json!({"type": "SMS", "from": "+15555550100", "to": "+1", "content": message});
        organization.add_conversation(conversation, &customer, [sms]);
    }

    /// Emits an event, waits until the relay has answered, and returns the event's id.
    async fn emit(&self, kind: &str, conversation: &str) -> String {
        let event = self.gladly.emit(kind, conversation)["id"].as_str().unwrap().to_owned();
        let answered = |gladly: &Gladly| {
            gladly.attempts().iter().any(|it| it.event == event && it.status.is_some())
        };
        assert!(self.gladly.wait_for(answered, WAIT_TIMEOUT).await, "{kind} is answered");
        event
    }

    async fn arrived(&self, event: &str) {
        let arrived = |destination: &Destination| destination.times(event) > 0;
        assert!(self.destination.wait_for(arrived, WAIT_TIMEOUT).await, "{event} arrives");
    }

    async fn pause(&self) {
        let document = json!({"state": "paused", "by": "ada", "reason": "moving the destination"});
        self.stack.set_pause(&document.to_string()).await.unwrap();
    }

    /// Delivers tombstones, as the relay does when Gladly has deleted or merged something.
    async fn bury(&self, tombstones: Value) {
        let id = format!("{:064x}", fastrand::u128(..));
        let delivery = json!({
            "schema": "gladly-relay/delivery/1", "id": id, "organization": "127.0.0.1",
            "sentAt": Timestamp::now(), "events": [], "conversations": [], "tombstones": tombstones,
        });
        let request = self.http.post(format!("{}/deliveries", self.destination.url()));
        let request = request.header("authorization", &self.token).header("idempotency-key", id);
        assert_eq!(request.json(&delivery).send().await.unwrap().status(), 200);
    }
}

/// A customer's deletion, certain from a moment ahead on.
fn deletion(event: &str, customer: &str) -> Value {
    let at = Timestamp::now() + SignedDuration::from_secs(35);
    json!({"kind": "customer-deleted", "eventId": event, "customerId": customer, "at": at})
}

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
async fn it_is_served_under_this_machines_names_alone_and_runs_no_other_script() {
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

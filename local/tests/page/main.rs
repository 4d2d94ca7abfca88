//! The page: over HTTP, and in a real browser where one is installed ("make page" installs it).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod browser;
mod in_browser;
mod over_http;

use std::time::Duration;

use axum::Router;
use jiff::{SignedDuration, Timestamp};
use local::{
    local_stack::LocalStack,
    page::{Page, Sources},
    stack::{Artifacts, EmulatedAws, Function, Stack},
};
use reqwest::Client;
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
    let commands = ["make pause REASON='trying it out'", "make resume"].map(str::to_owned);
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

    /// As the operator's program does it.
    async fn pause(&self) {
        let document = json!({"state": "paused", "by": "ada", "reason": "moving the destination"});
        self.stack.set_pause(&document.to_string()).await.unwrap();
        self.stack.invoke(Function::Extractor, &json!({"task": "reconcile"})).await.unwrap();
    }

    /// Delivers tombstones, as the relay does when Gladly has deleted or merged something.
    async fn bury(&self, tombstones: Value) {
        let id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
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

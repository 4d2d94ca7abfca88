//! Names of agents, topics and inboxes, which are optional: no conversation fails for them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testing::connector::Reply;
use tokio::time::{Duration, sleep};

use crate::{
    deadlines::{LEFT, TestApp, healthy_reply, records},
    settle,
};

/// Gladly's reply to a request for a list.
type List = fn() -> Reply;

/// Conversations have this agent, inbox and topic; the returned function sets the reply for lists.
fn with_lists(ids: Value) -> (TestApp, impl Fn(List)) {
    let lists = Arc::new(Mutex::new((|| Reply::json(json!([]))) as List));
    let app = TestApp::new({
        let lists = Arc::clone(&lists);
        move |path| match path {
            "api/v1/agents" | "api/v1/topics" | "api/v1/inboxes" => (lists.lock().unwrap())(),
            path if path.starts_with("api/v1/conversations/") && !path.ends_with("/items") => {
                Reply::json(ids.clone())
            }
            path => healthy_reply(path),
        }
    });
    (app, move |reply| *lists.lock().unwrap() = reply)
}

/// Delivers a conversation and returns its snapshot.
async fn snapshot(app: &TestApp) -> Value {
    settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
    let delivery: Value = serde_json::from_str(app.sent("deliveries").last().unwrap()).unwrap();
    delivery["conversations"][0].clone()
}

const GOOD: List = || {
    Reply::json(
        json!([{"id": "a", "name": "Ada"}, null, {"id": "b", "name": "Bo", "parentId": "a"}]),
    )
};

#[tokio::test(start_paused = true)]
async fn a_failing_list_of_names_costs_only_the_names() {
    let failures: [List; 11] = [
        || Reply::status(400),
        || Reply::status(401),
        || Reply::status(403),
        || Reply::status(404),
        || Reply::status(429),
        || Reply::status(500),
        || Reply::text("{}"),
        || Reply::text("null"),
        || Reply::text("<html>"),
        || Reply::text(String::new()),
        || Reply::Hang,
    ];
    for failure in failures {
        let ids =
            json!({"customerId": "u", "agentId": "a", "inboxId": "a", "topicIds": ["a", "b"]});
        let (app, lists) = with_lists(ids);
        lists(failure);
        let without = snapshot(&app).await;
        assert_eq!(without["agent"], json!({"id": "a"}));
        assert_eq!(without["inbox"], json!({"id": "a"}));
        assert_eq!(without["topics"], json!([{"id": "a"}, {"id": "b"}]));

        let before = app.times("api/v1/agents").len();
        snapshot(&app).await;
        assert_eq!(app.times("api/v1/agents").len(), before, "not with every conversation");

        sleep(Duration::from_mins(1)).await;
        lists(GOOD);
        let with = snapshot(&app).await;
        assert_eq!(with["agent"], json!({"id": "a", "name": "Ada"}));
        let topics =
            json!([{"id": "a", "name": "Ada"}, {"id": "b", "name": "Bo", "parentId": "a"}]);
        assert_eq!(with["topics"], topics);

        sleep(Duration::from_hours(2)).await;
        lists(failure);
        assert_eq!(snapshot(&app).await["topics"], topics, "the last good list");
        assert!(app.aws.state().writes.is_empty(), "no breaker opens for a list");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_name_is_fetched_immediately() {
    let ids = json!({"customerId": "u", "topicIds": ["b"]});
    let (app, lists) = with_lists(ids);
    lists(|| Reply::json(json!([{"id": "a", "name": "Ada"}])));
    let calls = || app.times("api/v1/topics").len();
    assert_eq!(snapshot(&app).await["topics"], json!([{"id": "b"}]));
    assert_eq!(calls(), 1);

    // An id that does not exist does not cause repeated calls.
    for _ in 0..5 {
        sleep(Duration::from_mins(2)).await;
        snapshot(&app).await;
    }
    assert_eq!(calls(), 1);
    sleep(Duration::from_hours(1)).await;
    lists(GOOD);
    assert_eq!(snapshot(&app).await["topics"][0]["name"], "Bo");
    assert_eq!(calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_refreshed_at_most_once_a_minute() {
    let count = Arc::new(Mutex::new(0));
    let app = TestApp::new({
        let count = Arc::clone(&count);
        move |path| match path {
            // Each call lists one more topic.
            "api/v1/topics" => {
                let mut count = count.lock().unwrap();
                *count += 1;
                let topic =
                    |n: usize| json!({"id": format!("t-{n}"), "name": format!("Topic {n}")});
                Reply::json((0..*count).map(topic).collect())
            }
            path if path.ends_with("/items") => Reply::json(json!([])),
            path if path.contains("/conversations/c-") => {
                let id = path.rsplit('-').next().unwrap();
                Reply::json(json!({"topicIds": [format!("t-{id}")]}))
            }
            path => healthy_reply(path),
        }
    });
    let name = async |n: usize| {
        let record = records(n + 1).remove(n);
        settle(&app.extractor, &app.aws, &[record], LEFT).await.is_done();
        let sent: Value = serde_json::from_str(app.sent("deliveries").last().unwrap()).unwrap();
        sent["conversations"][0]["topics"][0].get("name").cloned()
    };
    assert_eq!(name(0).await, Some(json!("Topic 0")));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(name(1).await, Some(json!("Topic 1")), "immediately");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(name(2).await, None, "not twice a minute");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(name(2).await, Some(json!("Topic 2")), "and not forgotten either");
    assert_eq!(app.times("api/v1/topics").len(), 3);
}

//! The circuit breaker: what opens it, what it holds, and how it heals.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use jiff::SignedDuration;
use local::aws::THROTTLED;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::{
    FIRST_WAIT, Settled, settle,
    time::{LEFT, Reply, World, records, working},
};

const BREAKER: &str = "/relay/pause-breaker";

impl World {
    fn breaker(&self) -> Value {
        let text = self.aws.state().parameters.get(BREAKER).cloned();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    /// A batch of events about as many conversations.
    async fn extract(&self, count: usize) -> Settled {
        settle(&self.extractor, &self.aws, &records(count), LEFT).await
    }
}

/// A world whose Gladly and destination answer with statuses that can be changed.
fn answering(gladly: u16, destination: u16) -> (World, Arc<[AtomicU16; 2]>) {
    let statuses = Arc::new([AtomicU16::new(gladly), AtomicU16::new(destination)]);
    let world = World::new({
        let statuses = Arc::clone(&statuses);
        move |path| match statuses[usize::from(path == "deliveries")].load(Ordering::Relaxed) {
            200 => working(path),
            status => Reply::Status(status, None),
        }
    });
    (world, statuses)
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_open_it_and_a_new_token_closes_it() {
    let (world, statuses) = answering(401, 200);
    sleep(Duration::from_secs(2)).await;
    let settled = world.extract(20).await;
    assert_eq!(settled.kept.len(), 20);
    assert!(settled.visibility.values().all(|wait| FIRST_WAIT.contains(wait)));
    let breaker = world.breaker();
    assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!("gladly")));
    assert_eq!(breaker["reason"], "Gladly refused our credentials with 401");
    assert_eq!(breaker["waitSeconds"], 60);

    let asked = world.times("").len();
    assert_eq!(world.extract(20).await.kept.len(), 20);
    assert_eq!(world.times("").len(), asked, "nobody is asked while it is open");
    let status = world.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("breaker"), &json!("Disabled")));
    assert_eq!(status["breaker"]["waitSeconds"], 60);
    assert_eq!(world.times("").len(), asked, "nor before it is time");

    // The token is still refused: the waits double up to an hour.
    let mut waits = Vec::new();
    for _ in 0..400 {
        world.task("reconcile").await;
        waits.push(world.breaker()["waitSeconds"].as_u64().unwrap());
        sleep(Duration::from_mins(1)).await;
    }
    waits.dedup();
    assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600]);
    assert!(world.times("organization").len() < 30, "{}", world.times("organization").len());
    assert_eq!(world.breaker()["since"], breaker["since"], "since it was opened first");

    // Replaced, it is tried at once, however long the wait.
    sleep(Duration::from_secs(2)).await;
    world.aws.put("/relay/gladly-token", "another-token");
    statuses[0].store(200, Ordering::Relaxed);
    let status = world.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("running"), &json!("Enabled")));
    assert_eq!(world.breaker(), json!({"state": "closed"}));
    sleep(Duration::from_secs(11)).await;
    world.extract(20).await.is_done();
    world.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_opens_it_and_one_that_cannot_be_read_just_now_does_not() {
    for (name, cause) in
        [("/relay/gladly-token", "gladly"), ("/relay/destination-token", "destination")]
    {
        let world = World::new(working);
        world.aws.state().parameters.remove(name);
        assert_eq!(world.extract(3).await.kept.len(), 3);
        assert_eq!(
            (&world.breaker()["state"], &world.breaker()["cause"]),
            (&json!("open"), &json!(cause))
        );

        sleep(Duration::from_secs(2)).await;
        world.aws.put(name, "a-token");
        let status = world.task("reconcile").await;
        assert_eq!(status["state"], "running", "{status}");
        sleep(Duration::from_secs(11)).await;
        world.extract(3).await.is_done();
        assert_eq!(world.breaker()["state"], "closed");
    }
    let world = World::new(working);
    world.extract(1).await.is_done();
    sleep(Duration::from_mins(2)).await;
    world.aws.state().ssm_fault = Some(THROTTLED);
    world.extract(1).await.is_done();
    assert_eq!(world.breaker(), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn an_outage_opens_it_after_two_minutes_and_two_conversations() {
    for (gladly, destination, cause) in [(503, 200, "gladly"), (200, 503, "destination")] {
        // One conversation is no outage, however long.
        let (world, _) = answering(gladly, destination);
        for _ in 0..10 {
            assert_eq!(world.extract(1).await.kept.len(), 1);
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(world.breaker(), Value::Null);
        world.extract(2).await;
        let breaker = world.breaker();
        assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!(cause)));
        assert!(breaker["reason"].as_str().unwrap().contains("503"), "{breaker}");

        // Nor are two minutes in which something succeeds.
        let (world, statuses) = answering(gladly, destination);
        for round in 0..10 {
            let side = usize::from(cause == "destination");
            statuses[side].store(if round % 2 == 0 { 503 } else { 200 }, Ordering::Relaxed);
            world.extract(3).await;
            sleep(Duration::from_secs(61)).await;
        }
        assert_eq!(world.breaker(), Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_tried_half_open() {
    let (world, statuses) = answering(200, 403);
    assert_eq!(world.extract(3).await.kept.len(), 3);
    assert_eq!(world.breaker()["reason"], "the destination answered 403");
    for wait in [60, 120, 240] {
        assert_eq!(world.breaker()["state"], "open");
        assert_eq!(world.breaker()["waitSeconds"], wait);
        sleep(Duration::from_secs(wait + 1)).await;
        let status = world.task("reconcile").await;
        assert_eq!((&status["state"], &status["mapping"]), (&json!("running"), &json!("Enabled")));
        assert_eq!(world.breaker()["state"], "half-open");
        // A failure that passes is enough now, without any two minutes.
        statuses[1].store(503, Ordering::Relaxed);
        assert_eq!(world.extract(3).await.kept.len(), 3);
    }
    sleep(Duration::from_hours(1)).await;
    world.task("reconcile").await;
    statuses[1].store(200, Ordering::Relaxed);
    world.extract(3).await.is_done();
    assert_eq!(world.breaker(), json!({"state": "closed"}));
    // Closed, it takes two minutes again.
    statuses[1].store(503, Ordering::Relaxed);
    world.extract(3).await;
    assert_eq!(world.breaker()["state"], "closed");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_everything_opens_it() {
    let (world, _) = answering(200, 422);
    assert_eq!(world.extract(12).await.kept.len(), 12);
    assert_eq!(world.breaker()["reason"], "the destination refuses every conversation");
    assert!(world.aws.state().messages.is_empty(), "nothing is put aside");
}

#[tokio::test(start_paused = true)]
async fn what_opens_it_exhausts_no_event() {
    for (gladly, destination) in [(401, 200), (200, 401), (200, 302)] {
        let (world, _) = answering(gladly, destination);
        let old: Vec<_> = records(3)
            .into_iter()
            .map(|record| record.received(50).since(SignedDuration::from_hours(40)))
            .collect();
        let settled = settle(&world.extractor, &world.aws, &old, LEFT).await;
        assert_eq!(settled.kept.len(), 3, "{gladly} {destination}");
        assert_eq!(world.breaker()["state"], "open");
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_beside_the_operators_pause_and_lifts_none() {
    let (world, statuses) = answering(401, 200);
    world.extract(2).await;
    world.aws.put("/relay/pause", "paused");
    sleep(Duration::from_mins(2)).await;
    statuses[0].store(200, Ordering::Relaxed);
    let status = world.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("paused"), &json!("Disabled")));
    assert_eq!(world.breaker()["state"], "closed");
    assert_eq!(world.extract(2).await.kept.len(), 2);
    world.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_not_ours_holds_until_the_controller_mends_it() {
    let world = World::new(working);
    world.aws.put(BREAKER, "{\"state\":\"ajar\"}");
    assert_eq!(world.extract(2).await.kept.len(), 2);
    assert_eq!(world.task("reconcile").await["state"], "running");
    sleep(Duration::from_secs(11)).await;
    world.extract(2).await.is_done();
    // What the operator closes by hand is closed.
    world.aws.put(BREAKER, r#"{"state":"closed"}"#);
    world.extract(2).await.is_done();
}

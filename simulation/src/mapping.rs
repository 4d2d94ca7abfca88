//! The event source mapping: it polls, gathers, invokes, and deletes what did not fail.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::{aws::Received, record::SqsRecord};
use tokio::time::{sleep, timeout};

use crate::{
    function::{Failure, Function},
    world::World,
};

/// `BatchSize`, as the template has it.
const BATCH_SIZE: usize = 500;
/// `MaximumBatchingWindowInSeconds`, as the template has it.
const BATCHING_WINDOW: Duration = Duration::from_secs(5);
/// Lambda looks for messages about this often while it finds none.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Polls for as long as the world lasts. There are two of these: `MaximumConcurrency`.
pub(crate) async fn poll(world: Arc<World>, function: Arc<Function>) {
    loop {
        match polling(&world) {
            Ok(()) => {}
            Err(wait) => {
                // A switch rings; the wait is for transitions, which do not ring.
                let _ = timeout(wait, world.switched.notified()).await;
                continue;
            }
        }
        let batch = gather(&world).await;
        if batch.is_empty() {
            sleep(IDLE_POLL_INTERVAL + world.time_between(0, 500)).await;
        } else if world.goes_wrong(world.plan.throttles) {
            // Received all the same: it comes back after the queue's own visibility timeout.
            world.count("throttled batches");
            world.note(|| format!("a batch of {} is throttled", batch.len()));
        } else {
            work(&world, &function, batch).await;
        }
    }
}

/// Whether messages are handed to the function now, or how long they are not.
fn polling(world: &World) -> Result<(), Duration> {
    let now = world.now();
    let (enabled, settles_at) = {
        let mapping = &world.aws.state().mapping;
        (mapping.enabled, mapping.settles_at)
    };
    let settling = Duration::try_from(settles_at.duration_since(now)).unwrap_or_default();
    if enabled {
        return if settling.is_zero() { Ok(()) } else { Err(settling) };
    }
    // Now and then it goes on for a while after its state says that it does not.
    let ms = settles_at.as_millisecond();
    let lag = if ms % 3 == 0 { ms / 3 % 60_000 } else { 0 };
    if settling.is_zero() && now.duration_since(settles_at) >= SignedDuration::from_millis(lag) {
        return Err(Duration::from_mins(10));
    }
    if settling.is_zero() {
        world.count("polls of a mapping that says Disabled");
    }
    Ok(())
}

async fn gather(world: &World) -> Vec<Received> {
    let most = if world.goes_wrong(0.3) { world.state().rng.usize(1..20) } else { BATCH_SIZE };
    let window = world.elapsed() + BATCHING_WINDOW;
    let mut batch = Vec::new();
    while batch.len() < most {
        let received = world.aws.state().receive("events", 10, None, world.now());
        match received {
            Ok(received) if !received.is_empty() => batch.extend(received),
            _ if batch.is_empty() || world.elapsed() >= window => break,
            _ => sleep(Duration::from_secs(1)).await,
        }
    }
    // One message is never twice in a batch.
    let mut seen = BTreeSet::new();
    batch.retain(|message| seen.insert(message.id.clone()));
    batch
}

async fn work(world: &World, function: &Function, batch: Vec<Received>) {
    world.count("batches");
    world.note(|| format!("a batch of {}: {}", batch.len(), ids(&batch)));
    let records: Vec<_> = batch.iter().map(|message| SqsRecord::from(message).to_json()).collect();
    let answer = match function.invoke(&json!({"Records": records})).await {
        Ok((_, answer)) => answer,
        Err(failure) => {
            if let Failure::Refused(why) = failure {
                world.note(|| format!("the batch fails: {why}"));
            }
            return;
        }
    };
    let failed = failures(&answer, &batch);
    world.note(|| format!("the batch is done, {} stay", failed.len()));
    let now = world.now();
    for message in batch.iter().filter(|message| !failed.contains(message.id.as_str())) {
        // A deletion that fails leaves the message for another time.
        if world.goes_wrong(0.002) {
            world.count("deletions that failed");
        } else {
            world.aws.state().delete(&message.receipt, now);
        }
    }
}

/// The ids that stay in the queue, read as Lambda reads them: by these very names, no list or an
/// empty one means that nothing failed, and an id that is not one of the batch means that all did.
fn failures<'a>(answer: &'a Value, batch: &'a [Received]) -> BTreeSet<&'a str> {
    let known: BTreeSet<_> = batch.iter().map(|message| message.id.as_str()).collect();
    let Some(listed) = answer["batchItemFailures"].as_array() else { return BTreeSet::new() };
    let listed: Option<BTreeSet<_>> = listed
        .iter()
        .map(|item| item["itemIdentifier"].as_str().filter(|id| known.contains(id)))
        .collect();
    listed.unwrap_or(known)
}

fn ids(batch: &[Received]) -> String {
    let ids = batch.iter().map(|message| format!("{}×{}", message.id, message.receives));
    ids.collect::<Vec<_>>().join(" ")
}

/// When a mapping that was switched by hand settles.
pub(crate) fn settled(rng: &mut fastrand::Rng, now: Timestamp) -> Timestamp {
    now + SignedDuration::from_millis(rng.i64(1_000..60_000))
}

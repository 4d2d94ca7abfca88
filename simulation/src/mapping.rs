//! The event source mapping: it polls, batches, invokes, and deletes what did not fail.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::{aws::Received, record::SqsRecord};
use tokio::time::{sleep, timeout};

use crate::{
    function::{Failure, Function},
    sim::Simulation,
};

/// `BatchSize`, as the template has it.
const BATCH_SIZE: usize = 500;
/// `MaximumBatchingWindowInSeconds`, as the template has it.
const BATCHING_WINDOW: Duration = Duration::from_secs(5);
/// Lambda's poll interval while it finds no messages.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Polls until the end of the simulation. Two of these run: `MaximumConcurrency`.
pub(crate) async fn poll(sim: Arc<Simulation>, function: Arc<Function>) {
    loop {
        match polling(&sim) {
            Ok(()) => {}
            Err(wait) => {
                // A switch notifies; the wait is for transitions, which do not.
                let _ = timeout(wait, sim.switched.notified()).await;
                continue;
            }
        }
        let batch = gather(&sim).await;
        if batch.is_empty() {
            sleep(IDLE_POLL_INTERVAL + sim.time_between(0, 500)).await;
        } else if sim.goes_wrong(sim.plan.throttles) {
            // It counts as received: it comes back after the queue's own visibility timeout.
            sim.count("throttled batches");
            sim.note(|| format!("a batch of {} is throttled", batch.len()));
        } else {
            work(&sim, &function, batch).await;
        }
    }
}

/// Whether messages are handed to the function now, or how long they are not.
fn polling(sim: &Simulation) -> Result<(), Duration> {
    let now = sim.now();
    let (enabled, settles_at) = {
        let mapping = &sim.aws.state().mapping;
        (mapping.enabled, mapping.settles_at)
    };
    let settling = Duration::try_from(settles_at.duration_since(now)).unwrap_or_default();
    if enabled {
        return if settling.is_zero() { Ok(()) } else { Err(settling) };
    }
    // Occasionally it polls for a while after its state is Disabled.
    let ms = settles_at.as_millisecond();
    let lag = if ms % 3 == 0 { ms / 3 % 60_000 } else { 0 };
    if settling.is_zero() && now.duration_since(settles_at) >= SignedDuration::from_millis(lag) {
        return Err(Duration::from_mins(10));
    }
    if settling.is_zero() {
        sim.count("polls of a disabled mapping");
    }
    Ok(())
}

async fn gather(sim: &Simulation) -> Vec<Received> {
    let most = if sim.goes_wrong(0.3) { sim.state().rng.usize(1..20) } else { BATCH_SIZE };
    let window = sim.elapsed() + BATCHING_WINDOW;
    let mut batch = Vec::new();
    while batch.len() < most {
        let received = sim.aws.state().receive("events", 10, None, sim.now());
        match received {
            Ok(received) if !received.is_empty() => batch.extend(received),
            _ if batch.is_empty() || sim.elapsed() >= window => break,
            _ => sleep(Duration::from_secs(1)).await,
        }
    }
    // One message is never twice in a batch.
    let mut seen = BTreeSet::new();
    batch.retain(|message| seen.insert(message.id.clone()));
    batch
}

async fn work(sim: &Simulation, function: &Function, batch: Vec<Received>) {
    sim.count("batches");
    sim.note(|| format!("a batch of {}: {}", batch.len(), ids(&batch)));
    let records: Vec<_> = batch.iter().map(|message| SqsRecord::from(message).to_json()).collect();
    let answer = match function.invoke(&json!({"Records": records})).await {
        Ok((_, answer)) => answer,
        Err(failure) => {
            if let Failure::Refused(why) = failure {
                sim.note(|| format!("the batch fails: {why}"));
            }
            return;
        }
    };
    let failed = failures(&answer, &batch);
    sim.note(|| format!("the batch is done, {} stay", failed.len()));
    let now = sim.now();
    for message in batch.iter().filter(|message| !failed.contains(message.id.as_str())) {
        // A deletion that fails leaves the message for another time.
        if sim.goes_wrong(0.002) {
            sim.count("deletions that failed");
        } else {
            sim.aws.state().delete(&message.receipt, now);
        }
    }
}

/// The ids that stay in the queue, as Lambda reads them: no list or an empty one means that nothing
/// failed, and an id that is not in the batch means that all records did.
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

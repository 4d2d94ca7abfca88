//! Live traffic: conversations as they happen, and what following them costs.
//!
//! The measure is the fewest fetches that could have served every event in time, which an offline
//! algorithm knows.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{task::spawn_local, time::sleep};

use crate::{
    constants::instant,
    eventbridge,
    function::Function,
    history::Keep,
    invariant::Violation,
    mapping, operator,
    plan::{Arrival, Conversation, ConversationKind, Delays, Plan},
    sim::Simulation,
    virtual_time,
};

/// Conversations begin within this span.
const BEGINNINGS: Duration = Duration::from_hours(7 * 24);
/// No conversation lasts longer.
const LONGEST: Duration = Duration::from_hours(80);
/// A fetch serves an event from this long after it on: the clocks' skew.
const EARLIEST: SignedDuration = SignedDuration::from_secs(5);
/// And until this long after its settle window: the batching window and the poll before it.
const LATEST: SignedDuration = SignedDuration::from_secs(10);

/// How long after its last event a queue may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_hours(2);

/// How the function's environments come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environments {
    /// One, which takes every batch.
    One,
    /// Two, as the template's `MaximumConcurrency` has it, without the table of coverage.
    Two,
    /// Two with the table, as the template has it.
    Sharing,
    /// The same, and the controller every minute in whichever is idle, or in a third.
    WithController,
    /// The same, each replaced every two hours.
    Recycled,
}

impl Environments {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::One, Self::Two, Self::Sharing, Self::WithController, Self::Recycled];
}

impl Display for Environments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::One => "one",
            Self::Two => "two, no table",
            Self::Sharing => "two",
            Self::WithController => "two and controller",
            Self::Recycled => "recycled every 2 h",
        })
    }
}

/// The cost of live traffic.
#[derive(Debug)]
pub struct Live {
    /// The settle window.
    pub settle_seconds: u16,
    /// How the delays followed from it.
    pub delays: Delays,
    /// How the environments came and went.
    pub environments: Environments,
    /// Events that happened.
    pub events: u64,
    /// Conversations that they were about.
    pub conversations: u64,
    /// Calls to Gladly.
    pub calls: u64,
    /// Conversations fetched.
    pub fetches: u64,
    /// The fewest that could have served every event within its window.
    pub optimum: u64,
    /// Events that needed no fetch of their own.
    pub covered: u64,
    /// Snapshots that the destination got.
    pub snapshots: u64,
    /// Bytes that it got.
    pub bytes: u64,
    /// From an event to its delivery: the median, the 99th percentile and the longest.
    pub waits: [Duration; 3],
    /// An invariant that did not hold.
    pub violation: Option<Violation>,
}

#[expect(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]
impl Live {
    /// Calls to Gladly for each event.
    #[must_use]
    pub fn calls_per_event(&self) -> f64 {
        self.calls as f64 / self.events.max(1) as f64
    }

    /// Fetches for each that was needed. Without a window every event needs its own.
    #[must_use]
    pub fn of_optimum(&self) -> f64 {
        self.fetches as f64 / self.optimum.max(1) as f64
    }

    /// Snapshots of each conversation.
    #[must_use]
    pub fn snapshots_per_conversation(&self) -> f64 {
        self.snapshots as f64 / self.conversations.max(1) as f64
    }
}

/// The columns of [`Live`]'s lines.
pub const LIVE_HEADER: &str = "| X, s | delays | environments | calls per event | fetches of the optimum | optimum per conversation | snapshots per conversation | events covered | MB sent | median, 99 %, longest wait, s |\n|---:|---|---|---:|---:|---:|---:|---:|---:|---|";

impl Display for Live {
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settle_seconds, delays, environments, covered, bytes, waits, .. } = self;
        let per_conversation = self.optimum as f64 / self.conversations.max(1) as f64;
        let (of_optimum, optimum) = match settle_seconds {
            0 => ("–".into(), "–".into()),
            _ => (format!("{:.2} ×", self.of_optimum()), format!("{per_conversation:.1}")),
        };
        let [median, most, longest] = waits.map(|wait| wait.as_secs());
        write!(
            f,
            "| {settle_seconds} | {delays} | {environments} | {:.2} | {of_optimum} | {optimum} | {:.1} | {:.0} % | {:.0} | {median}, {most}, {longest} |",
            self.calls_per_event(),
            self.snapshots_per_conversation(),
            100.0 * *covered as f64 / self.events.max(1) as f64,
            *bytes as f64 / 1e6,
        )
    }
}

/// Follows this many conversations live.
#[must_use]
pub fn live(
    conversations: u64,
    settle_seconds: u16,
    delays: Delays,
    environments: Environments,
) -> Live {
    let mut live = Live {
        settle_seconds,
        delays,
        environments,
        events: 0,
        conversations,
        calls: 0,
        fetches: 0,
        optimum: 0,
        covered: 0,
        snapshots: 0,
        bytes: 0,
        waits: [Duration::ZERO; 3],
        violation: None,
    };
    if let Some(violation) = virtual_time::run(conversations, simulate(&mut live)) {
        live.violation = Some(violation);
    }
    live
}

async fn simulate(live: &mut Live) {
    // The same courses for every window and any environments.
    let mut rng = Rng::with_seed(live.conversations);
    let mut plan = courses(&mut rng, live.conversations);
    (plan.settle_seconds, plan.delays) = (live.settle_seconds, live.delays);
    plan.shares_coverage = !matches!(live.environments, Environments::One | Environments::Two);
    if live.environments == Environments::Recycled {
        plan.lifetime = Some(Duration::from_hours(2));
    }
    live.events = plan.arrivals.len() as u64;
    live.optimum = optimum(&plan);
    let last = plan.arrivals.last().map_or(Duration::ZERO, |(at, _)| *at);
    let sim = Simulation::new(rng, plan, Keep::Nothing);
    let function = Arc::new(Function::new(Arc::clone(&sim)));
    let pollers = if live.environments == Environments::One { 1 } else { 2 };
    let mut tasks: Vec<_> = (0..pollers)
        .map(|_| spawn_local(mapping::poll(Arc::clone(&sim), Arc::clone(&function))))
        .collect();
    if matches!(live.environments, Environments::WithController | Environments::Recycled) {
        tasks.push(spawn_local(eventbridge::schedule(Arc::clone(&sim), function)));
    }
    operator::arrive(Arc::clone(&sim)).await;
    let limit = last + DRAIN_LIMIT;
    while !sim.is_drained() && sim.elapsed() < limit {
        sleep(Duration::from_secs(1)).await;
    }
    if sim.is_drained() {
        sim.check_end();
    } else {
        sim.has_not_drained(DRAIN_LIMIT);
    }
    for task in tasks {
        task.abort();
    }
    let mut state = sim.state();
    live.violation = state.journal.violation.take();
    let mut waits = state.checker.waits();
    waits.sort();
    let at = |percent: usize| {
        let index = waits.len().saturating_sub(1) * percent / 100;
        waits.get(index).copied().unwrap_or_default()
    };
    live.waits = [50, 99, 100].map(at);
    let tally = &state.journal.tally;
    live.calls = tally.of("calls to Gladly");
    live.fetches = tally.of("conversations fetched");
    live.covered = tally.of("events covered");
    live.snapshots = tally.of("snapshots delivered");
    live.bytes = tally.of("bytes delivered");
}

/// The fewest fetches that serve every event of a plan in time: for each conversation, the fewest
/// moments of which each event's span holds one. Taking the end of the first span that holds none yet
/// is optimal.
fn optimum(plan: &Plan) -> u64 {
    let mut spans = vec![Vec::new(); plan.conversations.len()];
    for (_, arrival) in &plan.arrivals {
        let Arrival::Event { conversation, json, .. } = arrival else { continue };
        let Some(at) = json["timestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok())
        else {
            continue;
        };
        let delay = plan.delay(json["type"].as_str().unwrap_or_default());
        let delay = SignedDuration::from_secs(delay.into());
        spans[*conversation].push((at + delay + LATEST, at + EARLIEST));
    }
    let fewest = |mut spans: Vec<(Timestamp, Timestamp)>| {
        spans.sort();
        let mut fetched_at = Timestamp::MIN;
        spans
            .into_iter()
            .filter(|(end, begin)| {
                let is_served = fetched_at >= *begin;
                if !is_served {
                    fetched_at = *end;
                }
                !is_served
            })
            .count() as u64
    };
    spans.into_iter().map(fewest).sum()
}

/// Conversations of about 17 events: 40 % chats, 40 % of e-mails, 20 % of text messages.
fn courses(rng: &mut Rng, conversations: u64) -> Plan {
    let mut plan = Plan::quiet();
    for number in 0..usize::try_from(conversations).unwrap_or(usize::MAX) {
        let begins = Duration::from_secs(rng.u64(0..BEGINNINGS.as_secs()));
        let course = match rng.u32(0..10) {
            0..4 => Course::chat(rng),
            4..8 => Course::mail(rng),
            _ => Course::text_messages(rng),
        };
        follow(&mut plan, rng, number, begins, &course);
    }
    plan.arrivals.sort_by_key(|(at, _)| *at);
    plan
}

/// What happens in a conversation: types, and how long after its beginning.
struct Course(Vec<(Duration, &'static str)>);

impl Course {
    /// A session: messages follow each other within a minute or so.
    fn chat(rng: &mut Rng) -> Self {
        let pauses: Vec<_> = (0..12).map(|_| around(rng, 55.0)).collect();
        Self::of_messages(rng, &pauses, 60.0)
    }

    /// Hours pass between messages.
    fn mail(rng: &mut Rng) -> Self {
        let pauses: Vec<_> = (0..5).map(|_| around(rng, 9.0 * 3_600.0)).collect();
        Self::of_messages(rng, &pauses, 420.0)
    }

    /// Minutes pass, and a night or two.
    fn text_messages(rng: &mut Rng) -> Self {
        let pauses: Vec<_> =
            (0..9).map(|n| around(rng, if n % 4 == 3 { 10.0 * 3_600.0 } else { 200.0 })).collect();
        Self::of_messages(rng, &pauses, 120.0)
    }

    /// A message after each pause, customer and agent taking turns, and an agent's work between them.
    fn of_messages(rng: &mut Rng, pauses: &[Duration], work: f64) -> Self {
        let mut events = vec![
            (Duration::ZERO, "CONVERSATION/CREATED"),
            (Duration::ZERO, "CONTACT/MESSAGE_RECEIVED"),
            (around(rng, work / 2.0), "CONVERSATION_ASSIGNEE/UPDATED"),
        ];
        let mut at = Duration::ZERO;
        for (turn, pause) in pauses.iter().enumerate() {
            at += *pause;
            let is_agent = turn % 2 == 0;
            let kind = if is_agent { "CONTACT/MESSAGE_SENT" } else { "CONTACT/MESSAGE_RECEIVED" };
            events.push((at, kind));
            // The fewer messages, the more work of agents between them, up to 17 events or so.
            let works = match pauses.len() {
                0..6 => rng.usize(1..4),
                6..11 => rng.usize(0..2),
                _ => 0,
            };
            for _ in 0..works {
                let kinds = [
                    "CONVERSATION/TOPIC_ADDED",
                    "CONVERSATION/NOTE_CREATED",
                    "CONVERSATION_STATUS/UPDATED",
                    "CONVERSATION_ASSIGNEE/UPDATED",
                ];
                events.push((at + around(rng, work / 4.0), kinds[rng.usize(0..kinds.len())]));
            }
        }
        let end = at + around(rng, work);
        events.push((end, "CONVERSATION/CLOSED"));
        events.push((end + Duration::from_millis(10), "CONVERSATION_STATUS/UPDATED"));
        events.retain(|(at, _)| *at <= LONGEST);
        Self(events)
    }
}

/// A time that is exponentially distributed around a mean in seconds, at most four times as long.
fn around(rng: &mut Rng, mean: f64) -> Duration {
    Duration::from_secs_f64((-mean * (1.0 - rng.f64()).ln()).clamp(0.5, 4.0 * mean))
}

/// Adds a course's conversation and its events to a plan.
fn follow(plan: &mut Plan, rng: &mut Rng, number: usize, begins: Duration, course: &Course) {
    let mut conversation = Conversation::new(number, ConversationKind::Plain);
    conversation.items.clear();
    let closes = course.0.iter().find(|(_, kind)| *kind == "CONVERSATION/CLOSED");
    let closes = closes.map_or(Duration::MAX, |(after, _)| begins + *after);
    conversation.open.push((Duration::ZERO, closes));
    let Conversation { id, customer, items, .. } = &mut conversation;
    for (index, (after, kind)) in course.0.iter().enumerate() {
        let at = begins + *after;
        let mut content = json!({"conversationId": id, "customerId": customer});
        if kind.starts_with("CONTACT/") {
            let item = format!("{id}-i-{index}");
            content["messageId"] = json!(item);
            items.push((at, item));
        }
        let event = format!("e-{number}-{index}");
        let json: Value = json!({
            "id": event, "type": kind, "timestamp": instant(at).to_string(),
            "initiator": {"id": "a-1", "type": "AGENT"}, "content": content,
        });
        let arrives = at + Duration::from_millis(rng.u64(100..2_000));
        plan.arrivals.push((arrives, Arrival::Event { id: event, conversation: number, json }));
    }
    if items.is_empty() {
        items.push((begins, format!("{id}-i-0")));
    }
    items.sort();
    plan.conversations.push(conversation);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optimum_is_the_fewest_moments_that_serve_every_event() {
        let event = |second: i64, kind: &str| {
            let timestamp =
                (crate::constants::EPOCH + SignedDuration::from_secs(second)).to_string();
            let json = json!({"type": kind, "timestamp": timestamp});
            (Duration::ZERO, Arrival::Event { id: String::new(), conversation: 0, json })
        };
        let fewest = |events: &[(i64, &str)], settle_seconds| {
            let mut plan = Plan::quiet();
            plan.settle_seconds = settle_seconds;
            plan.conversations.push(Conversation::new(0, ConversationKind::Plain));
            plan.arrivals = events.iter().map(|(at, kind)| event(*at, kind)).collect();
            optimum(&plan)
        };
        // Spans of 65 s and 5 s after each: 5..=70, 70..=135, 71..=136.
        assert_eq!(fewest(&[(0, "A"), (65, "A"), (66, "A")], 60), 2);
        assert_eq!(fewest(&[(0, "A"), (65, "A")], 60), 1);
        assert_eq!(fewest(&[(0, "A"), (66, "A")], 60), 2);
        // The close has to be served within 25 s, which serves what came before it too.
        assert_eq!(fewest(&[(0, "A"), (100, "CONVERSATION/CLOSED")], 300), 1);
        assert_eq!(fewest(&[(0, "CONVERSATION/CLOSED"), (100, "A")], 300), 2);
        assert_eq!(fewest(&[], 300), 0);
    }

    #[test]
    fn the_stories_are_as_long_as_they_are_to_be() {
        let plan = courses(&mut Rng::with_seed(1), 1_000);
        let per_conversation = plan.arrivals.len() / 1_000;
        assert!((16..=18).contains(&per_conversation), "{per_conversation}");
    }

    #[test]
    fn every_column_has_a_heading() {
        let example = Live {
            settle_seconds: 300,
            delays: Delays::AsShipped,
            environments: Environments::Two,
            events: 1,
            conversations: 1,
            calls: 1,
            fetches: 1,
            optimum: 1,
            covered: 0,
            snapshots: 1,
            bytes: 1,
            waits: [Duration::ZERO; 3],
            violation: None,
        };
        let columns = |line: &str| line.matches('|').count();
        for heading in LIVE_HEADER.lines() {
            assert_eq!(columns(heading), columns(&example.to_string()));
        }
    }
}

//! What happens in a run, drawn from its seed.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use crate::stack::Function;
use testing::fault::Fault;

/// A run: the same seed has the same plan, whatever the machine makes of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the emulated AWS logs: `.local/<name>/emulator.log`.
    pub name: &'static str,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// How many events are sent.
    pub events: usize,
    /// How long that takes.
    pub length: Duration,
    /// How many conversations they are about.
    pub conversations: usize,
    /// How long the queue hides what a killed process was working on. The template's half an hour would be waited for at
    /// the end.
    pub visibility: Duration,
    /// Of an hour, in which Gladly tries a webhook five times, this part: longer than any outage here lasts.
    pub time_scale: f64,
    /// The longest that the drain may take.
    pub drain_limit: Duration,
}

/// What is done to the relay, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The operator pauses …
    Pause(By),
    /// … and resumes.
    Resume(By),
    /// A second key becomes valid, and the sender changes over to it.
    RotateIn,
    /// The old key is taken away.
    RotateOut,
    /// The stack is updated with other parameters.
    Redeploy,
    /// SQS takes nothing for a while.
    Outage,
}

/// How the operator says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// By the real `tools/relay`, which also calls the controller.
    Command,
    /// By writing the parameter; EventBridge invokes the controller.
    Parameter,
    /// By writing the parameter, and the event about it is lost.
    Unheard,
}

/// Something that fails: the calls that are hit, and the ways.
pub(super) struct FaultTarget {
    pub(super) name: &'static str,
    pub(super) upstream: Upstream,
    pub(super) on: &'static str,
    pub(super) faults: Vec<Fault>,
    /// How many calls go well from one fault to the next, on average.
    pub(super) every: u32,
    /// How many calls in a row a fault hits: one of these.
    pub(super) bursts: &'static [u32],
    /// Whether the run fails unless every fault has hit. Of what happens seldom, not all can.
    pub(super) required: bool,
}

/// Whose calls they are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Upstream {
    /// AWS, as the functions call it.
    Aws,
    Gladly,
    Destination,
}

impl Plan {
    /// So many events over a time.
    #[must_use]
    pub fn new(seed: u64, events: usize, length: Duration) -> Self {
        let long = length >= Duration::from_mins(1);
        Self {
            name: "soak",
            seed,
            events,
            length,
            conversations: (events / 75).clamp(20, 2_000),
            // In a short run it outlasts the faults: what comes back to another one then waits for a minute.
            visibility: Duration::from_secs(if long { 60 } else { 20 }),
            time_scale: if long { 0.02 } else { 0.005 },
            drain_limit: Duration::from_mins(if long { 40 } else { 3 }),
        }
    }

    /// A source of chance for one purpose.
    pub(super) fn rng(&self, purpose: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(purpose))
    }

    /// What the operator does, and when.
    pub(super) fn acts(&self) -> Vec<(Duration, Act)> {
        let mut rng = self.rng(1);
        let seconds = self.length.as_secs_f64();
        // Evenly spread, each with some jitter; at least one of each.
        let mut spread = |every: u32, from: f64| -> Vec<f64> {
            #[expect(clippy::cast_possible_truncation, reason = "some minutes")]
            let count = (self.length.as_secs() as u32 / every).max(1);
            let slot = seconds / f64::from(count);
            let jitter = |rng: &mut Rng| 0.2 * (rng.f64() - 0.5);
            (0..count).map(|n| slot * (f64::from(n) + from + jitter(&mut rng))).collect()
        };
        let (rotations, redeploys) = (spread(200, 0.25), spread(250, 0.4));
        let mut acts = Vec::new();
        if self.is_long() {
            acts.extend(spread(300, 0.7).into_iter().map(|at| (at, Act::Outage)));
            let ways = [By::Command, By::Unheard, By::Parameter, By::Unheard];
            // In turn every way of pausing, and from anywhere every way of resuming.
            let pauses = spread(150, 0.5);
            let turn = rng.usize(..ways.len());
            for (number, at) in pauses.into_iter().enumerate() {
                let hold = (seconds / 4.0).min(32.0) * (0.75 + rng.f64() / 2.0);
                acts.push((at, Act::Pause(ways[number % ways.len()])));
                acts.push((at + hold, Act::Resume(ways[(number + turn) % ways.len()])));
            }
        } else {
            // Early and heard at once: what the gate returns to the queue comes again after half a minute.
            acts.extend([(1.0, Act::Pause(By::Parameter)), (3.0, Act::Resume(By::Command))]);
        }
        for at in rotations {
            acts.push((at, Act::RotateIn));
            acts.push((at + (seconds / 10.0).min(20.0), Act::RotateOut));
        }
        acts.extend(redeploys.into_iter().map(|at| (at, Act::Redeploy)));
        acts.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        acts.into_iter().map(|(at, act)| (Duration::from_secs_f64(at), act)).collect()
    }

    /// When a function loses a process in the middle of its work.
    pub(super) fn kills(&self, function: Function) -> Vec<Duration> {
        let (purpose, every) = match function {
            Function::Ingest => (2, 20),
            // One that is killed forgets what it has fetched, and the drain starts over.
            Function::Extractor => (3, 45),
        };
        let mut rng = self.rng(purpose);
        let count = (self.length.as_secs() / every).max(2);
        let mut kills: Vec<_> =
            (0..count).map(|_| self.length.mul_f64(0.1 + 0.85 * rng.f64())).collect();
        kills.sort();
        kills
    }

    /// Upstream fails, and how.
    pub(super) fn targets(&self) -> Vec<FaultTarget> {
        let error = |code: &str| json!({"__type": code, "message": "by the soak"}).to_string();
        let aws = |throttle: &str| {
            vec![
                Fault::status(500).body(error("InternalError")),
                Fault::status(400).body(error(throttle)),
                Fault::hang(),
                Fault::reset(),
                Fault::lost(),
            ]
        };
        let web = |more: Vec<Fault>| {
            let busy = Fault::status(429);
            let common = [
                Fault::status(500),
                Fault::status(503),
                busy.clone().header("retry-after", "2"),
                busy,
                Fault::hang(),
                Fault::reset(),
            ];
            common.into_iter().chain(more).collect()
        };
        // However short the run, each kind is to come.
        let bursts: &[u32] = if self.is_long() { &[1, 1, 1, 2, 3, 6] } else { &[1] };
        let target = |name, upstream, on, faults, [long, short]: [u32; 2]| {
            let every = if self.is_long() { long } else { short };
            FaultTarget { name, upstream, on, faults, every, bursts, required: true }
        };
        let sqs = || aws("RequestThrottled");
        let settling = "POST /sqs/ChangeMessageVisibilityBatch";
        let gladly = web(vec![Fault::drip(200), Fault::cut(), Fault::garbled()]);
        let destination = web(vec![Fault::slow(1_500), Fault::lost()]);
        let mut targets = vec![
            target("SQS, SendMessage", Upstream::Aws, "POST /sqs/SendMessage", sqs(), [40, 12]),
            target("SSM", Upstream::Aws, "POST /ssm/*", aws("ThrottlingException"), [6, 10]),
            target("Gladly", Upstream::Gladly, "GET /api/v1/**", gladly, [120, 8]),
            target("destination", Upstream::Destination, "POST /deliveries", destination, [50, 4]),
        ];
        if self.is_long() {
            let required = self.length >= Duration::from_mins(5);
            targets.push(FaultTarget {
                required,
                ..target("SQS, settling", Upstream::Aws, settling, sqs(), [4, 4])
            });
        }
        targets
    }

    /// Whether it lasts long enough for everything; a short run is there for the harness.
    fn is_long(&self) -> bool {
        self.length >= Duration::from_mins(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_plan_with_every_act() {
        for (events, length) in [(300, 12), (3_000, 60), (30_000, 600)] {
            for seed in 0..50 {
                let plan = || Plan::new(seed, events, Duration::from_secs(length));
                let acts = plan().acts();
                assert_eq!(acts, plan().acts());
                for function in [Function::Ingest, Function::Extractor] {
                    assert_eq!(plan().kills(function), plan().kills(function));
                }
                let count =
                    |wanted: fn(&Act) -> bool| acts.iter().filter(|(_, act)| wanted(act)).count();
                let pauses = count(|act| matches!(act, Act::Pause(_)));
                assert!(pauses > 0 && pauses == count(|act| matches!(act, Act::Resume(_))));
                assert!(acts.iter().any(|(_, act)| {
                    matches!(act, Act::Pause(By::Command) | Act::Resume(By::Command))
                }));
                let rotations = count(|act| *act == Act::RotateIn);
                assert!(rotations > 0 && rotations == count(|act| *act == Act::RotateOut));
                assert!(count(|act| *act == Act::Redeploy) > 0);
                // One pause after the other, or it would be unclear since when it holds.
                let mut holds = false;
                for (_, act) in &acts {
                    match act {
                        Act::Pause(_) => assert!(!std::mem::replace(&mut holds, true)),
                        Act::Resume(_) => assert!(std::mem::replace(&mut holds, false)),
                        _ => {}
                    }
                }
            }
        }
        assert_ne!(
            Plan::new(1, 300, Duration::from_mins(1)).acts(),
            Plan::new(2, 300, Duration::from_mins(1)).acts()
        );
    }
}

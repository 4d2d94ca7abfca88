//! The plan of a run, generated from its seed.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use crate::stack::Function;
use testing::fault::Fault;

/// The calls that write objects of deliveries.
pub(super) const PUTS: &str = "PUT /soak-deliveries/**";
/// The bucket, and what its keys begin with.
pub(super) const BUCKET: &str = "soak-deliveries";
pub(super) const KEY_PREFIX: &str = "gladly/relay";

/// The plan of a run: the same seed gives the same plan on every machine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the emulated AWS logs: `.local/<name>/emulator.log`.
    pub name: &'static str,
    /// The seed of all random choices.
    pub seed: u64,
    /// How many events are sent.
    pub events: usize,
    /// How long that takes.
    pub length: Duration,
    /// How many conversations they are about.
    pub conversations: usize,
    /// The events queue's visibility timeout, which delays the events of a killed process; the template's half an hour
    /// would delay the end of the run.
    pub visibility: Duration,
    /// Scales Gladly's webhook retry schedule of an hour: longer than any outage here.
    pub time_scale: f64,
    /// The longest that the drain may take.
    pub drain_limit: Duration,
    /// Where deliveries go.
    pub target: Target,
}

/// Where deliveries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To a destination that they are posted to, and that rejects some conversations.
    Https,
    /// Into a bucket of the emulated S3, from which DuckDB reads them back.
    Bucket,
}

/// An action on the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The operator pauses.
    Pause(Method),
    /// The operator resumes.
    Resume(Method),
    /// A second key becomes valid, and the sender switches to it.
    RotateIn,
    /// The old key is removed.
    RotateOut,
    /// The stack is updated with other parameters.
    Redeploy,
    /// SQS accepts nothing for a while.
    Outage,
}

/// How the operator pauses or resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// With the real `gladly-relay`, which also calls the controller.
    Command,
    /// By writing the parameter; EventBridge invokes the controller.
    Parameter,
    /// By writing the parameter, and the event about it is lost.
    ParameterEventLost,
}

/// The calls that fail, and how.
pub(super) struct FaultTarget {
    pub(super) name: &'static str,
    pub(super) upstream: Upstream,
    pub(super) on: &'static str,
    pub(super) faults: Vec<Fault>,
    /// The average number of calls between two faults.
    pub(super) every: u32,
    /// How many calls in a row a fault hits: one of these at random.
    pub(super) bursts: &'static [u32],
    /// Whether the run fails unless every fault has hit a call. Rare calls cannot meet all faults.
    pub(super) required: bool,
}

/// The server that fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Upstream {
    /// AWS, as the functions call it.
    Aws,
    Gladly,
    Destination,
}

impl Plan {
    /// A plan for this many events over a time.
    #[must_use]
    pub fn new(seed: u64, events: usize, length: Duration) -> Self {
        let long = length >= Duration::from_mins(1);
        Self {
            name: "soak",
            seed,
            events,
            length,
            conversations: (events / 75).clamp(20, 2_000),
            // In a short run it is longer than the faults: events that return into another one wait for a minute.
            visibility: Duration::from_secs(if long { 60 } else { 20 }),
            time_scale: if long { 0.02 } else { 0.005 },
            drain_limit: Duration::from_mins(if long { 40 } else { 3 }),
            target: Target::Https,
        }
    }

    /// A random number generator for one stream.
    pub(super) fn rng(&self, stream: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream))
    }

    /// What the operator does, and when.
    pub(super) fn actions(&self) -> Vec<(Duration, Action)> {
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
        let mut actions = Vec::new();
        if self.is_long() {
            actions.extend(spread(300, 0.7).into_iter().map(|at| (at, Action::Outage)));
            let methods = [
                Method::Command,
                Method::ParameterEventLost,
                Method::Parameter,
                Method::ParameterEventLost,
            ];
            // Every method of pausing in turn, and every method of resuming from a random start.
            let pauses = spread(150, 0.5);
            let turn = rng.usize(..methods.len());
            for (number, at) in pauses.into_iter().enumerate() {
                let hold = (seconds / 4.0).min(32.0) * (0.75 + rng.f64() / 2.0);
                actions.push((at, Action::Pause(methods[number % methods.len()])));
                actions.push((at + hold, Action::Resume(methods[(number + turn) % methods.len()])));
            }
        } else {
            // Early and with its event: what the gate returns to the queue comes again after half a minute.
            actions.extend([
                (1.0, Action::Pause(Method::Parameter)),
                (3.0, Action::Resume(Method::Command)),
            ]);
        }
        for at in rotations {
            actions.push((at, Action::RotateIn));
            actions.push((at + (seconds / 10.0).min(20.0), Action::RotateOut));
        }
        actions.extend(redeploys.into_iter().map(|at| (at, Action::Redeploy)));
        actions.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        actions.into_iter().map(|(at, action)| (Duration::from_secs_f64(at), action)).collect()
    }

    /// When a busy process of a function is killed.
    pub(super) fn kills(&self, function: Function) -> Vec<Duration> {
        let (stream, every) = match function {
            Function::Ingest => (2, 20),
            // A killed process loses what it has fetched, and the drain starts over.
            Function::Extractor => (3, 45),
        };
        let mut rng = self.rng(stream);
        let count = (self.length.as_secs() / every).max(2);
        let mut kills: Vec<_> =
            (0..count).map(|_| self.length.mul_f64(0.1 + 0.85 * rng.f64())).collect();
        kills.sort();
        kills
    }

    /// The fault targets.
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
        // However short the run, each kind of fault must occur.
        let bursts: &[u32] = if self.is_long() { &[1, 1, 1, 2, 3, 6] } else { &[1] };
        let target = |name, upstream, on, faults, [long, short]: [u32; 2]| {
            let every = if self.is_long() { long } else { short };
            FaultTarget { name, upstream, on, faults, every, bursts, required: true }
        };
        let s3 = || {
            let error = |status, code: &str| {
                Fault::status(status).body(format!("<Error><Code>{code}</Code></Error>"))
            };
            vec![
                error(500, "InternalError"),
                error(503, "SlowDown"),
                error(400, "RequestTimeout"),
                Fault::hang(),
                Fault::reset(),
                Fault::lost(),
            ]
        };
        let sqs = || aws("RequestThrottled");
        let settling = "POST /sqs/ChangeMessageVisibilityBatch";
        let gladly = web(vec![Fault::drip(200), Fault::cut(), Fault::garbled()]);
        let destination = web(vec![Fault::slow(1_500), Fault::lost()]);
        let mut targets = vec![
            target("SQS, SendMessage", Upstream::Aws, "POST /sqs/SendMessage", sqs(), [40, 12]),
            target("SSM", Upstream::Aws, "POST /ssm/*", aws("ThrottlingException"), [6, 10]),
            target("Gladly", Upstream::Gladly, "GET /api/v1/**", gladly, [120, 8]),
            match self.target {
                Target::Https => target(
                    "destination",
                    Upstream::Destination,
                    "POST /deliveries",
                    destination,
                    [50, 4],
                ),
                Target::Bucket => target("S3", Upstream::Aws, PUTS, s3(), [8, 4]),
            },
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

    /// Whether the run is long enough for every fault; a short run only tests the harness.
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
                let actions = plan().actions();
                assert_eq!(actions, plan().actions());
                for function in [Function::Ingest, Function::Extractor] {
                    assert_eq!(plan().kills(function), plan().kills(function));
                }
                let count = |wanted: fn(&Action) -> bool| {
                    actions.iter().filter(|(_, action)| wanted(action)).count()
                };
                let pauses = count(|action| matches!(action, Action::Pause(_)));
                assert!(
                    pauses > 0 && pauses == count(|action| matches!(action, Action::Resume(_)))
                );
                assert!(actions.iter().any(|(_, action)| {
                    matches!(
                        action,
                        Action::Pause(Method::Command) | Action::Resume(Method::Command)
                    )
                }));
                let rotations = count(|action| *action == Action::RotateIn);
                assert!(rotations > 0 && rotations == count(|action| *action == Action::RotateOut));
                assert!(count(|action| *action == Action::Redeploy) > 0);
                // Pauses do not overlap, so that each has one start.
                let mut holds = false;
                for (_, action) in &actions {
                    match action {
                        Action::Pause(_) => assert!(!std::mem::replace(&mut holds, true)),
                        Action::Resume(_) => assert!(std::mem::replace(&mut holds, false)),
                        _ => {}
                    }
                }
            }
        }
        assert_ne!(
            Plan::new(1, 300, Duration::from_mins(1)).actions(),
            Plan::new(2, 300, Duration::from_mins(1)).actions()
        );
    }
}

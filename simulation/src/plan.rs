//! The plan of a seed: the events, the faults, and the operator's actions.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{MAX_SETTLE_SECONDS, SettleWindow};

use crate::constants::{EPOCH, instant};

/// Everything that is generated before the simulation begins. Times are counted from its beginning.
#[derive(Debug)]
pub(crate) struct Plan {
    /// When all faults are over and the operator resumes.
    pub(crate) calm: Duration,
    pub(crate) retention: SignedDuration,
    pub(crate) quarantine_retention: SignedDuration,
    /// `SETTLE_SECONDS`.
    pub(crate) settle_seconds: u16,
    /// How ingest-fn chooses the delays.
    pub(crate) delays: Delays,
    /// `GLADLY_REQUESTS_PER_SECOND`.
    pub(crate) rate: &'static str,
    /// Requests a second that others of the organisation make.
    pub(crate) others: usize,
    /// Time between two scheduled invocations, and how likely one is skipped.
    pub(crate) interval: Duration,
    pub(crate) skipped: f64,
    /// How likely a change event never comes.
    pub(crate) lost: f64,
    /// How likely a call to AWS fails.
    pub(crate) aws_faults: f64,
    /// How likely a call to Gladly or a delivery fails.
    pub(crate) net_faults: f64,
    /// How likely an invocation's environment crashes.
    pub(crate) crashes: f64,
    /// How likely an environment is not used again after an invocation.
    pub(crate) recycled: f64,
    /// After which time an environment is replaced, if it is.
    pub(crate) lifetime: Option<Duration>,
    /// `COVERAGE_TABLE`: whether environments share what the destination has accepted.
    pub(crate) shares_coverage: bool,
    /// How likely Lambda throttles an invocation of a batch.
    pub(crate) throttles: f64,
    /// How likely SQS hands out or keeps a message once more.
    pub(crate) repeats: f64,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) arrivals: Vec<(Duration, Arrival)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) actions: Vec<(Duration, Action)>,
    /// Outages of the webhook. Most plans have none; in those the webhook is not monitored.
    pub(crate) outages: Vec<Outage>,
    /// Deletions and merges of customers, by customer.
    pub(crate) erasures: Vec<Erasure>,
}

/// How delays follow from the settle window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delays {
    /// As ingest-fn chooses them.
    AsShipped,
    /// A close waits as long as everything else.
    CloseLikeOthers,
    /// Whatever is no message waits as long as SQS allows.
    MessagesFirst,
}

impl Delays {
    fn seconds(self, window: SettleWindow, event_type: &str) -> u16 {
        let is_message = event_type.contains("MESSAGE");
        match (self, event_type) {
            (Self::CloseLikeOthers, "CONVERSATION/CLOSED") => window.longest(),
            (Self::MessagesFirst, kind) if !is_message && kind != "CONVERSATION/CLOSED" => {
                MAX_SETTLE_SECONDS
            }
            _ => window.seconds(event_type),
        }
    }
}

impl Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsShipped => "as shipped",
            Self::CloseLikeOthers => "a close like the others",
            Self::MessagesFirst => "900 s for what is no message",
        })
    }
}

/// The special property of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConversationKind {
    Plain,
    /// The destination rejects it with this status.
    Guilty(u16),
    /// Gladly no longer has it.
    Gone,
    /// Its customer was merged into another.
    Merged,
    /// Gladly answers 500 for it until all faults are over.
    Poison,
}

#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) kind: ConversationKind,
    /// When each item becomes visible, and its id.
    pub(crate) items: Vec<(Duration, String)>,
    /// When Gladly shows it open; at all other times it is closed.
    pub(crate) open: Vec<(Duration, Duration)>,
    /// When Gladly stops showing it, if it does.
    pub(crate) gone_from: Option<Duration>,
}

/// A message of the events queue.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Accepted by the relay.
    Event { id: String, conversation: usize, json: Value },
    /// Sent by another producer.
    Foreign(String),
}

/// What becomes of a customer.
#[derive(Debug)]
pub(crate) struct Erasure {
    pub(crate) customer: String,
    /// When it happens, and from when on Gladly shows it.
    pub(crate) at: Duration,
    pub(crate) shown_at: Duration,
    /// Whom into; without one the customer is deleted.
    pub(crate) into: Option<String>,
    /// The conversations that are combined, the one that remains last.
    pub(crate) conversations: Option<[usize; 2]>,
    /// The id of Gladly's event.
    pub(crate) event: String,
}

/// An outage of the webhook.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// An operator disables the webhook; otherwise the endpoint fails, and Gladly does.
    pub(crate) by_hand: bool,
}

/// A lasting fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) upstream: Upstream,
    pub(crate) kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    Gladly,
    Destination,
    Ssm,
    Sqs,
    Lambda,
    DynamoDb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Status(u16),
    Reset,
    Hang,
    /// Half of the calls fail.
    Flaky,
    /// The token is no longer the one in the parameter.
    Token,
    /// Gladly answers 404 to every conversation.
    Missing,
}

/// An action of the operator.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Writes the pause parameter.
    WritePause(PauseText),
    /// `make resume`.
    Resume,
    /// Invokes the function by hand.
    Invoke(Value),
    /// Writes the right token.
    Token(Upstream),
    /// Switches the mapping without the controller.
    Toggle(bool),
    /// Ships a new version: every environment is replaced.
    Deploy,
    /// The webhook is disabled: by hand, or by Gladly.
    SwitchOff { by_hand: bool },
    /// An operator enables the webhook.
    SwitchOn,
    /// Requests the recovery of a range: `backfill` or `import`.
    Recover { task: &'static str, from: Duration },
}

/// A text of the pause parameter, and its meaning by the contract.
#[derive(Debug, Clone)]
pub(crate) struct PauseText {
    pub(crate) text: String,
    pub(crate) meaning: Meaning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Running,
    Held,
    HeldUntil(Timestamp),
}

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A moment of a time span.
pub(crate) fn moment(rng: &mut Rng, from: Duration, to: Duration) -> Duration {
    let (from, to) = (from.as_millis(), to.as_millis().max(from.as_millis() + 1));
    let drawn = rng.u64(u64::try_from(from).unwrap_or(0)..u64::try_from(to).unwrap_or(u64::MAX));
    Duration::from_millis(drawn)
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(0..from.len())]
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        // Short, so that a pause can be several times longer, but much longer than the longest back-off
        // of 72 minutes, as in every real setting.
        let mut retention = SignedDuration::from_mins(rng.i64(720..960));
        let kept: Duration = retention.unsigned_abs();
        // The long hold of a few simulations.
        let held = moment(rng, 30 * HOUR, 40 * HOUR);
        // A schedule of minutes over a day would take seconds and test nothing new.
        let (span, intervals, count, lasting) = match rng.u32(0..40) {
            0..24 => (moment(rng, 15 * MINUTE, HOUR), [1, 2, 5], rng.usize(5..30), false),
            24..36 => (moment(rng, HOUR, 3 * HOUR), [2, 5, 10], rng.usize(10..60), false),
            36..38 => {
                let span = kept + moment(rng, MINUTE, kept * 3 / 2);
                (span, [5, 10, 10], rng.usize(20..100), false)
            }
            _ => {
                // A renewed event's receives are counted from zero.
                retention = SignedDuration::from_hours(96);
                (held + 6 * HOUR, [5, 10, 10], rng.usize(20..100), true)
            }
        };
        let mut plan = Self {
            calm: span,
            retention,
            quarantine_retention: SignedDuration::from_mins(rng.i64(720..960)),
            settle_seconds: pick(rng, &[0, 15, 60, 300, 900]),
            delays: Delays::AsShipped,
            rate: pick(rng, &["4", "40"]),
            others: pick(rng, &[0, 2, 7]),
            interval: pick(rng, &intervals) * MINUTE,
            skipped: pick(rng, &[0.0, 0.1, 0.4]),
            lost: pick(rng, &[0.0, 0.3, 1.0]),
            aws_faults: pick(rng, &[0.0, 0.002, 0.02]),
            net_faults: pick(rng, &[0.0, 0.01, 0.05]),
            crashes: pick(rng, &[0.0, 0.05, 0.25]),
            recycled: 0.03,
            lifetime: pick(rng, &[None, Some(2 * HOUR)]),
            shares_coverage: rng.bool(),
            throttles: pick(rng, &[0.0, 0.1]),
            repeats: pick(rng, &[0.0, 0.01, 0.05]),
            conversations: Vec::new(),
            arrivals: Vec::new(),
            faults: Vec::new(),
            actions: Vec::new(),
            outages: Vec::new(),
            erasures: Vec::new(),
        };
        if span > kept {
            // An hour is a large part of so short a retention; with real settings, that many failures take
            // a day.
            plan.skipped = plan.skipped.min(0.1);
            plan.crashes = plan.crashes.min(0.05);
        }
        plan.draw_events(rng, span, count);
        let erasures = (rng.usize(0..4), rng.usize(0..3));
        plan.draw_erasures(rng, span, erasures);
        if lasting {
            plan.draw_lasting_fault(rng, held);
        } else {
            plan.draw_faults(rng, span);
        }
        plan.draw_pauses(rng, span, kept);
        plan.draw_hands(rng, span);
        plan.draw_outages(rng, span);
        plan.arrivals.sort_by_key(|(at, _)| *at);
        plan.actions.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Many erasures in six hours with pauses, redrives, gaps that are backfilled, imports, crashes and repeats.
    pub(crate) fn with_erasures(rng: &mut Rng, deletions: usize, merges: usize) -> Self {
        let span = 6 * HOUR;
        let mut plan = Self {
            calm: span,
            settle_seconds: 300,
            rate: "40",
            interval: 5 * MINUTE,
            lost: 0.3,
            aws_faults: 0.002,
            net_faults: 0.01,
            crashes: 0.05,
            recycled: 0.03,
            shares_coverage: rng.bool(),
            repeats: 0.01,
            ..Self::quiet()
        };
        plan.draw_events(rng, span, 50);
        plan.draw_erasures(rng, span, (deletions, merges));
        plan.draw_pauses(rng, span, 2 * span);
        plan.draw_hands(rng, span);
        while plan.outages.is_empty() {
            plan.draw_outages(rng, span);
        }
        for hour in 1..6 {
            let redrive = json!({"task": "redrive", "max": 100});
            plan.actions.push((hour * HOUR, Action::Invoke(redrive)));
        }
        plan.arrivals.sort_by_key(|(at, _)| *at);
        plan.actions.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Nothing happens, and nothing fails.
    pub(crate) fn quiet() -> Self {
        Self {
            calm: Duration::ZERO,
            retention: SignedDuration::from_hours(14 * 24),
            quarantine_retention: SignedDuration::from_hours(14 * 24),
            settle_seconds: 0,
            delays: Delays::AsShipped,
            rate: "4",
            others: 0,
            interval: MINUTE,
            skipped: 0.0,
            lost: 0.0,
            aws_faults: 0.0,
            net_faults: 0.0,
            crashes: 0.0,
            recycled: 0.0,
            lifetime: None,
            shares_coverage: false,
            throttles: 0.0,
            repeats: 0.0,
            conversations: Vec::new(),
            arrivals: Vec::new(),
            faults: Vec::new(),
            actions: Vec::new(),
            outages: Vec::new(),
            erasures: Vec::new(),
        }
    }

    /// A backlog without any fault: this many events, spread over this many conversations.
    pub(crate) fn backlog(rng: &mut Rng, events: u64, conversations: u64) -> Self {
        let conversations = usize::try_from(conversations).unwrap_or(usize::MAX).max(1);
        let mut plan = Self::quiet();
        plan.conversations = (0..conversations)
            .map(|number| Conversation::new(number, ConversationKind::Plain))
            .collect();
        for number in 0..usize::try_from(events).unwrap_or(usize::MAX) {
            // Every conversation has at least one.
            let index = if number < conversations { number } else { rng.usize(0..conversations) };
            let Conversation { id, customer, .. } = &plan.conversations[index];
            let json = json!({
                "id": format!("e-{number}"), "type": "CONVERSATION/CLOSED",
                "timestamp": EPOCH.to_string(),
                "content": {"conversationId": id, "customerId": customer},
            });
            let event = Arrival::Event { id: format!("e-{number}"), conversation: index, json };
            plan.arrivals.push((Duration::ZERO, event));
        }
        rng.shuffle(&mut plan.arrivals);
        plan
    }

    fn draw_events(&mut self, rng: &mut Rng, span: Duration, count: usize) {
        let conversations = rng.usize(1..=count.div_ceil(2));
        for number in 0..conversations {
            let kind = match rng.u32(0..30) {
                // Ten rejected together would open the breaker: one in a hundred events.
                0 if number < 8 => ConversationKind::Guilty(pick(rng, &[400, 413, 422])),
                1 => ConversationKind::Gone,
                2 => ConversationKind::Merged,
                3 => ConversationKind::Poison,
                _ => ConversationKind::Plain,
            };
            self.conversations.push(Conversation::new(number, kind));
        }
        // Most are spread over the span, some arrive in a burst.
        let burst = moment(rng, Duration::ZERO, span);
        for number in 0..count {
            let at = if rng.u32(0..4) == 0 {
                burst + moment(rng, Duration::ZERO, MINUTE)
            } else {
                moment(rng, Duration::ZERO, span)
            };
            if rng.u32(0..60) == 0 {
                self.arrivals.push((at, Arrival::Foreign(format!("foreign-{number}"))));
                continue;
            }
            let index = rng.usize(0..conversations);
            let conversation = &mut self.conversations[index];
            let mut content = json!({
                "conversationId": conversation.id, "customerId": conversation.customer,
            });
            let event_type = if rng.bool() {
                let item = format!("{}-i-{}", conversation.id, conversation.items.len());
                content["messageId"] = json!(item);
                let lag = if rng.u32(0..8) == 0 {
                    moment(rng, 5 * MINUTE / 60, MINUTE / 2)
                } else {
                    Duration::ZERO
                };
                conversation.items.push((at + lag, item));
                "MESSAGE/RECEIVED"
            } else {
                let kind =
                    pick(rng, &["CONVERSATION/CLOSED", "CONVERSATION/UPDATED", "TOPIC/ADDED"]);
                if kind == "CONVERSATION/CLOSED" && rng.u32(0..4) == 0 {
                    let lag = moment(rng, MINUTE / 60, MINUTE / 2);
                    conversation.open.push((at, at + lag));
                }
                kind
            };
            let id = format!("e-{number}");
            let timestamp = instant(at);
            let json = json!({
                "id": id, "type": event_type, "timestamp": timestamp.to_string(),
                "initiator": {"id": "a-1", "type": "AGENT"}, "content": content,
            });
            let late = at + moment(rng, Duration::ZERO, 2 * MINUTE / 60);
            if rng.u32(0..20) == 0 {
                // Gladly did not get the response.
                let again = late + moment(rng, MINUTE, 20 * MINUTE);
                let event =
                    Arrival::Event { id: id.clone(), conversation: index, json: json.clone() };
                self.arrivals.push((again, event));
            }
            self.arrivals.push((late, Arrival::Event { id, conversation: index, json }));
        }
        // Events keep coming, every hour: they show that everything works again, also after the last settle
        // window, or to a breaker that only a rejected conversation keeps open.
        let conversation = Conversation::new(conversations, ConversationKind::Plain);
        let content =
            json!({"conversationId": conversation.id, "customerId": conversation.customer});
        self.conversations.push(conversation);
        let window = Duration::from_secs(self.settle_seconds.into());
        for number in 0..6 {
            let (id, at) = (format!("e-last-{number}"), span + window + 2 * MINUTE + number * HOUR);
            let json = json!({
                "id": id, "type": "CONVERSATION/CLOSED", "timestamp": instant(at).to_string(),
                "content": content,
            });
            self.arrivals.push((at, Arrival::Event { id, conversation: conversations, json }));
        }
        for conversation in &mut self.conversations {
            conversation.items.sort();
        }
    }

    /// A fault holds everything for more than a day and ends; calls still fail occasionally.
    fn draw_lasting_fault(&mut self, rng: &mut Rng, lasts: Duration) {
        let from = moment(rng, Duration::ZERO, HOUR);
        let to = from + lasts;
        let (upstream, kind) = pick(
            rng,
            &[
                (Upstream::Destination, FaultKind::Status(403)),
                (Upstream::Destination, FaultKind::Status(422)),
                (Upstream::Gladly, FaultKind::Status(403)),
                (Upstream::Gladly, FaultKind::Missing),
            ],
        );
        self.faults.push(Fault { from, to, upstream, kind });
        let upstream = pick(rng, &[Upstream::Gladly, Upstream::Destination]);
        self.faults.push(Fault { from: to, to: to + 4 * HOUR, upstream, kind: FaultKind::Flaky });
    }

    fn draw_faults(&mut self, rng: &mut Rng, span: Duration) {
        for _ in 0..rng.u32(0..4) {
            let upstream = pick(
                rng,
                &[
                    Upstream::Gladly,
                    Upstream::Gladly,
                    Upstream::Destination,
                    Upstream::Destination,
                    Upstream::Ssm,
                    Upstream::Sqs,
                    Upstream::Lambda,
                    Upstream::DynamoDb,
                ],
            );
            let external = matches!(upstream, Upstream::Gladly | Upstream::Destination);
            let kind = match rng.u32(0..if external { 7 } else { 4 }) {
                0 => {
                    FaultKind::Status(if external { pick(rng, &[500, 502, 503, 429]) } else { 500 })
                }
                1 => FaultKind::Reset,
                2 => FaultKind::Hang,
                3 => FaultKind::Flaky,
                4 if upstream == Upstream::Destination => {
                    FaultKind::Status(pick(rng, &[404, 400, 422]))
                }
                4 => FaultKind::Missing,
                _ => FaultKind::Token,
            };
            let from = moment(rng, Duration::ZERO, span);
            let longest = if external { span / 2 } else { 10 * MINUTE };
            let to = (from + moment(rng, MINUTE, longest)).min(span);
            if kind == FaultKind::Token {
                self.actions.push((to, Action::Token(upstream)));
            }
            self.faults.push(Fault { from, to, upstream, kind });
        }
    }

    fn draw_pauses(&mut self, rng: &mut Rng, span: Duration, retention: Duration) {
        let mut at = moment(rng, Duration::ZERO, span / 2);
        for number in 0..rng.u32(0..4) {
            let longest = match rng.u32(0..3) {
                _ if number == 0 && span > retention => span,
                0 => span / 2,
                _ => 20 * MINUTE,
            };
            let end = (at + moment(rng, 5 * MINUTE / 60, longest)).min(span);
            let text = match rng.u32(0..6) {
                0 => PauseText::until(end),
                1 => PauseText::nonsense(rng),
                _ => PauseText::paused(rng),
            };
            let until = matches!(text.meaning, Meaning::HeldUntil(_));
            self.actions.push((at, Action::WritePause(text)));
            if rng.u32(0..3) == 0 {
                self.actions.push((at, Action::Invoke(json!({"task": "reconcile"}))));
            }
            if !until {
                let back = if rng.bool() {
                    Action::Resume
                } else {
                    Action::WritePause(PauseText::running(rng))
                };
                self.actions.push((end, back));
            }
            at = end + moment(rng, Duration::ZERO, span / 3);
            if at >= span {
                break;
            }
        }
        if rng.u32(0..4) == 0 {
            let mut at = moment(rng, Duration::ZERO, span);
            for flip in 0..rng.u32(2..9) {
                let text =
                    if flip % 2 == 0 { PauseText::paused(rng) } else { PauseText::running(rng) };
                self.actions.push((at, Action::WritePause(text)));
                at += moment(rng, Duration::ZERO, MINUTE / 2);
            }
        }
    }

    fn draw_hands(&mut self, rng: &mut Rng, span: Duration) {
        for _ in 0..rng.u32(0..5) {
            let action = match rng.u32(0..8) {
                0 => Action::Toggle(true),
                1 => Action::Toggle(false),
                2 => Action::Deploy,
                3 => Action::Invoke(json!({"task": "status"})),
                4 => {
                    Action::Invoke(json!({"task": "discard", "reason": "rejected", "dryRun": true}))
                }
                5 => Action::Invoke(json!({"task": "quarantine"})),
                6 => {
                    let max = rng.u32(1..50);
                    let dry_run = max.is_multiple_of(4);
                    let task = json!({"task": "redrive", "max": max, "dryRun": dry_run});
                    Action::Invoke(task)
                }
                _ => Action::Invoke(json!({"task": "reconcile"})),
            };
            self.actions.push((moment(rng, Duration::ZERO, span), action));
        }
    }

    /// Some simulations have gaps, and operators who start recoveries beside the schedule.
    fn draw_outages(&mut self, rng: &mut Rng, span: Duration) {
        if rng.u32(0..6) != 0 {
            return;
        }
        // Gladly lists events for a day: a gap that the relay cannot ask about for longer loses some, with
        // an error line, whatever it does.
        let is_longer = |fault: &Fault| {
            let rejects = fault.kind == FaultKind::Status(403);
            fault.upstream == Upstream::Gladly && rejects && fault.to > fault.from + 20 * HOUR
        };
        if self.faults.iter().any(is_longer) {
            return;
        }
        let mut at = moment(rng, Duration::ZERO, span / 2);
        for _ in 0..rng.u32(1..4) {
            let to = (at + moment(rng, MINUTE, span / 3)).min(span);
            let outage = Outage { from: at, to, by_hand: rng.bool() };
            self.outages.push(outage);
            // Gladly's retries of one event take 96 minutes at most, then it disables the webhook.
            let disabled = ((2 * at + to) / 3).min(at + 90 * MINUTE);
            let off = if outage.by_hand { at } else { disabled };
            self.actions.push((off, Action::SwitchOff { by_hand: outage.by_hand }));
            if outage.by_hand {
                self.actions.push((to, Action::SwitchOn));
                // As the runbook has it: what happened just before may have been sent just after.
                let from = at.saturating_sub(MINUTE);
                let task = Action::Recover { task: "backfill", from };
                self.actions.push((to + moment(rng, Duration::ZERO, MINUTE), task));
            }
            at = to + moment(rng, Duration::ZERO, span / 4);
            if at >= span {
                break;
            }
        }
        for _ in 0..rng.u32(0..6) {
            let task = if rng.u32(0..3) == 0 { "import" } else { "backfill" };
            let from = moment(rng, Duration::ZERO, span);
            // Most while the schedule recovers too.
            let minute =
                Duration::from_secs(from.as_secs().next_multiple_of(self.interval.as_secs()));
            let at = minute + moment(rng, Duration::ZERO, MINUTE / 2);
            let from = moment(rng, Duration::ZERO, from);
            self.actions.push((at.max(from + MINUTE), Action::Recover { task, from }));
        }
    }

    /// How many seconds an event of this type is delayed.
    pub(crate) fn delay(&self, event_type: &str) -> u16 {
        let window: SettleWindow = self.settle_seconds.to_string().parse().unwrap_or_default();
        self.delays.seconds(window, event_type)
    }

    /// A conversation by its id.
    pub(crate) fn conversation(&self, id: &str) -> Option<&Conversation> {
        self.conversations.get(id.strip_prefix("c-")?.parse::<usize>().ok()?)
    }

    /// Whether a customer was merged into another, which the first of their conversations decides.
    pub(crate) fn is_merged(&self, customer: &str) -> Option<bool> {
        let number: usize = customer.strip_prefix("u-")?.parse().ok()?;
        let first = self.conversations.get((number * 10).div_ceil(9))?;
        (first.customer == customer).then_some(first.kind == ConversationKind::Merged)
    }

    /// Whether a customer had been merged into another by then.
    pub(crate) fn was_merged(&self, customer: &str, at: Timestamp) -> bool {
        let merge = self.erasure(customer).filter(|erasure| erasure.into.is_some());
        self.is_merged(customer).unwrap_or_default()
            || merge.is_some_and(|merge| instant(merge.at) <= at)
    }

    /// How an upstream fails now, if it does.
    pub(crate) fn fault_kind(&self, upstream: Upstream, now: Duration) -> Option<FaultKind> {
        let wrong = |fault: &&Fault| {
            fault.upstream == upstream
                && fault.kind != FaultKind::Token
                && (fault.from..fault.to).contains(&now)
        };
        self.faults.iter().find(wrong).map(|fault| fault.kind)
    }

    /// Whether Gladly has had no conversation all this time.
    pub(crate) fn is_missing(&self, from: Duration, to: Duration) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.kind == FaultKind::Missing && fault.from <= from && to <= fault.to)
    }

    /// How often an upstream's token has been replaced there.
    pub(crate) fn tokens_replaced(&self, upstream: Upstream, now: Duration) -> usize {
        let replaced = |fault: &&Fault| {
            fault.upstream == upstream && fault.kind == FaultKind::Token && fault.from <= now
        };
        self.faults.iter().filter(replaced).count()
    }
}

impl Conversation {
    /// Its status at Gladly.
    pub(crate) fn status(&self, at: Duration) -> &'static str {
        let is_open = self.open.iter().any(|(from, to)| (*from..*to).contains(&at));
        if is_open { "OPEN" } else { "CLOSED" }
    }

    pub(crate) fn new(number: usize, kind: ConversationKind) -> Self {
        Self {
            id: format!("c-{number}"),
            // Nine customers have ten conversations.
            customer: format!("u-{}", number * 9 / 10),
            kind,
            items: vec![(Duration::ZERO, format!("c-{number}-i-0"))],
            open: Vec::new(),
            gone_from: None,
        }
    }

    /// Whether Gladly no longer shows it.
    pub(crate) fn is_gone(&self, at: Duration) -> bool {
        self.kind == ConversationKind::Gone || self.gone_from.is_some_and(|gone| gone <= at)
    }

    /// The status with which the destination rejects it as long as it is there.
    pub(crate) fn refusal(&self, at: Duration) -> Option<u16> {
        match self.kind {
            ConversationKind::Guilty(status) if !self.is_gone(at) => Some(status),
            _ => None,
        }
    }
}

impl PauseText {
    pub(crate) fn running(rng: &mut Rng) -> Self {
        let text = pick(rng, &["running", " Running\n", r#"{"state":"running","by":"ada"}"#]);
        Self { text: text.into(), meaning: Meaning::Running }
    }

    fn paused(rng: &mut Rng) -> Self {
        let text = pick(
            rng,
            &[
                "paused",
                "PAUSED",
                r#"{"state":"paused","by":"ada","reason":"audit","since":"2026-01-01T00:00:00Z"}"#,
            ],
        );
        Self { text: text.into(), meaning: Meaning::Held }
    }

    fn until(end: Duration) -> Self {
        let until = instant(end);
        let text = json!({"state": "paused", "by": "ada", "until": until.to_string()}).to_string();
        Self { text, meaning: Meaning::HeldUntil(until) }
    }

    fn nonsense(rng: &mut Rng) -> Self {
        let text =
            pick(rng, &["stopped", r#"{"state":"running","until":"tomorrow"}"#, "[\"running\"]"]);
        Self { text: text.into(), meaning: Meaning::Held }
    }
}

//! What a seed has in store: the events, the troubles, and what the operator does.

use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{gap::Outage, world::EPOCH};

/// Everything that is drawn before the world begins. Times are counted from its beginning.
#[derive(Debug)]
pub(crate) struct Plan {
    /// When all troubles are over and the operator resumes.
    pub(crate) calm: Duration,
    pub(crate) retention: SignedDuration,
    pub(crate) quarantine_retention: SignedDuration,
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
    /// How likely an invocation's environment dies in it.
    pub(crate) crashes: f64,
    /// How likely an environment is not used again after an invocation.
    pub(crate) recycled: f64,
    /// How likely Lambda throttles an invocation of a batch.
    pub(crate) throttles: f64,
    /// How likely SQS hands out or keeps a message once more.
    pub(crate) repeats: f64,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) arrivals: Vec<(Duration, Arrival)>,
    pub(crate) troubles: Vec<Trouble>,
    pub(crate) deeds: Vec<(Duration, Deed)>,
    /// While events do not come by webhook; most plans have none, and nobody watches there.
    pub(crate) outages: Vec<Outage>,
}

/// What is special about a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConversationKind {
    Plain,
    /// The destination refuses it with this status.
    Guilty(u16),
    /// Gladly no longer has it.
    Gone,
    /// Its customer was merged into another.
    Merged,
    /// Gladly fails over it until all troubles are over.
    Poison,
}

#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) nature: ConversationKind,
    /// When each item shows, and its id.
    pub(crate) items: Vec<(Duration, String)>,
}

/// A message of the events queue.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Accepted by the relay.
    Event { id: String, conversation: usize, json: Value },
    /// Put there by somebody else.
    Foreign(String),
}

/// Something that is wrong for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) with: Upstream,
    pub(crate) how: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    Gladly,
    Destination,
    Ssm,
    Sqs,
    Lambda,
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

/// What the operator does.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// Writes the pause parameter.
    Say(Word),
    /// `make resume`.
    Resume,
    /// Invokes the function by hand.
    Invoke(Value),
    /// Writes the right token.
    Token(Upstream),
    /// Switches the mapping past the controller.
    Toggle(bool),
    /// Ships a new version: every environment begins anew.
    Deploy,
    /// The webhook is switched off: by hand, or by Gladly.
    SwitchOff { by_hand: bool },
    /// Somebody switches the webhook on.
    SwitchOn,
    /// Has a range recovered: `backfill` or `import`.
    Recover { task: &'static str, from: Duration },
}

/// A text of the pause parameter, and what it means by the contract.
#[derive(Debug, Clone)]
pub(crate) struct Word {
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
fn moment(rng: &mut Rng, from: Duration, to: Duration) -> Duration {
    let (from, to) = (from.as_millis(), to.as_millis().max(from.as_millis() + 1));
    let drawn = rng.u64(u64::try_from(from).unwrap_or(0)..u64::try_from(to).unwrap_or(u64::MAX));
    Duration::from_millis(drawn)
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(0..from.len())]
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        // Short, so that a pause can outlast it several times, but long beside the longest back-off
        // of an hour and a fifth, as in every real setting.
        let mut retention = SignedDuration::from_mins(rng.i64(720..960));
        let kept: Duration = retention.unsigned_abs();
        // What holds everything for so long, in the few worlds where something does.
        let held = moment(rng, 30 * HOUR, 40 * HOUR);
        // A schedule of minutes over a day would say nothing new and cost seconds.
        let (span, intervals, count, lasting) = match rng.u32(0..40) {
            0..24 => (moment(rng, 15 * MINUTE, HOUR), [1, 2, 5], rng.usize(5..30), false),
            24..36 => (moment(rng, HOUR, 3 * HOUR), [2, 5, 10], rng.usize(10..60), false),
            36..38 => {
                let span = kept + moment(rng, MINUTE, kept * 3 / 2);
                (span, [5, 10, 10], rng.usize(20..100), false)
            }
            _ => {
                // An event that was renewed counts from the beginning.
                retention = SignedDuration::from_hours(96);
                (held + 6 * HOUR, [5, 10, 10], rng.usize(20..100), true)
            }
        };
        let mut plan = Self {
            calm: span,
            retention,
            quarantine_retention: SignedDuration::from_mins(rng.i64(720..960)),
            rate: pick(rng, &["4", "40"]),
            others: pick(rng, &[0, 2, 7]),
            interval: pick(rng, &intervals) * MINUTE,
            skipped: pick(rng, &[0.0, 0.1, 0.4]),
            lost: pick(rng, &[0.0, 0.3, 1.0]),
            aws_faults: pick(rng, &[0.0, 0.002, 0.02]),
            net_faults: pick(rng, &[0.0, 0.01, 0.05]),
            crashes: pick(rng, &[0.0, 0.05, 0.25]),
            recycled: 0.03,
            throttles: pick(rng, &[0.0, 0.1]),
            repeats: pick(rng, &[0.0, 0.01, 0.05]),
            conversations: Vec::new(),
            arrivals: Vec::new(),
            troubles: Vec::new(),
            deeds: Vec::new(),
            outages: Vec::new(),
        };
        if span > kept {
            // Of so short a retention an hour is a large part: what fails that often and for that
            // long in a real setting takes a day.
            plan.skipped = plan.skipped.min(0.1);
            plan.crashes = plan.crashes.min(0.05);
        }
        plan.draw_events(rng, span, count);
        if lasting {
            plan.draw_lasting_trouble(rng, held);
        } else {
            plan.draw_troubles(rng, span);
        }
        plan.draw_pauses(rng, span, kept);
        plan.draw_hands(rng, span);
        plan.draw_outages(rng, span);
        plan.arrivals.sort_by_key(|(at, _)| *at);
        plan.deeds.sort_by_key(|(at, _)| *at);
        plan
    }

    /// A backlog without any trouble: this many events, spread over this many conversations.
    pub(crate) fn backlog(rng: &mut Rng, events: u64, conversations: u64) -> Self {
        let conversations = usize::try_from(conversations).unwrap_or(usize::MAX).max(1);
        let conversation = |number| Conversation::new(number, ConversationKind::Plain);
        let mut plan = Self {
            calm: Duration::ZERO,
            retention: SignedDuration::from_hours(14 * 24),
            quarantine_retention: SignedDuration::from_hours(14 * 24),
            rate: "4",
            others: 0,
            interval: MINUTE,
            skipped: 0.0,
            lost: 0.0,
            aws_faults: 0.0,
            net_faults: 0.0,
            crashes: 0.0,
            recycled: 0.0,
            throttles: 0.0,
            repeats: 0.0,
            conversations: (0..conversations).map(conversation).collect(),
            arrivals: Vec::new(),
            troubles: Vec::new(),
            deeds: Vec::new(),
            outages: Vec::new(),
        };
        for number in 0..usize::try_from(events).unwrap_or(usize::MAX) {
            // Every conversation has one at least.
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
            let nature = match rng.u32(0..30) {
                // Ten refused together would be the destination's fault: one in a hundred events.
                0 if number < 8 => ConversationKind::Guilty(pick(rng, &[400, 413, 422])),
                1 => ConversationKind::Gone,
                2 => ConversationKind::Merged,
                3 => ConversationKind::Poison,
                _ => ConversationKind::Plain,
            };
            self.conversations.push(Conversation::new(number, nature));
        }
        // Most come spread over the span, some all at once.
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
            let kind = if rng.bool() {
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
                pick(rng, &["CONVERSATION/CLOSED", "CONVERSATION/UPDATED", "TOPIC/ADDED"])
            };
            let id = format!("e-{number}");
            let timestamp = EPOCH + SignedDuration::try_from(at).unwrap_or_default();
            let json = json!({
                "id": id, "type": kind, "timestamp": timestamp.to_string(),
                "initiator": {"id": "a-1", "type": "AGENT"}, "content": content,
            });
            let late = at + moment(rng, Duration::ZERO, 2 * MINUTE / 60);
            if rng.u32(0..20) == 0 {
                // Gladly did not hear our answer.
                let again = late + moment(rng, MINUTE, 20 * MINUTE);
                let event =
                    Arrival::Event { id: id.clone(), conversation: index, json: json.clone() };
                self.arrivals.push((again, event));
            }
            self.arrivals.push((late, Arrival::Event { id, conversation: index, json }));
        }
        // Traffic goes on: it is what shows that everything works again.
        let (id, at) = ("e-last".to_owned(), span + 2 * MINUTE);
        let conversation = Conversation::new(conversations, ConversationKind::Plain);
        let json = json!({
            "id": id, "type": "CONVERSATION/CLOSED",
            "timestamp": (EPOCH + SignedDuration::try_from(at).unwrap_or_default()).to_string(),
            "content": {"conversationId": conversation.id, "customerId": conversation.customer},
        });
        self.conversations.push(conversation);
        self.arrivals.push((at, Arrival::Event { id, conversation: conversations, json }));
        for conversation in &mut self.conversations {
            conversation.items.sort();
        }
    }

    /// Something holds everything for more than a day; then it is gone, and calls still fail now and
    /// then.
    fn draw_lasting_trouble(&mut self, rng: &mut Rng, lasts: Duration) {
        let from = moment(rng, Duration::ZERO, HOUR);
        let to = from + lasts;
        let (with, how) = pick(
            rng,
            &[
                (Upstream::Destination, FaultKind::Status(403)),
                (Upstream::Destination, FaultKind::Status(422)),
                (Upstream::Gladly, FaultKind::Status(403)),
                (Upstream::Gladly, FaultKind::Missing),
            ],
        );
        self.troubles.push(Trouble { from, to, with, how });
        let with = pick(rng, &[Upstream::Gladly, Upstream::Destination]);
        self.troubles.push(Trouble { from: to, to: to + 4 * HOUR, with, how: FaultKind::Flaky });
    }

    fn draw_troubles(&mut self, rng: &mut Rng, span: Duration) {
        for _ in 0..rng.u32(0..4) {
            let with = pick(
                rng,
                &[
                    Upstream::Gladly,
                    Upstream::Gladly,
                    Upstream::Destination,
                    Upstream::Destination,
                    Upstream::Ssm,
                    Upstream::Sqs,
                    Upstream::Lambda,
                ],
            );
            let fakes = matches!(with, Upstream::Gladly | Upstream::Destination);
            let how = match rng.u32(0..if fakes { 7 } else { 4 }) {
                0 => FaultKind::Status(if fakes { pick(rng, &[500, 502, 503, 429]) } else { 500 }),
                1 => FaultKind::Reset,
                2 => FaultKind::Hang,
                3 => FaultKind::Flaky,
                4 if with == Upstream::Destination => {
                    FaultKind::Status(pick(rng, &[404, 400, 422]))
                }
                4 => FaultKind::Missing,
                _ => FaultKind::Token,
            };
            let from = moment(rng, Duration::ZERO, span);
            let longest = if fakes { span / 2 } else { 10 * MINUTE };
            let to = (from + moment(rng, MINUTE, longest)).min(span);
            if how == FaultKind::Token {
                self.deeds.push((to, Deed::Token(with)));
            }
            self.troubles.push(Trouble { from, to, with, how });
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
            let word = match rng.u32(0..6) {
                0 => Word::until(end),
                1 => Word::nonsense(rng),
                _ => Word::paused(rng),
            };
            let until = matches!(word.meaning, Meaning::HeldUntil(_));
            self.deeds.push((at, Deed::Say(word)));
            if rng.u32(0..3) == 0 {
                self.deeds.push((at, Deed::Invoke(json!({"task": "reconcile"}))));
            }
            if !until {
                let back = if rng.bool() { Deed::Resume } else { Deed::Say(Word::running(rng)) };
                self.deeds.push((end, back));
            }
            at = end + moment(rng, Duration::ZERO, span / 3);
            if at >= span {
                break;
            }
        }
        if rng.u32(0..4) == 0 {
            let mut at = moment(rng, Duration::ZERO, span);
            for flip in 0..rng.u32(2..9) {
                let word = if flip % 2 == 0 { Word::paused(rng) } else { Word::running(rng) };
                self.deeds.push((at, Deed::Say(word)));
                at += moment(rng, Duration::ZERO, MINUTE / 2);
            }
        }
    }

    fn draw_hands(&mut self, rng: &mut Rng, span: Duration) {
        for _ in 0..rng.u32(0..5) {
            let deed = match rng.u32(0..8) {
                0 => Deed::Toggle(true),
                1 => Deed::Toggle(false),
                2 => Deed::Deploy,
                3 => Deed::Invoke(json!({"task": "status"})),
                4 => Deed::Invoke(json!({"task": "status", "as": "text"})),
                5 => Deed::Invoke(json!({"task": "quarantine"})),
                6 => Deed::Invoke(json!({"task": "redrive", "max": rng.u32(1..50)})),
                _ => Deed::Invoke(json!({"task": "reconcile"})),
            };
            self.deeds.push((moment(rng, Duration::ZERO, span), deed));
        }
    }

    /// Some of the worlds have gaps, and operators who recover beside the schedule.
    fn draw_outages(&mut self, rng: &mut Rng, span: Duration) {
        if rng.u32(0..6) != 0 {
            return;
        }
        let mut at = moment(rng, Duration::ZERO, span / 2);
        for _ in 0..rng.u32(1..4) {
            let to = (at + moment(rng, MINUTE, span / 3)).min(span);
            let outage = Outage { from: at, to, by_hand: rng.bool() };
            self.outages.push(outage);
            let off = if outage.by_hand { at } else { (2 * at + to) / 3 };
            self.deeds.push((off, Deed::SwitchOff { by_hand: outage.by_hand }));
            if outage.by_hand {
                self.deeds.push((to, Deed::SwitchOn));
                let task = Deed::Recover { task: "backfill", from: at };
                self.deeds.push((to + moment(rng, Duration::ZERO, MINUTE), task));
            }
            at = to + moment(rng, Duration::ZERO, span / 4);
            if at >= span {
                break;
            }
        }
        for _ in 0..rng.u32(0..6) {
            let task = if rng.u32(0..3) == 0 { "import" } else { "backfill" };
            let from = moment(rng, Duration::ZERO, span);
            // Most while the schedule is at it too.
            let minute =
                Duration::from_secs(from.as_secs().next_multiple_of(self.interval.as_secs()));
            let at = minute + moment(rng, Duration::ZERO, MINUTE / 2);
            let from = moment(rng, Duration::ZERO, from);
            self.deeds.push((at.max(from + MINUTE), Deed::Recover { task, from }));
        }
    }

    /// A conversation by its id.
    pub(crate) fn conversation(&self, id: &str) -> Option<&Conversation> {
        self.conversations.get(id.strip_prefix("c-")?.parse::<usize>().ok()?)
    }

    /// Whether a customer was merged into another: it goes by the first of their conversations.
    pub(crate) fn is_merged(&self, customer: &str) -> Option<bool> {
        let number: usize = customer.strip_prefix("u-")?.parse().ok()?;
        let first = self.conversations.get((number * 10).div_ceil(9))?;
        (first.customer == customer).then_some(first.nature == ConversationKind::Merged)
    }

    /// What is wrong with one side now.
    pub(crate) fn fault_kind(&self, with: Upstream, now: Duration) -> Option<FaultKind> {
        let wrong = |trouble: &&Trouble| {
            trouble.with == with
                && trouble.how != FaultKind::Token
                && (trouble.from..trouble.to).contains(&now)
        };
        self.troubles.iter().find(wrong).map(|trouble| trouble.how)
    }

    /// Whether Gladly has had no conversation all this time.
    pub(crate) fn is_missing(&self, from: Duration, to: Duration) -> bool {
        self.troubles.iter().any(|trouble| {
            trouble.how == FaultKind::Missing && trouble.from <= from && to <= trouble.to
        })
    }

    /// How often the token of one side has been replaced there.
    pub(crate) fn tokens_replaced(&self, with: Upstream, now: Duration) -> usize {
        let replaced = |trouble: &&Trouble| {
            trouble.with == with && trouble.how == FaultKind::Token && trouble.from <= now
        };
        self.troubles.iter().filter(replaced).count()
    }
}

impl Conversation {
    fn new(number: usize, nature: ConversationKind) -> Self {
        Self {
            id: format!("c-{number}"),
            // Nine customers have ten conversations.
            customer: format!("u-{}", number * 9 / 10),
            nature,
            items: vec![(Duration::ZERO, format!("c-{number}-i-0"))],
        }
    }
}

impl Word {
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
        let until = EPOCH + SignedDuration::try_from(end).unwrap_or_default();
        let text = json!({"state": "paused", "by": "ada", "until": until.to_string()}).to_string();
        Self { text, meaning: Meaning::HeldUntil(until) }
    }

    fn nonsense(rng: &mut Rng) -> Self {
        let text =
            pick(rng, &["stopped", r#"{"state":"running","until":"tomorrow"}"#, "[\"running\"]"]);
        Self { text: text.into(), meaning: Meaning::Held }
    }
}

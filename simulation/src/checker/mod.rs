//! The checker: records what was accepted and its outcome, and checks the invariants. It receives
//! everything as data, and makes no calls.

mod breaker;
mod delivery;
mod erasure;
mod pause;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Range,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use testing::aws::{self, Message, Write};

use crate::{
    constants::{
        BREAKER_PARAMETER, DAY, EPOCH, INVOCATION_TIMEOUT, PAUSE_PARAMETER, RENEWAL_PARAMETER,
        elapsed, instant,
    },
    history::Journal,
    invariant,
    plan::{Conversation, ConversationKind, Plan, Upstream},
};

use self::{breaker::BreakerHistory, delivery::Deliveries, erasure::Erasures, pause::PauseHistory};
pub(crate) use self::{delivery::conversations, pause::PauseWrite};

/// Nothing is forwarded later than this after a pause.
const PAUSE_GRACE: SignedDuration = SignedDuration::from_secs(15);
/// How long a reconcile waits for a transition of the mapping at least: 40 s, less what slow calls
/// take of them.
const TRANSITION_WAIT: SignedDuration = SignedDuration::from_secs(30);

/// The input of a check beside the checker's own record, and the journal.
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) now: Timestamp,
    pub(crate) journal: &'a mut Journal,
}

impl Context<'_> {
    fn note(&mut self, line: impl FnOnce() -> String) {
        self.journal.note(elapsed(self.now), line);
    }

    fn violate(&mut self, invariant: &'static str, how: impl FnOnce() -> String) {
        self.journal.violate(elapsed(self.now), invariant, how);
    }
}

/// The invocation that does something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Invocation {
    /// The number of its environment.
    pub(crate) environment: u64,
    pub(crate) began: Timestamp,
}

/// The effects of calls on the account.
#[derive(Debug)]
pub(crate) struct Effects {
    writes: Vec<Write>,
    /// Whether each switch of the mapping was on.
    switches: Vec<bool>,
    sent: Vec<Message>,
    /// Queue, message id and the time it was sent.
    receives: Vec<(String, String, Timestamp)>,
}

impl Effects {
    /// The effects since they were last taken.
    pub(crate) fn take(account: &mut aws::State) -> Self {
        let switches = mem::take(&mut account.mapping.switches).into_iter();
        Self {
            writes: mem::take(&mut account.writes),
            switches: switches.map(|(_, enabled)| enabled).collect(),
            sent: mem::take(&mut account.messages),
            receives: mem::take(&mut account.receives),
        }
    }

    pub(crate) fn switches_mapping(&self) -> bool {
        !self.switches.is_empty()
    }
}

/// An event that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    at: Timestamp,
    conversation: usize,
    deliveries: u32,
    quarantined: bool,
}

/// The record of a simulation.
#[derive(Debug)]
pub(crate) struct Checker {
    events: BTreeMap<String, Accepted>,
    /// Messages that are not events, and whether each is in quarantine.
    foreign: BTreeMap<String, bool>,
    pauses: PauseHistory,
    breaker: BreakerHistory,
    deliveries: Deliveries,
    erasures: Erasures,
    /// The last change that affects whether the mapping must be enabled.
    changed_at: Timestamp,
    /// Bodies that were put into quarantine: a renewal puts them there once more.
    checked: BTreeSet<String>,
    /// The start of the running renewal of the events queue, if any.
    pass: Option<Timestamp>,
    /// How often each message was received in the pass that began then, while the mapping was off.
    received: BTreeMap<(Timestamp, String), u32>,
    /// Conversations that an import must deliver, and those that it delivered.
    wanted: BTreeSet<String>,
    imported: BTreeSet<String>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            foreign: BTreeMap::new(),
            pauses: PauseHistory::default(),
            breaker: BreakerHistory::default(),
            deliveries: Deliveries::default(),
            erasures: Erasures::default(),
            changed_at: EPOCH,
            checked: BTreeSet::new(),
            pass: None,
            received: BTreeMap::new(),
            wanted: BTreeSet::new(),
            imported: BTreeSet::new(),
        }
    }
}

impl Checker {
    /// How long each event waited for its first delivery.
    pub(crate) fn waits(&mut self) -> Vec<Duration> {
        mem::take(&mut self.deliveries.waits)
    }

    pub(crate) fn has_accepted(&self, id: &str) -> bool {
        self.events.contains_key(id)
    }

    /// From now on the event must be delivered or quarantined.
    pub(crate) fn accept(&mut self, id: &str, conversation: usize, at: Timestamp) {
        let accepted = Accepted { at, conversation, deliveries: 0, quarantined: false };
        self.events.entry(id.to_owned()).or_insert(accepted);
    }

    /// From now on the message must be quarantined.
    pub(crate) fn accept_foreign(&mut self, text: &str) {
        self.foreign.insert(text.to_owned(), false);
    }

    /// From now on the conversations with items in this range must be delivered.
    pub(crate) fn want_import(&mut self, plan: &Plan, range: &Range<Timestamp>) {
        let is_in = |(at, _): &(Duration, String)| range.contains(&instant(*at));
        let wanted = plan.conversations.iter().filter(|known| known.items.iter().any(is_in));
        self.wanted.extend(wanted.map(|conversation| conversation.id.clone()));
    }

    /// Follows the operator's write of the pause parameter.
    pub(crate) fn pause_written(&mut self, write: PauseWrite) {
        self.changed_at = write.at;
        self.pauses.push(write);
    }

    /// Follows a write of the breaker's parameter.
    pub(crate) fn breaker_written(&mut self, text: &str, cx: &mut Context<'_>) {
        self.changed_at = cx.now;
        if self.breaker.write(text, cx) {
            self.deliveries.called_gone.clear();
        }
    }

    /// Follows a switch of the mapping without the controller.
    pub(crate) fn mapping_switched(&mut self, at: Timestamp) {
        self.changed_at = at;
    }

    /// Notes that Gladly showed an environment a conversation.
    pub(crate) fn conversation_found(&mut self, environment: u64) {
        self.deliveries.called_gone.remove(&environment);
    }

    /// Notes a delivery that the destination refused.
    pub(crate) fn refused(&mut self, delivery: &Value) {
        self.deliveries.refuse(delivery);
    }

    /// Checks a delivery that the destination accepted.
    pub(crate) fn check_delivery(
        &mut self,
        delivery: &Value,
        by: Invocation,
        cx: &mut Context<'_>,
    ) {
        let Self { events, imported, breaker, deliveries, erasures, .. } = self;
        match erasures.take(delivery, cx.plan) {
            Ok(arrived) => {
                for event in arrived {
                    cx.journal.count("erasures delivered");
                    if let Some(event) = events.get_mut(&event) {
                        event.deliveries += 1;
                    }
                }
            }
            Err(why) => cx.violate(invariant::ERASED_STAYS_ERASED, || why),
        }
        if let Err(why) = deliveries.take(delivery, by, (events, imported), breaker, cx) {
            cx.violate(invariant::DELIVERY_IS_CORRECT, || format!("{why}: {delivery}"));
        }
    }

    /// Checks a delivery against the pause at the moment it is sent. What is on its way then may
    /// arrive: it cannot be called back.
    pub(crate) fn check_pause(&self, excused: bool, cx: &mut Context<'_>) {
        let Some(since) = self.pauses.held_since(cx.now) else { return };
        let held = cx.now.duration_since(since);
        if held <= PAUSE_GRACE {
            cx.journal.count("deliveries within the grace");
        } else if excused {
            cx.journal.count("deliveries while the parameter was unreadable");
        } else {
            cx.violate(invariant::PAUSE_HOLDS, || {
                format!("a delivery left {held} after the pause")
            });
        }
    }

    /// Checks what an invocation has done to the account. Returns the parameters whose change
    /// EventBridge sees.
    pub(crate) fn audit(
        &mut self,
        effects: Effects,
        by: Invocation,
        cx: &mut Context<'_>,
    ) -> Vec<&'static str> {
        let environment = by.environment;
        let mut changed = Vec::new();
        for write in effects.writes {
            cx.note(|| format!("env {environment} writes {} {}", write.name, write.text));
            match write.name.as_str() {
                PAUSE_PARAMETER => {
                    cx.violate(invariant::PAUSE_IS_OPERATORS, || {
                        format!("the function wrote {:?}", write.text)
                    });
                }
                BREAKER_PARAMETER => {
                    self.breaker_written(&write.text, cx);
                    changed.push(BREAKER_PARAMETER);
                }
                RENEWAL_PARAMETER => self.renewal_written(&write.text, cx),
                _ => {}
            }
        }
        for enabled in effects.switches {
            self.check_switch(enabled, by, cx);
        }
        for (queue, id, sent_at) in effects.receives {
            if queue == "events" {
                self.check_receive(environment, &id, sent_at, cx);
            }
        }
        for message in effects.sent {
            match message.queue.as_str() {
                "events" if message.body.ends_with(r#","origin":"backfill"}"#) => {
                    cx.journal.count("events queued by a recovery, or renewed after it");
                }
                "events" => cx.journal.count("events renewed or redriven"),
                _ => self.check_quarantined(&message.body, by.began, cx),
            }
        }
        changed
    }

    fn check_switch(&mut self, enabled: bool, by: Invocation, cx: &mut Context<'_>) {
        let word = if enabled { "enables" } else { "disables" };
        cx.note(|| format!("env {} {word} the mapping", by.environment));
        cx.journal.count(if enabled { "mapping enabled" } else { "mapping disabled" });
        self.changed_at = cx.now;
        let since = self.pauses.held_since(cx.now);
        // What was read before the pause is stale, and the next reconcile corrects it.
        if enabled
            && let Some(since) = since
            && since < by.began
        {
            let held = cx.now.duration_since(since);
            cx.violate(invariant::NOT_ENABLED_WHILE_PAUSED, || {
                format!("enabled {held} after the pause, by an invocation that began after it")
            });
        } else if enabled && since.is_some() {
            cx.journal.count("stale decisions");
        }
    }

    fn renewal_written(&mut self, text: &str, cx: &mut Context<'_>) {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let begun = document["events"]["pass"]["begunAt"].as_str().and_then(|at| at.parse().ok());
        let before = mem::replace(&mut self.pass, begun);
        if begun.is_some() && before != begun {
            cx.journal.count("renewals");
        }
    }

    /// Checks a receive by the function itself.
    fn check_receive(
        &mut self,
        environment: u64,
        id: &str,
        sent_at: Timestamp,
        cx: &mut Context<'_>,
    ) {
        // A pass also receives copies and new messages.
        let times = self.pass.filter(|begun| sent_at < *begun).map(|begun| {
            let times = self.received.entry((begun, id.to_owned())).or_default();
            *times += 1;
            *times
        });
        cx.journal.count("messages received in renewals");
        if self.pass.is_none() {
            cx.violate(invariant::ONE_RECEIVE_PER_RENEWAL, || {
                format!("env {environment} received {id} without one")
            });
        }
        // After a fault, a crash or a repeated message, another receive is allowed.
        let plan = cx.plan;
        let is_undisturbed = plan.aws_faults == 0.0
            && plan.crashes == 0.0
            && plan.repeats == 0.0
            && plan.faults.iter().all(|fault| fault.upstream != Upstream::Sqs);
        if is_undisturbed && times.is_some_and(|times| times > 1) {
            cx.violate(invariant::ONE_RECEIVE_PER_RENEWAL, || {
                format!("env {environment} received {id} twice")
            });
        }
    }

    /// Checks the mapping after a reconcile during which nothing changed. A transition that is longer
    /// than its wait is left to the next one.
    pub(crate) fn check_aligned(
        &self,
        began: Timestamp,
        (enabled, settles_at): (bool, Timestamp),
        cx: &mut Context<'_>,
    ) {
        let settled = settles_at <= cx.now.min(began + TRANSITION_WAIT);
        let held = |at| self.pauses.held_since(at).is_some();
        let steady = self.changed_at < began && held(began) == held(cx.now);
        let wanted = !held(cx.now) && !self.breaker.is_open();
        if steady && settled {
            cx.journal.count("reconciles with nothing left to do");
            if enabled != wanted {
                let word = if enabled { "enabled" } else { "disabled" };
                cx.violate(invariant::MAPPING_RECONCILED, || format!("it is {word}"));
            }
        }
    }

    /// Checks the reason of a quarantined message; `began` is the start of the invocation.
    fn check_quarantined(&mut self, body: &str, began: Timestamp, cx: &mut Context<'_>) {
        let envelope: Value = serde_json::from_str(body).unwrap_or_default();
        let enveloped = envelope["reason"].is_string() && envelope["raw"].is_string();
        let reason = envelope["reason"].as_str().filter(|_| enveloped).unwrap_or("exhausted");
        let raw = envelope["raw"].as_str().filter(|_| enveloped).unwrap_or(body);
        cx.note(|| format!("quarantined as {reason}: {raw}"));
        if raw.starts_with("foreign-") {
            if reason != "unreadable" {
                cx.violate(invariant::QUARANTINE_HAS_REASONS, || {
                    format!("{raw} was quarantined as {reason}")
                });
            }
            self.foreign.insert(raw.to_owned(), true);
            cx.journal.count("quarantined as unreadable");
            return;
        }
        let message: Value = serde_json::from_str(raw).unwrap_or_default();
        let id = message["event"]["id"].as_str().unwrap_or_default().to_owned();
        if message["event"]["type"] == "RELAY/IMPORTED" {
            let id = message["event"]["content"]["conversationId"].as_str().unwrap_or_default();
            self.imported.insert(id.to_owned());
            if reason != "rejected" || !self.deliveries.refused_alone(id) {
                cx.violate(invariant::QUARANTINE_HAS_REASONS, || {
                    format!("{id} was quarantined as {reason}")
                });
            }
            return;
        }
        let Some(event) = self.events.get_mut(&id) else {
            cx.violate(invariant::QUARANTINE_HAS_REASONS, || {
                format!("not an accepted event: {raw}")
            });
            return;
        };
        event.quarantined = true;
        let conversation = &cx.plan.conversations[event.conversation];
        if !self.checked.insert(body.to_owned()) {
            return;
        }
        let now = cx.now;
        let is_valid = match reason {
            // While half-open, nothing is rejected before something is accepted, or for a day.
            "rejected" => {
                let refused = |since| self.breaker.unclosed_before(since, "destination", "");
                let refused_alone = |id| self.deliveries.refused_alone(id);
                (refused_alone(&conversation.id) || refused_alone(&id))
                    && (self.deliveries.accepted_at >= began
                        || !refused(began)
                        || refused(now - DAY))
            }
            "exhausted" => {
                let until = elapsed(now).saturating_sub(INVOCATION_TIMEOUT);
                let day_ago = elapsed(now).checked_sub(DAY.unsigned_abs());
                let missing = day_ago.is_some_and(|from| cx.plan.is_missing(from, until));
                let poisoned = conversation.kind == ConversationKind::Poison;
                missing || poisoned && !self.was_held(now)
            }
            _ => false,
        };
        if is_valid {
            cx.journal.count(match reason {
                "rejected" => "quarantined as rejected",
                _ => "quarantined as exhausted",
            });
        } else {
            let kind = conversation.kind;
            cx.violate(invariant::QUARANTINE_HAS_REASONS, || {
                format!("event {id} of a {kind:?} conversation was quarantined as {reason}")
            });
        }
    }

    /// Whether anything has held extraction within a day.
    fn was_held(&self, now: Timestamp) -> bool {
        self.breaker.held_within_a_day(now) || self.pauses.held_within_a_day(now)
    }

    /// Checks the outcome of every event at the end of the simulation, with these bodies in quarantine
    /// and this text in the pause parameter.
    pub(crate) fn check_end(&mut self, quarantine: &[String], pause: &str, cx: &mut Context<'_>) {
        // Messages moved by the redrive policy are new to the checker.
        for event in self.events.values_mut() {
            event.quarantined = false;
        }
        for is_quarantined in self.foreign.values_mut() {
            *is_quarantined = false;
        }
        for body in quarantine {
            self.check_quarantined(body, cx.now, cx);
        }
        let lost = self.events.iter();
        let lost = lost.filter(|(_, event)| event.deliveries == 0 && !event.quarantined);
        let foreign =
            self.foreign.iter().filter(|(_, is_quarantined)| !**is_quarantined).map(|(id, _)| id);
        let missing = self.wanted.difference(&self.imported);
        let lost: Vec<_> = lost.map(|(id, _)| id).chain(foreign).chain(missing).cloned().collect();
        if !lost.is_empty() {
            cx.violate(invariant::AT_LEAST_ONCE, || format!("lost: {}", lost.join(", ")));
        }
        let is_due = |id: &str| self.events.get(id).is_some_and(|event| !event.quarantined);
        let mut missing = self.erasures.missing(cx.plan, is_due);
        let known = self.events.values().filter(|event| event.deliveries > 0);
        let known = known.map(|event| &cx.plan.conversations[event.conversation]);
        let is_there = |it: &&Conversation| {
            let is_sound = matches!(it.kind, ConversationKind::Plain | ConversationKind::Merged);
            it.gone_from.is_none() && is_sound && !self.deliveries.is_called_gone(&it.id)
        };
        let hidden = known.filter(is_there).filter(|it| !self.erasures.shows(&it.id));
        missing.extend(hidden.map(|it| it.id.clone()));
        if !missing.is_empty() {
            cx.violate(invariant::ERASED_STAYS_ERASED, || {
                format!("a reader lacks {}", missing.join(", "))
            });
        }
        if self.pauses.text().is_some_and(|text| text != pause) {
            cx.violate(invariant::PAUSE_IS_OPERATORS, || format!("it holds {pause:?} in the end"));
        }
    }
}

//! What was promised, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    fakes::INVOCATION,
    plan::{ConversationKind, Meaning, Upstream},
    world::{BREAKER, EPOCH, PAUSE, RENEWAL, World},
};

/// Nothing is forwarded later than this after a pause.
const GRACE: SignedDuration = SignedDuration::from_secs(15);
/// How long a reconcile waits for a transition of the mapping at least: 40 s, less what slow calls
/// take of them.
const WAITED_FOR: SignedDuration = SignedDuration::from_secs(30);

/// How long an event has to have failed by itself before it is given up.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// The breaker's reason while Gladly has none of the conversations.
pub(crate) const NONE_FOUND: &str = "Gladly answers 404 to every conversation";

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What happened instead.
    pub how: String,
}

/// The promises, in words.
pub(crate) mod invariant {
    pub(crate) const KEPT: &str =
        "every accepted event is delivered at least once or stands in quarantine with a reason";
    pub(crate) const HEALTHY: &str = "quarantine holds only what there is a reason for";
    pub(crate) const HELD: &str = "nothing is delivered more than 15 s into a pause";
    pub(crate) const OPERATOR: &str = "the pause parameter is the operator's alone";
    pub(crate) const SWITCH: &str = "the mapping is not switched on while the operator pauses";
    pub(crate) const ALIGNED: &str = "a reconcile leaves the mapping as the parameters say";
    pub(crate) const QUIET: &str =
        "a held event is received at most once in a renewal while the mapping is off";
    pub(crate) const HONEST: &str = "a delivery carries what Gladly showed, under the schema";
    pub(crate) const DRAINED: &str = "once all troubles are over the backlog drains";
    pub(crate) const SOUND: &str = "nothing panics, and nothing is asked that AWS does not take";
}

/// An event that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) at: Timestamp,
    pub(crate) conversation: usize,
    pub(crate) deliveries: u32,
    pub(crate) quarantined: bool,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) events: BTreeMap<String, Accepted>,
    /// Messages that were never an event, and whether each stands in quarantine.
    pub(crate) foreign: BTreeMap<String, bool>,
    /// What the operator wrote, in order.
    pub(crate) words: Vec<(Timestamp, Meaning, String)>,
    pub(crate) violation: Option<Violation>,
    /// When anything last changed that decides whether the mapping is to be on.
    pub(crate) changed_at: Timestamp,
    /// The last state of the breaker.
    breaker: String,
    /// While it is open or half-open: since when for this cause, the cause and the reason.
    unclosed: Option<(Timestamp, String, String)>,
    /// When it last closed.
    closed_at: Timestamp,
    /// What was put into quarantine: a renewal puts it there once more.
    judged: BTreeSet<String>,
    /// Since when the renewal of the events queue is going on, if it is.
    pass: Option<Timestamp>,
    /// How often each message was received in the pass that began then, while the mapping was off.
    received: BTreeMap<(Timestamp, String), u32>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            foreign: BTreeMap::new(),
            words: Vec::new(),
            violation: None,
            changed_at: EPOCH,
            breaker: "closed".into(),
            unclosed: None,
            closed_at: Timestamp::MIN,
            judged: BTreeSet::new(),
            pass: None,
            received: BTreeMap::new(),
        }
    }
}

impl Checker {
    /// Since when the operator's word has held everything without a break, if it does.
    pub(crate) fn held_since(&self, now: Timestamp) -> Option<Timestamp> {
        let mut since = None;
        for (index, (at, meaning, _)) in self.words.iter().enumerate() {
            let end = self.words.get(index + 1).map_or(now, |(next, ..)| *next);
            since = match meaning {
                Meaning::Running => None,
                Meaning::HeldUntil(until) if *until <= end => None,
                Meaning::Held | Meaning::HeldUntil(_) => since.or(Some(*at)),
            };
        }
        since
    }
}

impl Checker {
    /// Whether the breaker has been open or half-open for this since before then. No reason is any.
    pub(crate) fn unclosed_before(&self, then: Timestamp, cause: &str, reason: &str) -> bool {
        self.unclosed.as_ref().is_some_and(|(since, by, why)| {
            *since < then && by == cause && (reason.is_empty() || why == reason)
        })
    }

    /// Whether anything has held extraction within a day.
    fn was_held(&self, now: Timestamp) -> bool {
        let lately = |at: Timestamp| now.duration_since(at) < DAY;
        self.unclosed.is_some()
            || lately(self.closed_at)
            || self.held_since(now).is_some()
            || self.words.iter().any(|(at, meaning, _)| match meaning {
                Meaning::HeldUntil(until) => lately(*at) || lately(*until),
                Meaning::Running | Meaning::Held => lately(*at),
            })
    }
}

impl World {
    /// Checks a delivery against the operator's word at the moment it is sent. What is on its way
    /// then may arrive: nobody can call it back.
    pub(crate) fn check_pause(&self, excused: bool) {
        let now = self.now();
        let held = self.state().checker.held_since(now);
        let Some(since) = held else { return };
        if now.duration_since(since) <= GRACE {
            self.count("deliveries within the grace");
        } else if excused {
            self.count("deliveries while the parameter was unreadable");
        } else {
            self.violate(invariant::HELD, || {
                format!("a delivery left {} after the pause", now.duration_since(since))
            });
        }
    }

    /// Looks at what calls have done to the account since the last look.
    pub(crate) fn audit(&self, environment: u64, began: Timestamp) {
        let now = self.now();
        let (writes, switches, sent, receives) = {
            let mut account = self.aws.state();
            let switches = mem::take(&mut account.mapping.switches);
            let sent = mem::take(&mut account.messages);
            let receives = mem::take(&mut account.receives);
            (mem::take(&mut account.writes), switches, sent, receives)
        };
        for write in writes {
            self.note(|| format!("env {environment} writes {} {}", write.name, write.text));
            match write.name.as_str() {
                PAUSE => {
                    self.violate(invariant::OPERATOR, || {
                        format!("the function wrote {:?}", write.text)
                    });
                }
                BREAKER => {
                    self.see_breaker(&write.text);
                    self.state().changes.push(BREAKER);
                }
                RENEWAL => self.see_renewal(&write.text),
                _ => {}
            }
        }
        for (_, enabled) in switches {
            self.note(|| {
                format!(
                    "env {environment} switches the mapping {}",
                    if enabled { "on" } else { "off" }
                )
            });
            self.count(if enabled { "mapping switched on" } else { "mapping switched off" });
            self.switched.notify_waiters();
            self.state().checker.changed_at = now;
            let since = self.state().checker.held_since(now);
            // What was read before the pause is stale, and the next reconcile corrects it.
            if enabled
                && let Some(since) = since
                && since < began
            {
                self.violate(invariant::SWITCH, || {
                    format!(
                        "switched on {} after the pause, by an invocation that began after it",
                        now.duration_since(since)
                    )
                });
            } else if enabled && since.is_some() {
                self.count("stale decisions");
            }
        }
        for (queue, id, sent_at) in receives {
            if queue == "events" {
                self.check_receive(environment, &id, sent_at);
            }
        }
        for message in sent {
            match message.queue.as_str() {
                "events" if message.body.ends_with(r#","origin":"backfill"}"#) => {
                    self.count("events queued by a recovery, or renewed after it");
                }
                "events" => self.count("events renewed or redriven"),
                _ => self.check_quarantined(&message.body, began),
            }
        }
    }

    pub(crate) fn see_breaker(&self, text: &str) {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let state = document["state"].as_str().unwrap_or_default().to_owned();
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let (cause, reason, now) = (text("cause"), text("reason"), self.now());
        let before = {
            let state_of_world = &mut *self.state();
            let checker = &mut state_of_world.checker;
            checker.changed_at = now;
            let was_unclosed = checker.unclosed.as_ref().map(|(since, ..)| *since);
            checker.unclosed = match checker.unclosed.take() {
                _ if state == "closed" => None,
                Some((since, by, why))
                    if by == cause && (why == NONE_FOUND) == (reason == NONE_FOUND) =>
                {
                    Some((since, by, reason))
                }
                _ => Some((now, cause, reason)),
            };
            if state == "closed" && checker.breaker != "closed" {
                checker.closed_at = now;
                if was_unclosed.is_some_and(|since| now.duration_since(since) >= DAY) {
                    state_of_world.tally.count("breaker unclosed for a day");
                }
                state_of_world.delivered.called_gone.clear();
            }
            mem::replace(&mut checker.breaker, state.clone())
        };
        match (before.as_str(), state.as_str()) {
            ("half-open", "open") => self.count("breaker re-opened"),
            (before, "open") if before != "open" => self.count("breaker opened"),
            (before, "half-open") if before != "half-open" => self.count("breaker half-open"),
            ("open" | "half-open", "closed") => self.count("breaker closed"),
            _ => {}
        }
    }

    fn see_renewal(&self, text: &str) {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let begun = document["events"]["pass"]["begunAt"].as_str().and_then(|at| at.parse().ok());
        let before = mem::replace(&mut self.state().checker.pass, begun);
        if begun.is_some() && before != begun {
            self.count("renewals");
        }
    }

    /// Checks a receive by the function itself.
    fn check_receive(&self, environment: u64, id: &str, sent_at: Timestamp) {
        let (pass, times) = {
            let checker = &mut self.state().checker;
            let pass = checker.pass;
            // Copies and newcomers are seen while the old ones are looked for.
            let times = pass.filter(|begun| sent_at < *begun).map(|begun| {
                let times = checker.received.entry((begun, id.to_owned())).or_default();
                *times += 1;
                *times
            });
            (pass, times)
        };
        self.count("messages received in renewals");
        if pass.is_none() {
            self.violate(invariant::QUIET, || {
                format!("env {environment} received {id} without one")
            });
        }
        // What fails, is cut short or comes twice is tried again.
        let plan = &self.plan;
        let sheltered = plan.aws_faults == 0.0
            && plan.crashes == 0.0
            && plan.repeats == 0.0
            && plan.troubles.iter().all(|trouble| trouble.with != Upstream::Sqs);
        if sheltered && times.is_some_and(|times| times > 1) {
            self.violate(invariant::QUIET, || format!("env {environment} received {id} twice"));
        }
    }

    /// Checks what a reconcile leaves behind, where nothing changed while it was at work. A transition
    /// that ends later than it waits for is left to the next one.
    pub(crate) fn check_aligned(&self, began: Timestamp) {
        let now = self.now();
        let (enabled, settled) = {
            let mapping = &self.aws.state().mapping;
            (mapping.enabled, mapping.settles_at <= now.min(began + WAITED_FOR))
        };
        let state = self.state();
        let held = |at| state.checker.held_since(at).is_some();
        let steady = state.checker.changed_at < began && held(began) == held(now);
        let wanted = !held(now) && state.checker.breaker != "open";
        drop(state);
        if steady && settled {
            self.count("reconciles with nothing left to do");
            if enabled != wanted {
                let word = if enabled { "on" } else { "off" };
                self.violate(invariant::ALIGNED, || format!("it is {word}"));
            }
        }
    }

    /// Checks that there is a reason for what is put into quarantine, by an invocation that began
    /// then.
    pub(crate) fn check_quarantined(&self, body: &str, began: Timestamp) {
        let envelope: Value = serde_json::from_str(body).unwrap_or_default();
        let enveloped = envelope["reason"].is_string() && envelope["raw"].is_string();
        let reason = envelope["reason"].as_str().filter(|_| enveloped).unwrap_or("exhausted");
        let raw = envelope["raw"].as_str().filter(|_| enveloped).unwrap_or(body);
        self.note(|| format!("quarantined as {reason}: {raw}"));
        if raw.starts_with("foreign-") {
            if reason != "unreadable" {
                self.violate(invariant::HEALTHY, || format!("{raw} stands there as {reason}"));
            }
            self.state().checker.foreign.insert(raw.to_owned(), true);
            self.count("quarantined as unreadable");
            return;
        }
        let message: Value = serde_json::from_str(raw).unwrap_or_default();
        let id = message["event"]["id"].as_str().unwrap_or_default().to_owned();
        if message["event"]["type"] == "RELAY/IMPORTED" {
            let id = message["event"]["content"]["conversationId"].as_str().unwrap_or_default();
            self.see_imported(id);
            let refused = self.state().delivered.refused_alone(id);
            if reason != "rejected" || !refused {
                self.violate(invariant::HEALTHY, || format!("{id} stands there as {reason}"));
            }
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(event) = state.checker.events.get_mut(&id) else {
            drop(guard);
            self.violate(invariant::HEALTHY, || format!("no event of ours: {raw}"));
            return;
        };
        event.quarantined = true;
        let conversation = &self.plan.conversations[event.conversation];
        if !state.checker.judged.insert(body.to_owned()) {
            return;
        }
        let now = self.now();
        let grounded = match reason {
            // While the destination is tried, nothing is rejected before something is accepted, or
            // a day is over.
            "rejected" => {
                let refused = |since| state.checker.unclosed_before(since, "destination", "");
                state.delivered.refused_alone(&conversation.id)
                    && (state.delivered.accepted_at >= began
                        || !refused(began)
                        || refused(now - DAY))
            }
            "exhausted" => {
                let until = self.elapsed().saturating_sub(INVOCATION);
                let day_ago = self.elapsed().checked_sub(DAY.unsigned_abs());
                let missing = day_ago.is_some_and(|from| self.plan.is_missing(from, until));
                let poisoned = conversation.nature == ConversationKind::Poison;
                missing || poisoned && !state.checker.was_held(now)
            }
            _ => false,
        };
        drop(guard);
        if grounded {
            self.count(match reason {
                "rejected" => "quarantined as rejected",
                _ => "quarantined as exhausted",
            });
        } else {
            let nature = conversation.nature;
            self.violate(invariant::HEALTHY, || {
                format!("event {id} of a {nature:?} conversation stands there as {reason}")
            });
        }
    }

    /// The account's end: whether everything is where it should be. `None` while it is not yet.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.now();
        self.is_recovered() && self.aws.state().queue("events", now).is_empty()
    }

    /// Checks what became of every event.
    pub(crate) fn check_end(&self) {
        let now = self.now();
        let quarantine: Vec<_> = {
            let mut account = self.aws.state();
            account.queue("quarantine", now).bodies().map(|(_, body)| body.clone()).collect()
        };
        // Whoever was moved there by the redrive policy has not been seen before.
        for event in self.state().checker.events.values_mut() {
            event.quarantined = false;
        }
        for stands in self.state().checker.foreign.values_mut() {
            *stands = false;
        }
        for body in quarantine {
            self.check_quarantined(&body, now);
        }
        let state = self.state();
        let lost = state.checker.events.iter();
        let lost = lost.filter(|(_, event)| event.deliveries == 0 && !event.quarantined);
        let lost: Vec<_> = lost.map(|(id, _)| id.clone()).collect();
        let foreign = state.checker.foreign.iter().filter(|(_, stands)| !**stands);
        let foreign: Vec<_> = foreign.map(|(id, _)| id.clone()).collect();
        drop(state);
        let foreign: Vec<_> = foreign.into_iter().chain(self.missing_imports()).collect();
        if !lost.is_empty() || !foreign.is_empty() {
            let lost: Vec<_> = lost.into_iter().chain(foreign).collect();
            self.violate(invariant::KEPT, || format!("lost: {}", lost.join(", ")));
        }
        let text = self.aws.state().parameters.get(PAUSE).cloned().unwrap_or_default();
        let said = self.state().checker.words.last().map(|(.., text)| text.clone());
        if said.is_some_and(|said| said != text) {
            self.violate(invariant::OPERATOR, || format!("it says {text:?} in the end"));
        }
    }

    /// Says why the backlog has not drained.
    pub(crate) fn check_drained(&self, waited: Duration) {
        let now = self.now();
        let (left, mapping) = {
            let mut account = self.aws.state();
            (account.queue("events", now).len(), account.mapping.state(now))
        };
        let breaker = self.aws.state().parameters.get(BREAKER).cloned().unwrap_or_default();
        self.violate(invariant::DRAINED, || {
            format!(
                "{left} messages are left after {} minutes; mapping {mapping}, breaker {breaker:?}, recovered: {}",
                waited.as_secs() / 60,
                self.is_recovered()
            )
        });
    }
}

/// Whether the destination refuses a conversation for good.
pub(crate) fn refusal(nature: ConversationKind) -> Option<u16> {
    match nature {
        ConversationKind::Guilty(status) => Some(status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_its_first_word_to_its_last() {
        let at = |second| EPOCH + SignedDuration::from_secs(second);
        let words = [
            (at(10), Meaning::Held),
            (at(20), Meaning::HeldUntil(at(50))),
            (at(60), Meaning::HeldUntil(at(80))),
            (at(70), Meaning::Held),
            (at(90), Meaning::Running),
        ];
        let words = words.map(|(at, meaning)| (at, meaning, String::new())).to_vec();
        for (now, since) in [
            (9, None),
            (15, Some(10)),
            (49, Some(10)),
            (50, None),
            (65, Some(60)),
            (89, Some(60)),
            (91, None),
        ] {
            let said = words.iter().filter(|(said_at, ..)| *said_at <= at(now)).cloned().collect();
            let checker = Checker { words: said, ..Checker::default() };
            assert_eq!(checker.held_since(at(now)), since.map(at), "at {now} s");
        }
    }
}

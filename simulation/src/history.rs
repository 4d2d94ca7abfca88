//! The history of a simulation, and the counts of what it covered.

use std::{collections::BTreeMap, time::Duration};

use crate::invariant::Violation;

/// What to do with the lines of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Discard them.
    Nothing,
    /// Keep them for the report.
    Lines,
    /// Also print each to standard error.
    Shown,
}

/// The lines.
#[derive(Debug)]
pub(crate) struct History {
    keep: Keep,
    lines: Vec<String>,
}

impl History {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { keep, lines: Vec::new() }
    }

    /// Adds a line, which is formatted only if it is kept.
    pub(crate) fn note(&mut self, at: Duration, line: impl FnOnce() -> String) {
        if self.keep == Keep::Nothing {
            return;
        }
        let (minutes, rest) = (at.as_secs() / 60, at.as_millis() % 60_000);
        let line = format!(
            "{:>3}:{:02}:{:02}.{:03}  {}",
            minutes / 60,
            minutes % 60,
            rest / 1_000,
            rest % 1_000,
            line()
        );
        if self.keep == Keep::Shown {
            eprintln!("{line}");
        }
        self.lines.push(line);
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

/// What must happen at least once in a few hundred seeds, for the simulation to test what it is for.
pub const COVERAGE: [&str; 50] = [
    "quotas nearly used up",
    "AWS faults",
    "answers lost",
    "backfills",
    "batches",
    "breaker closed",
    "breaker half-open",
    "breaker opened",
    "breaker re-opened",
    "breaker unclosed for a day",
    "calls to DynamoDB",
    "conversations not found for a while",
    "crashes",
    "deletions that failed",
    "deliveries within the grace",
    "deploys",
    "events covered",
    "events covered by another environment",
    "events delivered",
    "events delivered again",
    "events delivered past the retention",
    "events gone",
    "events not sent",
    "events queued by a recovery, or renewed after it",
    "events renewed or redriven",
    "failed calls to Gladly",
    "failed deliveries",
    "imports",
    "lost parameter events",
    "mapping disabled",
    "mapping enabled",
    "messages received in renewals",
    "messages repeated by SQS",
    "parameter events",
    "pauses",
    "pauses until a time",
    "polls of a disabled mapping",
    "quarantined as rejected",
    "quarantined as unreadable",
    "reconciles with nothing left to do",
    "redrives",
    "refused credentials",
    "renewals",
    "resumes",
    "skipped schedules",
    "slow answers",
    "mapping switched without the controller",
    "throttled batches",
    "webhooks disabled by Gladly",
    "webhooks re-enabled",
];

/// How often each of these happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one more.
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts many more.
    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often it happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// Adds another tally to this one.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    /// Everything counted, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, times)| (*what, *times))
    }
}

/// The record of a simulation.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) history: History,
    pub(crate) tally: Tally,
    /// The first invariant that did not hold.
    pub(crate) violation: Option<Violation>,
}

impl Journal {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { history: History::new(keep), tally: Tally::default(), violation: None }
    }

    pub(crate) fn note(&mut self, at: Duration, line: impl FnOnce() -> String) {
        self.history.note(at, line);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.tally.count(what);
    }

    /// Records that an invariant does not hold. The first violation is kept.
    pub(crate) fn violate(
        &mut self,
        at: Duration,
        invariant: &'static str,
        how: impl FnOnce() -> String,
    ) {
        if self.violation.is_none() {
            let how = how();
            self.history.note(at, || format!("VIOLATION of \"{invariant}\": {how}"));
            self.violation = Some(Violation { invariant, how });
        }
    }
}

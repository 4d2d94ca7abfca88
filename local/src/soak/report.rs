//! The report of a run: the outcome of every event, and the faults and actions in the run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::process::Memory;
use testing::gladly::Attempt;

/// No call may leave later than this after a pause.
const GRACE: Duration = Duration::from_secs(15);
/// The most memory a process may use, in MiB: a quarter of what the template gives ingest-fn, an eighth of extractor-fn's.
pub(super) const MAX_MEMORY_MIB: f64 = 64.0;

/// The report of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Events emitted at Gladly.
    pub sent: usize,
    /// Events answered 200 `queued`.
    pub accepted: usize,
    /// Events with malformed ids, answered 200 `quarantined`.
    pub quarantined_on_arrival: usize,
    /// Events that failed at least once before they were accepted.
    pub repeated: usize,
    /// The most attempts that an event needed, of Gladly's five.
    pub tries: usize,
    /// Attempts that were not answered 2xx, by their status.
    pub refusals: BTreeMap<String, usize>,
    /// Events never accepted.
    pub unaccepted: usize,
    /// Accepted events that arrived exactly once.
    pub once: usize,
    /// Accepted events that arrived more than once.
    pub more: usize,
    /// Accepted events in quarantine, by reason.
    pub quarantined: BTreeMap<String, usize>,
    /// Accepted events that were neither delivered nor quarantined.
    pub lost: Vec<String>,
    /// Messages left in the events queue at the limit of the drain.
    pub waiting: usize,
    /// Messages in quarantine without a valid reason.
    pub unexplained: Vec<String>,
    /// Deliveries that were accepted.
    pub deliveries: usize,
    /// Schema violations of deliveries.
    pub invalid: Vec<String>,
    /// Calls to Gladly or the destination over 15 s into a pause.
    pub late: Vec<String>,
    /// Faults by the target that failed and by kind: how often each hit.
    pub faults: Vec<(String, String, usize)>,
    /// Planned faults that hit no call.
    pub unused_faults: Vec<String>,
    /// Processes killed, and how many of them in the middle of an invocation: ingest-fn, extractor-fn.
    pub kills: [(usize, usize); 2],
    /// How often the operator did each action.
    pub actions: BTreeMap<&'static str, usize>,
    /// The functions' memory: ingest-fn, extractor-fn.
    pub memory: Vec<(&'static str, Memory)>,
    /// The number of log lines.
    pub lines: usize,
    /// Secrets that were logged.
    pub leaks: Vec<String>,
    /// Whether the destination rejects conversations.
    pub rejects: bool,
    /// Whether the run was long enough to judge the growth of memory.
    pub judges_memory: bool,
    /// How long events were sent, with faults.
    pub with_faults: Duration,
    /// From the end of all faults until everything was accounted for.
    pub drain: Duration,
}

/// An event in quarantine.
#[derive(Debug)]
pub(super) struct QuarantinedEvent {
    pub(super) event: String,
    pub(super) conversation: String,
    pub(super) reason: String,
}

impl QuarantinedEvent {
    /// Reads a message of the quarantine queue.
    pub(super) fn read(body: &str) -> Self {
        let envelope: Value = serde_json::from_str(body).unwrap_or_default();
        let raw = envelope["raw"].as_str().unwrap_or_default();
        let raw: Value = serde_json::from_str(raw).unwrap_or_default();
        // From extractor-fn it is the queue's message, from ingest-fn the webhook.
        let event = raw.get("event").unwrap_or(&raw);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            event: text(&event["id"]),
            conversation: text(&event["content"]["conversationId"]),
            reason: text(&envelope["reason"]),
        }
    }
}

impl Report {
    /// Records the responses to the sender. Returns the accepted events.
    pub(super) fn sent(
        &mut self,
        sent: &BTreeSet<String>,
        attempts: &[Attempt],
    ) -> BTreeSet<String> {
        let mut accepted = BTreeSet::new();
        let mut quarantined_on_arrival = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for attempt in attempts.iter().filter(|attempt| sent.contains(&attempt.event)) {
            let event = attempt.event.clone();
            self.tries = self.tries.max(attempt.number);
            match (attempt.status, attempt.answer.as_str()) {
                (Some(200), r#"{"status":"queued"}"#) => _ = accepted.insert(event),
                (Some(200), r#"{"status":"quarantined"}"#) => {
                    _ = quarantined_on_arrival.insert(event);
                }
                (status, _) => {
                    let status = status.map_or_else(|| "no answer".to_owned(), |it| it.to_string());
                    *self.refusals.entry(status).or_default() += 1;
                    refused.insert(event);
                }
            }
        }
        self.sent = sent.len();
        self.accepted = accepted.len();
        self.quarantined_on_arrival = quarantined_on_arrival.len();
        self.unaccepted = sent.len() - accepted.union(&quarantined_on_arrival).count();
        self.repeated = refused
            .iter()
            .filter(|it| accepted.contains(*it) || quarantined_on_arrival.contains(*it))
            .count();
        accepted
    }

    /// Accounts for every accepted event. `refused` are the conversations that the destination rejects, `malformed` the
    /// events that were sent with an invalid id.
    pub(super) fn account(
        &mut self,
        accepted: &BTreeSet<String>,
        times: impl Fn(&str) -> usize,
        in_quarantine: &[QuarantinedEvent],
        refused: &BTreeSet<String>,
        malformed: &BTreeSet<String>,
    ) {
        let reasons: BTreeMap<_, _> = in_quarantine
            .iter()
            .map(|message| (message.event.as_str(), message.reason.as_str()))
            .collect();
        for message in in_quarantine {
            let is_valid = match message.reason.as_str() {
                "rejected" => refused.contains(&message.conversation),
                "invalid-id" => malformed.contains(&message.event),
                _ => false,
            };
            if !is_valid {
                self.unexplained.push(format!("{} as {}", message.event, message.reason));
            }
        }
        for event in accepted {
            match (times(event), reasons.get(event.as_str())) {
                (0, None) => self.lost.push(event.clone()),
                (0, Some(reason)) => {
                    *self.quarantined.entry((*reason).to_owned()).or_default() += 1;
                }
                (1, _) => self.once += 1,
                (_, _) => self.more += 1,
            }
        }
        // Answered `quarantined`, so they must be in quarantine.
        let gone = malformed.iter().filter(|event| !reasons.contains_key(event.as_str()));
        self.lost.extend(gone.map(|event| format!("{event}, which was answered quarantined")));
    }

    /// Finds calls that left over 15 s into a pause.
    pub(super) fn check_pauses(
        &mut self,
        pauses: &[(Instant, Instant)],
        calls: &[(String, Instant)],
    ) {
        for (call, at) in calls {
            for (from, to) in pauses {
                if *at > *from + GRACE && at < to {
                    let into = at.duration_since(*from).as_secs_f64();
                    self.late.push(format!("{call} {into:.1} s into a pause"));
                }
            }
        }
    }

    /// Why the run failed, one sentence per reason; empty if it succeeded.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut fail = |broken: bool, sentence: String| {
            if broken {
                failures.push(sentence);
            }
        };
        let some = |list: &[String]| {
            let shown = list.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            if list.len() > 5 { format!("{shown}, …") } else { shown }
        };
        fail(
            !self.lost.is_empty(),
            format!("{} events are lost: {}", self.lost.len(), some(&self.lost)),
        );
        fail(
            self.waiting > 0,
            format!(
                "{} events were left in the queue after the drain limit",
                grouped(self.waiting)
            ),
        );
        fail(
            self.unaccepted > 0,
            format!(
                "{} events were never accepted, and Gladly disabled the webhook",
                self.unaccepted
            ),
        );
        fail(
            !self.unexplained.is_empty(),
            format!("in quarantine without a valid reason: {}", some(&self.unexplained)),
        );
        fail(
            !self.invalid.is_empty(),
            format!("deliveries violate the schema: {}", some(&self.invalid)),
        );
        fail(!self.late.is_empty(), format!("calls during a pause: {}", some(&self.late)));
        fail(!self.leaks.is_empty(), format!("secrets in the logs: {}", some(&self.leaks)));
        fail(
            !self.unused_faults.is_empty(),
            format!("faults that hit no call: {}", some(&self.unused_faults)),
        );
        for (name, (_, struck)) in ["ingest-fn", "extractor-fn"].iter().zip(self.kills) {
            fail(struck == 0, format!("{name} was never killed in the middle of an invocation"));
        }
        for what in ["pause", "resume", "key rotated", "redeploy"] {
            fail(!self.actions.contains_key(what), format!("there was no {what}"));
        }
        fail(
            self.rejects && self.quarantined.is_empty(),
            "the destination rejected no event".to_owned(),
        );
        fail(self.repeated == 0, "no event had to be sent twice".to_owned());
        for (name, memory) in &self.memory {
            fail(
                memory.peak > MAX_MEMORY_MIB,
                format!("{name} used {:.1} MiB, over {MAX_MEMORY_MIB:.0}", memory.peak),
            );
            if self.judges_memory {
                fail(
                    !memory.is_judged(),
                    format!("no process of {name} ran long enough to judge its memory"),
                );
                fail(
                    memory.is_judged() && memory.grows(),
                    format!(
                        "the memory of {name} grows: from {:.1} to {:.1} MiB",
                        memory.first, memory.last
                    ),
                );
            }
        }
        failures
    }
}

/// `1,234`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn counts<K: Display>(counts: &BTreeMap<K, usize>) -> String {
    let all: Vec<_> =
        counts.iter().map(|(what, count)| format!("{what} × {}", grouped(*count))).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut row = |what: &str, value: String| writeln!(f, "  {what:<26} {value}");
        row("events sent", grouped(self.sent))?;
        row("accepted (200 queued)", grouped(self.accepted))?;
        row(
            "quarantined by ingest-fn",
            format!("{} (invalid ids)", grouped(self.quarantined_on_arrival)),
        )?;
        row(
            "retried, then accepted",
            format!("{}, at most {} of 5 attempts", grouped(self.repeated), self.tries),
        )?;
        row("  failed attempts", counts(&self.refusals))?;
        row("delivered once", grouped(self.once))?;
        row("delivered more than once", grouped(self.more))?;
        row("quarantined", counts(&self.quarantined))?;
        row("lost", grouped(self.lost.len()))?;
        row(
            "deliveries",
            format!("{}, {} schema violations", grouped(self.deliveries), self.invalid.len()),
        )?;
        row("calls over 15 s into a pause", self.late.len().to_string())?;
        let mut targets: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (target, kind, times) in &self.faults {
            targets.entry(target).or_default().push(format!("{kind} × {}", grouped(*times)));
        }
        for (target, kinds) in targets {
            row(&format!("faults, {target}"), kinds.join(", "))?;
        }
        for (name, (killed, struck)) in ["ingest-fn", "extractor-fn"].iter().zip(self.kills) {
            row(
                &format!("kills, {name}"),
                format!("{killed}, {struck} in the middle of an invocation"),
            )?;
        }
        row("operator actions", counts(&self.actions))?;
        for (name, memory) in &self.memory {
            let held = format!("{} processes, {:.1} MiB at most", memory.processes, memory.peak);
            let grown = format!(
                "one over {} s from {:.1} to {:.1} MiB",
                memory.age.as_secs(),
                memory.first,
                memory.last
            );
            let memory = if memory.is_judged() { format!("{held}; {grown}") } else { held };
            row(&format!("memory, {name}"), memory)?;
        }
        row("log lines", format!("{}, {} with secrets", grouped(self.lines), self.leaks.len()))?;
        let seconds =
            |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        row(
            "duration",
            format!("{} with faults, {} to drain", seconds(self.with_faults), seconds(self.drain)),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The report of a successful run.
    fn successful() -> Report {
        let memory = Memory {
            processes: 3,
            peak: 30.0,
            age: Duration::from_mins(5),
            first: 25.0,
            last: 26.0,
        };
        Report {
            sent: 10,
            accepted: 9,
            quarantined_on_arrival: 1,
            repeated: 1,
            once: 8,
            quarantined: BTreeMap::from([("rejected".to_owned(), 1)]),
            kills: [(2, 1), (1, 1)],
            actions: ["pause", "resume", "key rotated", "redeploy"]
                .map(|action| (action, 1))
                .into(),
            memory: vec![("ingest-fn", memory.clone()), ("extractor-fn", memory)],
            rejects: true,
            judges_memory: true,
            ..Report::default()
        }
    }

    #[test]
    fn every_broken_invariant_fails_the_run() {
        type Break = fn(&mut Report);
        assert_eq!(successful().failures(), Vec::<String>::new());
        let breaks: [(&str, Break); 17] = [
            ("1 events are lost: e-1", |it| it.lost.push("e-1".into())),
            ("2 events were left in the queue", |it| it.waiting = 2),
            ("1 events were never accepted", |it| it.unaccepted = 1),
            ("without a valid reason: e-1", |it| it.unexplained.push("e-1".into())),
            ("violate the schema: no id", |it| it.invalid.push("no id".into())),
            ("calls during a pause: a call", |it| it.late.push("a call".into())),
            ("secrets in the logs: a key", |it| it.leaks.push("a key".into())),
            ("faults that hit no call: SSM: hang", |it| {
                it.unused_faults.push("SSM: hang".into());
            }),
            ("ingest-fn was never killed", |it| it.kills[0].1 = 0),
            ("extractor-fn was never killed", |it| it.kills[1].1 = 0),
            ("there was no pause", |it| it.actions.retain(|action, _| *action != "pause")),
            ("there was no redeploy", |it| it.actions.retain(|action, _| *action != "redeploy")),
            ("rejected no event", |it| it.quarantined.clear()),
            ("no event had to be sent twice", |it| it.repeated = 0),
            ("ingest-fn used 65.0 MiB", |it| it.memory[0].1.peak = 65.0),
            ("extractor-fn grows: from 25.0 to 28.0", |it| it.memory[1].1.last = 28.0),
            ("ran long enough", |it| it.memory[1].1.age = Duration::from_secs(59)),
        ];
        for (sentence, broken) in breaks {
            let mut report = successful();
            broken(&mut report);
            let failures = report.failures();
            assert_eq!(failures.len(), 1, "{sentence}: {failures:?}");
            assert!(failures[0].contains(sentence), "{sentence}: {failures:?}");
        }
    }

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn only_events_answered_queued_are_accepted() {
        let attempt = |event: &str, number, status, answer: &str| Attempt {
            webhook: "w".into(),
            event: event.into(),
            kind: "CONVERSATION/CLOSED".into(),
            conversation: "c".into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            number,
            status,
            answer: answer.into(),
        };
        let attempts = [
            attempt("queued", 1, Some(503), r#"{"status":"unavailable"}"#),
            attempt("queued", 2, None, ""),
            attempt("queued", 3, Some(200), r#"{"status":"queued"}"#),
            attempt("quarantined", 1, Some(200), r#"{"status":"quarantined"}"#),
            attempt("refused", 5, Some(401), r#"{"status":"unauthorized"}"#),
            attempt("html", 1, Some(200), "<html>"),
            attempt("PING", 1, Some(200), r#"{"status":"pong"}"#),
        ];
        let mut report = Report::default();
        let accepted = report.sent(&ids(&["queued", "quarantined", "refused", "html"]), &attempts);
        assert_eq!(accepted, ids(&["queued"]));
        assert_eq!((report.sent, report.accepted, report.quarantined_on_arrival), (4, 1, 1));
        assert_eq!((report.unaccepted, report.repeated, report.tries), (2, 1, 5));
        let refusals = [("200", 1), ("401", 1), ("503", 1), ("no answer", 1)];
        assert_eq!(
            report.refusals,
            refusals.map(|(status, times)| (status.to_owned(), times)).into()
        );
    }

    #[test]
    fn an_event_is_delivered_or_quarantined_for_a_reason_or_lost() {
        let event = |id: &str, conversation: &str| json!({"id": id, "content": {"conversationId": conversation}});
        let by_extractor = |id: &str, conversation: &str, reason: &str| {
            let raw = json!({"v": 1, "event": event(id, conversation)}).to_string();
            QuarantinedEvent::read(&json!({"v": 1, "reason": reason, "raw": raw}).to_string())
        };
        let raw = event("bad", "../agents").to_string();
        let by_ingest = QuarantinedEvent::read(
            &json!({"v": 1, "reason": "invalid-id", "raw": raw}).to_string(),
        );
        let in_quarantine = [
            by_extractor("rejected", "poison", "rejected"),
            by_extractor("wronged", "c-1", "rejected"),
            by_extractor("tired", "poison", "exhausted"),
            by_ingest,
            QuarantinedEvent::read("moved here by SQS"),
        ];
        let mut report = Report::default();
        report.account(
            &ids(&["once", "twice", "nowhere", "rejected", "wronged", "tired"]),
            |event| match event {
                "once" => 1,
                "twice" => 2,
                _ => 0,
            },
            &in_quarantine,
            &ids(&["poison"]),
            &ids(&["bad", "vanished"]),
        );
        assert_eq!((report.once, report.more), (1, 1));
        assert_eq!(report.lost, ["nowhere", "vanished, which was answered quarantined"]);
        assert_eq!(report.unexplained, ["wronged as rejected", "tired as exhausted", " as "]);
        assert_eq!(report.quarantined.values().sum::<usize>(), 3);
    }

    #[test]
    fn a_call_is_late_over_15_s_into_a_pause_and_not_after_it() {
        let began = Instant::now();
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let calls =
            [9.0, 25.0, 25.1, 39.9, 40.1].map(|seconds| (format!("{seconds}"), at(seconds)));
        let mut report = Report::default();
        report.check_pauses(&[(at(10.0), at(40.0)), (at(60.0), at(90.0))], &calls);
        assert_eq!(report.late, ["25.1 15.1 s into a pause", "39.9 29.9 s into a pause"]);
    }
}

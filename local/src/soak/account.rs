//! Accounting for a run: waiting for the drain, and collecting the report.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use testing::server::{Traffic, lock};
use tokio::time::sleep;

use super::{
    MESSAGE_TEXT, Sent, Soak, SoakError,
    report::{QuarantinedEvent, Report},
};
use crate::stack::{Function, Queue};

impl Soak<'_> {
    /// Waits until nothing is left in the events queue.
    pub(super) async fn drained(&self, began: Instant) -> Result<(), SoakError> {
        // Seen twice: a message that moves between two counts may be in neither.
        let mut empty = 0;
        while empty < 2 && began.elapsed() < self.plan.drain_limit {
            sleep(Duration::from_millis(500)).await;
            empty =
                if self.stack.counts(Queue::Events).await?.total() == 0 { empty + 1 } else { 0 };
        }
        lock(&self.report).waiting = self.stack.peek(Queue::Events).await?.len();
        Ok(())
    }

    /// Accounts for everything.
    pub(super) async fn close(&self, refused: &BTreeSet<String>) -> Result<Report, SoakError> {
        let mut report = std::mem::take(&mut *lock(&self.report));
        report.judges_memory = self.plan.length >= Duration::from_mins(3);
        let quarantined = self.stack.peek(Queue::Quarantine).await?;
        let quarantined: Vec<_> =
            quarantined.iter().map(|message| QuarantinedEvent::read(&message.body)).collect();
        let Sent { all, malformed } = std::mem::take(&mut *lock(&self.sent));
        let accepted = report.sent(&all, &self.gladly.attempts());
        let times = |event: &str| self.destination.times(event);
        report.account(&accepted, times, &quarantined, refused, &malformed);
        let pauses = lock(&self.pauses).clone();
        let pauses: Vec<_> =
            pauses.into_iter().filter_map(|(from, to)| Some((from, to?))).collect();
        let calls = |traffic: &Traffic, pattern: &str, what: &str| -> Vec<(String, Instant)> {
            traffic.calls(pattern).iter().map(|call| (what.to_owned(), call.at)).collect()
        };
        let mut left = calls(self.destination.traffic(), "POST /deliveries", "a delivery left");
        left.extend(calls(
            self.gladly.traffic(),
            "GET /api/v1/conversations/**",
            "a conversation was fetched",
        ));
        report.check_pauses(&pauses, &left);
        report.deliveries = self.destination.deliveries().len();
        report.invalid = self.destination.invalid();
        for (name, function) in
            [("ingest-fn", Function::Ingest), ("extractor-fn", Function::Extractor)]
        {
            report.memory.push((name, lock(&self.processes).memory(function)));
            let lines = self.stack.logs(function).await?;
            report.lines += lines.len();
            let secrets = self.secrets();
            for line in lines {
                let found = secrets.iter().filter(|(_, secret)| line.contains(secret.as_str()));
                report.leaks.extend(found.map(|(what, _)| format!("{what}, by {name}")));
            }
        }
        Ok(report)
    }

    /// What no log may contain.
    pub(super) fn secrets(&self) -> Vec<(&'static str, String)> {
        let mut secrets: Vec<_> =
            lock(&self.keys).iter().map(|key| ("a webhook key", key.clone())).collect();
        secrets.extend([
            ("Gladly's token", self.settings.gladly_token.clone()),
            ("the destination's token", self.settings.destination_token.clone()),
            ("what a customer wrote", MESSAGE_TEXT.to_owned()),
            ("an address", "@".to_owned()),
            ("a number", "+1555555".to_owned()),
        ]);
        secrets
    }
}

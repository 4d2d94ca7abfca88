//! The account of a run: what is waited for, and what is left of everything in the end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use testing::server::{Traffic, lock};
use tokio::time::sleep;

use super::{
    SAID, Sent, Soak, SoakError,
    ledger::{Ledger, QuarantinedEvent},
};
use crate::stack::{Function, Queue};

impl Soak<'_> {
    /// Waits until nothing is left in the events queue.
    pub(super) async fn drained(&self, began: Instant) -> Result<(), SoakError> {
        // Seen twice: what is on its way from one count to another may be in neither.
        let mut empty = 0;
        while empty < 2 && began.elapsed() < self.plan.drain_limit {
            sleep(Duration::from_millis(500)).await;
            empty =
                if self.stack.counts(Queue::Events).await?.total() == 0 { empty + 1 } else { 0 };
        }
        lock(&self.ledger).waiting = self.stack.peek(Queue::Events).await?.len();
        Ok(())
    }

    /// Accounts for everything.
    pub(super) async fn close(&self, refused: &BTreeSet<String>) -> Result<Ledger, SoakError> {
        let mut ledger = std::mem::take(&mut *lock(&self.ledger));
        ledger.judges_memory = self.plan.length >= Duration::from_mins(3);
        let aside = self.stack.peek(Queue::Quarantine).await?;
        let aside: Vec<_> =
            aside.iter().map(|message| QuarantinedEvent::read(&message.body)).collect();
        let Sent { all, malformed } = std::mem::take(&mut *lock(&self.sent));
        let accepted = ledger.sent(&all, &self.gladly.attempts());
        let times = |event: &str| self.destination.times(event);
        ledger.account(&accepted, times, &aside, refused, &malformed);
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
        ledger.hold(&pauses, &left);
        ledger.deliveries = self.destination.deliveries().len();
        ledger.invalid = self.destination.invalid();
        for (name, function) in
            [("ingest-fn", Function::Ingest), ("extractor-fn", Function::Extractor)]
        {
            ledger.memory.push((name, lock(&self.processes).memory(function)));
            let lines = self.stack.logs(function).await?;
            ledger.lines += lines.len();
            let secrets = self.secrets();
            for line in lines {
                let found = secrets.iter().filter(|(_, secret)| line.contains(secret.as_str()));
                ledger.leaks.extend(found.map(|(what, _)| format!("{what}, by {name}")));
            }
        }
        Ok(ledger)
    }

    /// What no log may hold.
    pub(super) fn secrets(&self) -> Vec<(&'static str, String)> {
        let mut secrets: Vec<_> =
            lock(&self.keys).iter().map(|key| ("a webhook key", key.clone())).collect();
        secrets.extend([
            ("Gladly's token", self.settings.gladly_token.clone()),
            ("the destination's token", self.settings.destination_token.clone()),
            ("what a customer wrote", SAID.to_owned()),
            ("an address", "@".to_owned()),
            ("a number", "+1555555".to_owned()),
        ]);
        secrets
    }
}

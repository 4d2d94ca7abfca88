//! Accounting for a run: waiting for the drain, and collecting the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use serde_json::Value;
use testing::{
    destination::violations,
    reader::Reader,
    root,
    server::{Traffic, lock},
};
use tokio::time::sleep;

use super::{
    MESSAGE_TEXT, Sent, Soak, SoakError, Target,
    plan::{KEY_PREFIX, PUTS},
    report::{QuarantinedEvent, Report},
};
use crate::stack::{Function, Queue};

/// What a bucket holds at the end.
struct ReadBack {
    /// By event that the view shows, in how many deliveries it is.
    times: BTreeMap<String, usize>,
    deliveries: usize,
    invalid: Vec<String>,
}

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
        let read_back = match self.plan.target {
            Target::Https => None,
            Target::Bucket => Some(self.read_back().await.map_err(SoakError::ReadBack)?),
        };
        let times = |event: &str| match &read_back {
            None => self.destination.times(event),
            Some(found) => found.times.get(event).copied().unwrap_or_default(),
        };
        report.account(&accepted, times, &quarantined, refused, &malformed);
        let pauses = lock(&self.pauses).clone();
        let pauses: Vec<_> =
            pauses.into_iter().filter_map(|(from, to)| Some((from, to?))).collect();
        let calls = |traffic: &Traffic, pattern: &str, what: &str| -> Vec<(String, Instant)> {
            traffic.calls(pattern).iter().map(|call| (what.to_owned(), call.at)).collect()
        };
        let mut left = match self.plan.target {
            Target::Https => {
                calls(self.destination.traffic(), "POST /deliveries", "a delivery left")
            }
            Target::Bucket => calls(self.proxy.traffic(), PUTS, "an object was written"),
        };
        left.extend(calls(
            self.gladly.traffic(),
            "GET /api/v1/conversations/**",
            "a conversation was fetched",
        ));
        report.check_pauses(&pauses, &left);
        (report.deliveries, report.invalid) = match read_back {
            None => (self.destination.deliveries().len(), self.destination.invalid()),
            Some(found) => (found.deliveries, found.invalid),
        };
        report.rejects = self.plan.target == Target::Https;
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

    /// Reads the bucket by the views of docs/DESTINATIONS.md, and holds the deliveries that it was made of against the
    /// schema and a reader of deliveries.
    async fn read_back(&self) -> io::Result<ReadBack> {
        let objects = self.bucket.objects().await.map_err(io::Error::other)?;
        let deliveries = objects.deliveries()?;
        let mut invalid: Vec<_> = deliveries.iter().flat_map(violations).collect();
        let mut reader = Reader::default();
        for delivery in &deliveries {
            reader.take(delivery);
        }
        let folder = root().join(".local").join(self.plan.name).join("bucket");
        let query = |query| objects.query(&folder, KEY_PREFIX, query);
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();

        let shown = query("SELECT id, snapshot->>'$.fetchedAt' AS at FROM conversations")?;
        let shown: BTreeMap<_, _> =
            shown.iter().map(|row| (text(row, "id"), text(row, "at"))).collect();
        let expected = reader.conversations().iter();
        let expected: BTreeMap<_, _> =
            expected.map(|(id, it)| (id.clone(), text(it, "fetchedAt"))).collect();
        if shown != expected {
            invalid.push("the view does not show what a reader of deliveries holds".to_owned());
        }
        // An event's lines are counted, and the view shows each event once.
        let mut times = BTreeMap::<_, usize>::new();
        for line in objects.lines("events")? {
            *times.entry(text(&line, "id")).or_default() += 1;
        }
        let seen = query("SELECT id FROM events")?;
        let distinct: BTreeSet<_> = seen.iter().map(|row| text(row, "id")).collect();
        if seen.len() != distinct.len() {
            invalid.push("the view shows an event twice".to_owned());
        }
        times.retain(|event, _| distinct.contains(event));
        Ok(ReadBack { times, deliveries: deliveries.len(), invalid })
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

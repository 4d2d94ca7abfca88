//! A batch from its records to its settlement.

mod cache;
mod context;
mod coverage;
mod deadlines;
mod deletions;
mod delivery;
mod event;
mod fetch;
mod lag;
mod outcomes;
mod settle;
mod snapshot;
mod tombstone;

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use jiff::Timestamp;
use shared::{Clock, Id, Metric, MetricsWriter, SettleWindow, error_chain};
use tokio::{
    join, select,
    task::JoinSet,
    time::{Duration, Instant, sleep_until, timeout_at},
};
use tracing::{Instrument as _, error, info, warn};

use crate::{
    client::{
        Clients,
        coverage_store::CoverageStore,
        destination::{Destination, result::DeliveryResult},
        gladly::GladlyError,
        message::{Message, MissingMessageId},
        throughput::{ThroughputEstimate, fetch_time},
    },
    config::DeliveryOptions,
    gate::{Gate, Interrupted, Permission as _, breaker::Upstream},
    pipeline::{
        context::BatchContext,
        coverage::Coverage,
        deletions::Deletions,
        delivery::{Batcher, Update},
        event::{Event, RecordIndex},
        fetch::{Fetched, Fetcher, Snapshot},
        outcomes::Outcomes,
        settle::{Failure, Outcome, Settler},
        tombstone::{Kind, Tombstone},
    },
};

/// Conversations fetched at once: enough to use the full rate while each call takes up to a second
/// or two, few enough to bound memory.
const MAX_FETCHES: usize = 8;
/// Deliveries sent at once.
const MAX_DELIVERIES: usize = 2;
/// Deliveries that may wait to be sent before fetching pauses.
const MAX_WAITING: usize = 2;
/// How many ids of one kind a delivery's log line lists.
const MAX_LOGGED_IDS: usize = 100;

/// Turns batches into deliveries, and keeps caches from batch to batch.
pub(crate) struct Pipeline {
    gate: Arc<Gate>,
    fetcher: Fetcher,
    destination: Arc<Destination>,
    coverage: Coverage,
    settler: Settler,
    throughput: Arc<ThroughputEstimate>,
    settle_window: SettleWindow,
    /// Whether deletions and merges of customers are forwarded.
    forwards_erasures: bool,
    clock: Clock,
    metrics: MetricsWriter,
}

/// The events of one conversation, in one batch.
struct Group {
    conversation: Id,
    events: Vec<Event>,
}

/// A group after its fetch.
struct Prepared {
    update: Option<Update>,
    returned: Vec<(RecordIndex, Outcome)>,
    /// Gladly does not have the conversation, which may be Gladly's own fault.
    is_missing: bool,
}

impl Prepared {
    /// What has nothing to send is done.
    fn new(update: Update, mut returned: Vec<(RecordIndex, Outcome)>, is_missing: bool) -> Self {
        if !update.is_empty() {
            return Self { update: Some(update), returned, is_missing };
        }
        let done = update.events.iter().map(|event| (event.record, Outcome::Delivered));
        returned.extend(done);
        Self { update: None, returned, is_missing: false }
    }
}

impl Pipeline {
    pub(crate) fn new(
        clients: &Clients,
        store: Option<CoverageStore>,
        options: DeliveryOptions,
        settle_window: SettleWindow,
        renews: bool,
    ) -> Self {
        let (gladly, deletions) = (Arc::clone(&clients.gladly), Arc::<Deletions>::default());
        Self {
            gate: Arc::clone(&clients.gate),
            fetcher: Fetcher::new(gladly, options, Arc::clone(&deletions), clients.clock.clone()),
            destination: Arc::clone(&clients.destination),
            coverage: Coverage::new(store, deletions),
            settler: Settler::new(clients, renews),
            throughput: Arc::clone(&clients.throughput),
            settle_window,
            forwards_erasures: options.erasures,
            clock: clients.clock.clone(),
            metrics: clients.metrics.clone(),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Extracts a batch within the time left. Records named in the response stay in the queue.
    pub(crate) async fn batch(
        self: &Arc<Self>,
        messages: Vec<SqsMessage>,
        time_left: Duration,
    ) -> Result<SqsBatchResponse, MissingMessageId> {
        let began = Instant::now();
        let context = Arc::new(BatchContext::new(Arc::clone(&self.gate), time_left));
        let records = messages.into_iter().map(Message::try_from).collect::<Result<Vec<_>, _>>()?;
        let outcomes = match context.check().await {
            Ok(()) => {
                let outcomes = self.extract(&records, &context).await;
                self.note_late(&records, &outcomes, &context).await;
                context.judge(Upstream::Destination).await;
                for error in context.fatal_errors() {
                    let open = self.gate.breaker.open(error);
                    if timeout_at(context.deadlines.settle, open).await.is_err() {
                        error!(reason = error.reason, "timed out opening the circuit breaker");
                    }
                }
                outcomes
            }
            Err(interrupted) => {
                let reason = tracing::field::display(&interrupted);
                warn!(count = records.len(), reason, "returned records to the queue");
                vec![Outcome::Held; records.len()]
            }
        };
        let share = timeout_at(context.deadlines.settle, self.coverage.share());
        let settle = self.settler.settle(&records, outcomes, &context);
        let (response, _) = join!(settle, share);

        let (calls, throttled) = self.fetcher.gladly().take_counts();
        context.count(Metric::GladlyCalls, calls);
        context.count(Metric::GladlyThrottled, throttled);
        let metrics = context.metrics();
        self.throughput.note(calls, metrics.count(Metric::Forwarded));
        self.metrics.write(&metrics, self.now());
        info!(
            batch.records = records.len(),
            batch.forwarded = metrics.count(Metric::Forwarded),
            batch.quarantined = metrics.count(Metric::Quarantined),
            batch.delivery_failures = metrics.count(Metric::DeliveryFailures),
            batch.returned = response.batch_item_failures.len(),
            gladly.calls = calls,
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "batch done"
        );
        Ok(response)
    }

    /// Groups a batch's events by conversation, in the order they came, apart from those that become
    /// tombstones.
    fn groups(
        &self,
        records: &[Message],
        context: &BatchContext,
        outcomes: &mut Outcomes,
    ) -> (VecDeque<Group>, Vec<Event>) {
        let mut order = Vec::new();
        let mut groups = HashMap::<Id, Vec<Event>>::new();
        let mut buried = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let index = RecordIndex(index);
            let events = match Event::read(index, record) {
                Ok(events) => events,
                Err(why) => {
                    outcomes.note([(index, Outcome::InvalidEvent(why))]);
                    continue;
                }
            };
            if !self.forwards_erasures && events.iter().any(|it| !it.tombstones().is_empty()) {
                context.count(Metric::Ignored, 1);
                outcomes.note([(index, Outcome::Ignored)]);
                continue;
            }
            outcomes.expect(index, events.len());
            for event in events {
                if !event.tombstones().is_empty() {
                    buried.push(event);
                    continue;
                }
                let events = groups.entry(event.subject.clone()).or_default();
                if events.is_empty() {
                    order.push(event.subject.clone());
                }
                events.push(event);
            }
        }
        let group = |conversation: Id| {
            let events = groups.remove(&conversation).unwrap_or_default();
            Group { conversation, events }
        };
        (order.into_iter().map(group).collect(), buried)
    }

    /// From now on, what this environment knows of deleted and merged customers is not delivered.
    fn forget(&self, buried: &[Event]) {
        for tombstone in buried.iter().flat_map(Event::tombstones) {
            match &tombstone.kind {
                Kind::CustomerDeleted { customer_id } => {
                    self.fetcher.deleted(customer_id, tombstone.at);
                }
                Kind::CustomerMerged { from, .. } => self.fetcher.merged(from),
                Kind::ConversationMerged { .. } => {}
            }
        }
    }

    async fn extract(
        self: &Arc<Self>,
        records: &[Message],
        context: &Arc<BatchContext>,
    ) -> Vec<Outcome> {
        let mut outcomes = Outcomes::new(records.len());
        let (mut waiting, buried) = self.groups(records, context, &mut outcomes);
        self.forget(&buried);
        let is_trial = self.gate.breaker.trial().is_some();
        waiting.make_contiguous().sort_by_key(|group| {
            // What ran out of time before is last, so that others do not wait for it again. In a trial
            // the newest are first: they are the most likely to show whether the upstream works.
            let newest = || group.events.iter().map(|event| event.received_at).max();
            let is_unfinished = self.fetcher.is_unfinished(&group.conversation);
            (is_unfinished, is_trial.then(newest).map(Reverse))
        });
        let uncovered = waiting.iter().filter(|group| !self.is_covered(&group.events));
        let look_up = self.coverage.look_up(uncovered.map(|group| &group.conversation));
        // What is not known by then is fetched.
        let _ = timeout_at(context.deadlines.begin, look_up).await;
        let mut missing = Vec::new();
        let mut batcher = Batcher::default();
        batcher.extend(buried.into_iter().map(Update::burial));
        let mut fetches = JoinSet::new();
        let mut fetching = HashMap::new();
        let mut deliveries = JoinSet::<Vec<(RecordIndex, Outcome)>>::new();
        loop {
            let begins = |fetching: usize| {
                // Begun only if it can finish: otherwise its calls are wasted and it backs off.
                let now = Instant::now();
                let interval = self.fetcher.gladly().request_interval();
                let ends = now + fetch_time(fetching + 1, interval);
                now < context.deadlines.begin && (fetching == 0 || ends < context.deadlines.fetch)
            };
            while begins(fetches.len())
                && fetches.len() < MAX_FETCHES
                && batcher.waiting() < MAX_WAITING
            {
                let Some(group) = waiting.pop_front() else { break };
                let conversation = group.conversation.clone();
                let task = Arc::clone(self).prepare(group, Arc::clone(context)).in_current_span();
                let task = fetches.spawn(task);
                fetching.insert(task.id(), conversation);
            }
            if fetches.is_empty() && (waiting.is_empty() || !begins(0)) {
                batcher.extend(Self::judged(mem::take(&mut missing), context, &mut outcomes).await);
                batcher.close();
            }
            while deliveries.len() < MAX_DELIVERIES {
                let Some(updates) = batcher.pop() else { break };
                let task = Arc::clone(self).deliver(updates, Arc::clone(context));
                deliveries.spawn(task.in_current_span());
            }
            select! {
                // In a fixed order, so that a simulated run is reproducible.
                biased;
                Some(prepared) = fetches.join_next_with_id() => match prepared {
                    Ok((_, Prepared { update, returned, is_missing })) => {
                        if is_missing { missing.extend(update) } else { batcher.extend(update) }
                        outcomes.note(returned);
                    }
                    // The outcome is already a failure.
                    Err(err) if err.is_cancelled() => {
                        let gladly = fetching.get(&err.id()).map(tracing::field::display);
                        warn!(gladly.conversation_id = gladly, "timed out fetching a conversation; its records return to the queue");
                    }
                    Err(err) => {
                        if let Some(conversation) = fetching.get(&err.id()) {
                            context.failed_alone(Upstream::Gladly, conversation);
                        }
                        error!("panicked while fetching a conversation; its records return to the queue");
                    }
                },
                Some(sent) = deliveries.join_next() => {
                    if sent.is_err() {
                        error!("panicked while delivering; the records return to the queue");
                    }
                    outcomes.note(sent.into_iter().flatten());
                }
                () = sleep_until(context.deadlines.fetch), if !fetches.is_empty() => fetches.abort_all(),
                else => break,
            }
        }
        let never_begun = waiting.iter().flat_map(|group| group.events.iter());
        outcomes.note(never_begun.map(|event| (event.record, Outcome::DeadlineExceeded)));
        outcomes.finish()
    }

    /// The updates of conversations that are gone: all of the missing ones, unless Gladly has none of
    /// the others either.
    async fn judged(
        missing: Vec<Update>,
        context: &BatchContext,
        outcomes: &mut Outcomes,
    ) -> Vec<Update> {
        if missing.is_empty() {
            return missing;
        }
        context.judge(Upstream::Gladly).await;
        if context.fatal_error_of(Upstream::Gladly).is_none() {
            return missing;
        }
        let events = missing.iter().flat_map(|update| &update.events);
        outcomes.note(events.map(|event| (event.record, Outcome::Missing)));
        Vec::new()
    }

    fn is_covered(&self, events: &[Event]) -> bool {
        events.iter().all(|event| self.coverage.covers(event))
    }

    /// Turns a group into an update; fetches the conversation unless all events are covered.
    async fn prepare(self: Arc<Self>, group: Group, context: Arc<BatchContext>) -> Prepared {
        let Group { conversation, events } = group;
        let now = self.now();
        let (mut returned, mut settled) = (Vec::new(), Vec::new());
        for event in events {
            match event.settles_in(now) {
                Some(wait) => returned.push((event.record, Outcome::Postponed(wait))),
                None => settled.push(event),
            }
        }
        let events = settled;
        if events.is_empty() {
            return Prepared { update: None, returned, is_missing: false };
        }
        if self.is_covered(&events) {
            let update = Update::new(conversation, events, delivery::Coverage::Covered, None);
            return Prepared::new(update, returned, false);
        }
        let fetched = self.fetcher.fetch(&conversation, &events, &context).await;
        let doubtful = matches!(fetched, Ok(Fetched::Gone { is_explained: false, .. }));
        let all = |outcome: Outcome| {
            events.iter().map(|event| (event.record, outcome.clone())).collect::<Vec<_>>()
        };
        let (coverage, snapshot) = match fetched {
            Ok(Fetched::Snapshot(mut snapshot)) => {
                context.succeeded(Upstream::Gladly, [&conversation].into_iter());
                snapshot.is_complete &= !events.iter().any(|event| lacks(&snapshot, event));
                (delivery::Coverage::Included, Some(snapshot))
            }
            Ok(Fetched::Gone { customer_deleted, .. }) => {
                (delivery::Coverage::Gone { customer_deleted }, None)
            }
            Ok(Fetched::Postponed(wait)) => {
                returned.extend(all(Outcome::Postponed(wait)));
                return Prepared { update: None, returned, is_missing: false };
            }
            Err(err) => {
                returned.extend(all(failure(&conversation, &err, &context)));
                return Prepared { update: None, returned, is_missing: false };
            }
        };
        // Gladly's reads lag behind its events: it may show the rest in a moment. Not if the customer is
        // known to be deleted: that is why.
        let is_deleted = coverage == delivery::Coverage::Gone { customer_deleted: true };
        let lags = |event: &Event| {
            let lacks = |snapshot| lacks(snapshot, event);
            event.is_new() && snapshot.as_ref().map_or(!is_deleted, lacks)
        };
        let (late, events): (Vec<_>, Vec<_>) = events.into_iter().partition(lags);
        returned.extend(late.iter().map(|event| (event.record, Outcome::NotYetVisible)));
        let is_missing = doubtful && !events.is_empty();
        if is_missing {
            context.denied(Upstream::Gladly, &conversation);
        }
        Prepared::new(Update::new(conversation, events, coverage, snapshot), returned, is_missing)
    }

    /// Delivers updates together. If rejected, they are halved until the rejected one is alone.
    async fn deliver(
        self: Arc<Self>,
        updates: Vec<Update>,
        context: Arc<BatchContext>,
    ) -> Vec<(RecordIndex, Outcome)> {
        let mut outcomes = Vec::new();
        let mut pending = vec![updates];
        while let Some(mut updates) = pending.pop() {
            let outcome = match self.attempt(&updates, &context).await {
                Outcome::Rejected(_) if updates.len() > 1 => {
                    let rest = updates.split_off(updates.len() / 2);
                    pending.extend([rest, updates]);
                    continue;
                }
                outcome => outcome,
            };
            if let (Outcome::Rejected(_), [update]) = (&outcome, &*updates) {
                context.denied(Upstream::Destination, &update.subject);
            }
            let records =
                updates.iter().flat_map(|update| &update.events).map(|event| event.record);
            outcomes.extend(records.map(|record| (record, outcome.clone())));
        }
        outcomes
    }

    async fn attempt(&self, updates: &[Update], context: &BatchContext) -> Outcome {
        let began = Instant::now();
        if began > context.deadlines.forward {
            return Outcome::Failed(Failure::default());
        }
        let organization = self.fetcher.gladly().organization();
        let encoding = self.destination.content_encoding();
        let Ok((id, json)) = delivery::write(updates, organization, encoding, self.now()) else {
            return Outcome::Failed(Failure::default());
        };
        let on_failure = |status| context.delivery_failed(status);
        let deliver =
            self.destination.deliver(&id, json, context.deadlines.deliver, context, on_failure);
        match deliver.await {
            DeliveryResult::Accepted => {
                let last_hold = self.gate.last_hold().await;
                self.accepted(&id, updates, context, began.elapsed(), last_hold);
                let conversations = updates.iter().map(|update| &update.subject);
                context.succeeded(Upstream::Destination, conversations);
                context.served(Upstream::Destination).await;
                Outcome::Delivered
            }
            DeliveryResult::Rejected(status) => Outcome::Rejected(status),
            DeliveryResult::Interrupted(interrupted) => interrupted.into(),
            DeliveryResult::NotReady { why, retry_after } => {
                warn!(
                    delivery.id = id,
                    error = why,
                    "could not deliver; the records return to the queue"
                );
                let conversations = updates.iter().map(|update| &update.subject);
                context.failed(Upstream::Destination, conversations, &why);
                Outcome::Failed(Failure { upstream: Some(Upstream::Destination), retry_after })
            }
            DeliveryResult::Inconclusive(why) => {
                warn!(
                    delivery.id = id,
                    error = why,
                    "could not send a delivery; the records return to the queue"
                );
                Outcome::Failed(Failure::default())
            }
            DeliveryResult::Fatal(why) => {
                context.fail(Upstream::Destination, why);
                Outcome::Failed(Failure::default())
            }
        }
    }

    /// Records the lateness of what could not be delivered: repeated failures would otherwise show in
    /// no metric until a delivery succeeds.
    async fn note_late(&self, records: &[Message], outcomes: &[Outcome], context: &BatchContext) {
        let (last_hold, now) = (self.gate.last_hold().await, self.now());
        let undelivered = records.iter().zip(outcomes).enumerate().filter_map(|(index, it)| {
            let (record, Outcome::Failed(_) | Outcome::DeadlineExceeded) = it else { return None };
            let events = Event::read(RecordIndex(index), record).ok()?;
            events.first()?.lateness(self.settle_window, last_hold, now)
        });
        if let Some(latest) = undelivered.max() {
            context.record(Metric::EventAgeMs, latest);
        }
    }

    /// Records an accepted delivery. Only accepted snapshots count as coverage.
    fn accepted(
        &self,
        id: &str,
        updates: &[Update],
        context: &BatchContext,
        took: Duration,
        last_hold: Option<Timestamp>,
    ) {
        let now = self.now();
        for update in updates {
            for event in &update.events {
                event.tombstones().iter().for_each(|it| buried(id, event, it, context));
            }
            let events = update.events.iter().filter(|event| !event.is_refetch()).count() as u64;
            context.count(Metric::Forwarded, events);
            match update.coverage {
                delivery::Coverage::Covered => context.count(Metric::Covered, events),
                delivery::Coverage::Gone { .. } if !update.is_burial() => {
                    context.count(Metric::Gone, events);
                }
                _ => {}
            }
            if let Some(snapshot) = &update.snapshot {
                context.count(Metric::Snapshots, 1);
                self.fetcher.finished(&update.subject);
                // One that lacks an item or a close may lack the next event's item too.
                if snapshot.is_complete {
                    let shown = snapshot.shown.clone();
                    self.coverage.accepted(&update.subject, snapshot.fetched_at, shown);
                }
            }
        }
        let events = || {
            let events = updates.iter().flat_map(|update| &update.events);
            events.filter(|event| !event.is_refetch())
        };
        let conversations = || updates.iter().filter(|update| !update.is_burial());
        let lateness = |event: &Event| event.lateness(self.settle_window, last_hold, now);
        if let Some(latest) = events().filter_map(lateness).max() {
            context.record(Metric::EventAgeMs, latest);
        }
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        context.record(Metric::DeliveryMs, duration_ms);
        info!(
            delivery.id = id,
            delivery.events = events().count(),
            delivery.conversations = conversations().count(),
            delivery.event_ids = listed(events().map(|event| &event.id)),
            delivery.conversation_ids = listed(conversations().map(|update| &update.subject)),
            duration_ms,
            "delivered"
        );
    }
}

/// The receipt of a tombstone.
fn buried(delivery: &str, event: &Event, tombstone: &Tombstone, context: &BatchContext) {
    context.count(Metric::Erased, 1);
    let (customer, from, into) = match &tombstone.kind {
        Kind::CustomerDeleted { customer_id } => (Some(customer_id), None, None),
        Kind::CustomerMerged { from, into } | Kind::ConversationMerged { from, into } => {
            (None, Some(from), Some(into))
        }
    };
    info!(
        delivery.id = delivery,
        event.id = display(&event.id),
        tombstone.kind = tombstone.kind.name(),
        tombstone.at = display(tombstone.at),
        gladly.customer_id = customer.map(display),
        tombstone.from = from.map(display),
        tombstone.into = into.map(display),
        "the destination accepted a tombstone"
    );
}

/// Whether a snapshot does not show yet what an event is about.
fn lacks(snapshot: &Snapshot, event: &Event) -> bool {
    event.item.as_ref().is_some_and(|item| snapshot.missing.contains(item.id()))
        || event.is_close() && !snapshot.shown.close(event.recorded_at())
}

/// Ids for the log, at most [`MAX_LOGGED_IDS`] of them, as one text: a field cannot be a list.
fn listed<'a>(ids: impl Iterator<Item = &'a Id>) -> String {
    ids.take(MAX_LOGGED_IDS).map(Id::as_str).collect::<Vec<_>>().join(",")
}

impl From<Interrupted> for Outcome {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Held(_) | Interrupted::Fatal(_) => Self::Held,
        }
    }
}

fn failure(conversation: &Id, err: &GladlyError, context: &BatchContext) -> Outcome {
    if let GladlyError::Interrupted(interrupted) = err {
        return interrupted.clone().into();
    }
    let gladly = tracing::field::display(conversation);
    warn!(
        gladly.conversation_id = gladly,
        error = error_chain(err),
        "could not fetch a conversation; its records return to the queue"
    );
    if let GladlyError::RateLimited(wait) = err {
        return Outcome::Postponed(*wait);
    }
    let mut upstream = None;
    if err.is_fatal() {
        context.fail(Upstream::Gladly, error_chain(err));
    } else if err.is_transient() {
        upstream = Some(Upstream::Gladly);
        context.failed(Upstream::Gladly, [conversation].into_iter(), &error_chain(err));
    } else if !err.is_inconclusive() {
        context.failed_alone(Upstream::Gladly, conversation);
    }
    Outcome::Failed(Failure { upstream, retry_after: err.retry_after() })
}

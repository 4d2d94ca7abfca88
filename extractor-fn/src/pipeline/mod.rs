//! A batch from its records to its settlement.

pub(crate) mod cache;
pub(crate) mod context;
pub(crate) mod coverage;
pub(crate) mod delivery;
pub(crate) mod event;
pub(crate) mod fetch;
pub(crate) mod settle;
pub(crate) mod snapshot;

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use aws_config::SdkConfig;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use jiff::Timestamp;
use shared::{Clock, Id, Metric, Parameter, error_chain, ssm_client};
use tokio::{
    select,
    task::JoinSet,
    time::{Duration, Instant, sleep_until, timeout_at},
};
use tracing::{Instrument as _, error, info, warn};

use crate::{
    Config, Http,
    client::destination::{DeliveryResult, Destination},
    client::event_source_mapping::Mapping,
    client::gladly::{Gladly, GladlyError},
    client::rate_limiter::RateLimiter,
    client::sqs::{Queue, sqs_client},
    controller::backfill::BackfillStore,
    controller::renewal::RenewalStore,
    controller::status::ThroughputEstimate,
    controller::webhook_monitor::WebhookMonitor,
    gate::breaker::{Breaker, Upstream},
    gate::pause::{Gate, PAUSE_TTL},
    pipeline::context::{BatchContext, Interrupted},
    pipeline::coverage::Coverage,
    pipeline::delivery::{Batcher, ConversationUpdate},
    pipeline::event::{Event, ItemRef, MissingMessageId, Record},
    pipeline::fetch::{Fetched, Fetcher},
    pipeline::settle::Outcome,
};

/// Conversations fetched at once: enough to fill our share of the quota while each call takes up
/// to a second or two, few enough to bound memory.
const FETCHES: usize = 8;
/// Deliveries sent at once.
const DELIVERIES: usize = 2;
/// Deliveries that may wait before fetching waits for them.
const WAITING: usize = 2;
/// Ids of one kind that a delivery's line names.
const LISTED: usize = 100;
/// How old the tokens may be.
const TOKEN_TTL: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

/// The function: what it reaches, and what it remembers from batch to batch.
pub struct Extractor {
    pub(crate) gate: Arc<Gate>,
    pub(crate) fetcher: Fetcher,
    pub(crate) destination: Destination,
    coverage: Coverage,
    pub(crate) events: Queue,
    pub(crate) quarantine: Queue,
    pub(crate) mapping: Mapping,
    pub(crate) renewals: RenewalStore,
    pub(crate) backfill: BackfillStore,
    pub(crate) webhook_monitor: Option<WebhookMonitor>,
    /// Whether events are sent anew before the queue lets them expire.
    pub(crate) renews: bool,
    pub(crate) throughput: ThroughputEstimate,
    pub(crate) clock: Clock,
}

/// The events of one conversation, in one batch.
struct Group {
    conversation: Id,
    events: Arc<[Event]>,
}

/// A group that has been looked into.
struct Prepared {
    update: Option<ConversationUpdate>,
    returned: Vec<(usize, Outcome)>,
    /// Gladly has no such conversation, which may be Gladly's own fault.
    is_missing: bool,
}

impl Extractor {
    /// An extractor that reaches AWS as `aws` says, and everything else through `http`.
    #[must_use]
    pub fn new(aws: &SdkConfig, config: Config, http: Http, clock: Clock) -> Self {
        let ssm = ssm_client(aws);
        let secret = |name| Parameter::new(ssm.clone(), name, TOKEN_TTL, clock.clone());
        let name = config.pause_parameter;
        let breaker = format!("{name}-breaker");
        let breaker = Parameter::new(ssm.clone(), breaker, PAUSE_TTL, clock.clone());
        let renewals = RenewalStore::new(ssm.clone(), format!("{name}-renewal"), clock.clone());
        let backfill = BackfillStore::new(&ssm, &name, clock.clone());
        let switch = Parameter::new(ssm.clone(), name, PAUSE_TTL, clock.clone());
        let gate = Gate::new(switch, Breaker::new(breaker, clock.clone()), clock.clone());
        let sqs = sqs_client(aws);
        let gladly = Gladly::new(
            http.clone(),
            config.gladly,
            config.gladly_email,
            secret(config.gladly_token_parameter),
            RateLimiter::new(config.gladly_rate),
            clock.clone(),
        );
        let destination = Destination::new(
            http,
            config.destination,
            config.destination_token_header,
            secret(config.destination_token_parameter),
            config.shape.gzip,
            clock.clone(),
        );
        Self {
            gate: Arc::new(gate),
            fetcher: Fetcher::new(gladly, config.shape, clock.clone()),
            destination,
            coverage: Coverage::new(),
            events: Queue::new(sqs.clone(), config.events_queue_url),
            quarantine: Queue::new(sqs, config.quarantine_queue_url),
            mapping: Mapping::new(aws, config.function, config.events_queue_arn),
            renewals,
            backfill,
            webhook_monitor: config.watched_webhook.map(WebhookMonitor::new),
            renews: config.renew_held_events,
            throughput: ThroughputEstimate::new(config.gladly_rate),
            clock,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Extracts a batch within the time left. What is named in the response stays in the queue.
    pub async fn batch(
        self: &Arc<Self>,
        messages: Vec<SqsMessage>,
        time_left: Duration,
    ) -> Result<SqsBatchResponse, MissingMessageId> {
        let began = Instant::now();
        let context = Arc::new(BatchContext::new(Arc::clone(&self.gate), time_left));
        let records = messages.into_iter().map(Record::try_from).collect::<Result<Vec<_>, _>>()?;
        // Until something better is known of a record, such as after a panic, it has failed.
        let mut outcomes = vec![Outcome::Failed(None); records.len()];

        match context.check().await {
            Ok(()) => {
                self.extract(&records, &context, &mut outcomes).await;
                self.note_late(&records, &outcomes, &context).await;
                context.judge(Upstream::Destination).await;
                for fault in context.faults() {
                    let open = self.gate.breaker.open(fault);
                    if timeout_at(context.times.settle, open).await.is_err() {
                        error!(reason = fault.reason, "timed out opening the circuit breaker");
                    }
                }
            }
            Err(interrupted) => {
                let reason = tracing::field::display(&interrupted);
                warn!(count = records.len(), reason, "holding records");
                outcomes.fill(Outcome::PauseReason);
            }
        }
        let response = self.settle(&records, outcomes, &context).await;

        let (calls, throttled) = self.fetcher.gladly().take_counts();
        context.count(Metric::GladlyCalls, calls);
        context.count(Metric::GladlyThrottled, throttled);
        let metrics = context.metrics();
        self.throughput.note(calls, metrics.count(Metric::Forwarded));
        metrics.emit(self.now());
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

    /// Groups a batch's events by conversation, in the order they came.
    fn groups(records: &[Record], outcomes: &mut [Outcome]) -> VecDeque<Group> {
        let mut order = Vec::new();
        let mut groups = HashMap::<Id, Vec<Event>>::new();
        for (index, record) in records.iter().enumerate() {
            match Event::read(index, record) {
                Ok(event) => {
                    let events = groups.entry(event.conversation.clone()).or_default();
                    if events.is_empty() {
                        order.push(event.conversation.clone());
                    }
                    events.push(event);
                }
                Err(why) => outcomes[index] = Outcome::InvalidEvent(why),
            }
        }
        let group = |conversation: Id| {
            let events = groups.remove(&conversation).unwrap_or_default().into();
            Group { conversation, events }
        };
        order.into_iter().map(group).collect()
    }

    async fn extract(
        self: &Arc<Self>,
        records: &[Record],
        context: &Arc<BatchContext>,
        outcomes: &mut [Outcome],
    ) {
        let mut waiting = Self::groups(records, outcomes);
        let is_trial = self.gate.breaker.trial().is_some();
        waiting.make_contiguous().sort_by_key(|group| {
            // What ran out of time before is last, so that its neighbours do not wait for it again;
            // what is new is most likely to show whether things work.
            let newest = || group.events.iter().map(|event| event.received_at).max();
            let is_unfinished = self.fetcher.is_unfinished(&group.conversation);
            (is_unfinished, is_trial.then(newest).map(Reverse))
        });
        let mut missing = Vec::new();
        let mut batcher = Batcher::default();
        let mut fetches = JoinSet::new();
        let mut fetching = HashMap::new();
        let mut deliveries = JoinSet::<Vec<(usize, Outcome)>>::new();
        loop {
            let begins = Instant::now() < context.times.begin;
            while begins && fetches.len() < FETCHES && batcher.waiting() < WAITING {
                let Some(group) = waiting.pop_front() else { break };
                let conversation = group.conversation.clone();
                let task = Arc::clone(self).prepare(group, Arc::clone(context)).in_current_span();
                let task = fetches.spawn(task);
                fetching.insert(task.id(), conversation);
            }
            if fetches.is_empty() && (waiting.is_empty() || !begins) {
                batcher.extend(Self::judged(mem::take(&mut missing), context, outcomes).await);
                batcher.close();
            }
            while deliveries.len() < DELIVERIES {
                let Some(updates) = batcher.pop() else { break };
                let task = Arc::clone(self).deliver(updates, Arc::clone(context));
                deliveries.spawn(task.in_current_span());
            }
            select! {
                // In this order, so that a simulated run can be repeated.
                biased;
                Some(prepared) = fetches.join_next_with_id() => match prepared {
                    Ok((_, Prepared { update, returned, is_missing })) => {
                        if is_missing { missing.extend(update) } else { batcher.extend(update) }
                        note(outcomes, returned);
                    }
                    // Begun and not finished is a failure, as it was noted beforehand.
                    Err(err) if err.is_cancelled() => {
                        let gladly = fetching.get(&err.id()).map(tracing::field::display);
                        warn!(gladly.conversation_id = gladly, "could not fetch a conversation in time");
                    }
                    Err(err) => {
                        if let Some(conversation) = fetching.get(&err.id()) {
                            context.failed_alone(Upstream::Gladly, conversation);
                        }
                        error!("a conversation made the extractor panic: its events are given back");
                    }
                },
                Some(sent) = deliveries.join_next() => {
                    if sent.is_err() {
                        error!("a delivery made the extractor panic: its events are given back");
                    }
                    note(outcomes, sent.into_iter().flatten());
                }
                () = sleep_until(context.times.fetch), if !fetches.is_empty() => fetches.abort_all(),
                else => break,
            }
        }
        let never_begun = waiting.iter().flat_map(|group| group.events.iter());
        note(outcomes, never_begun.map(|event| (event.record, Outcome::DeadlineExceeded)));
    }

    /// Of conversations that Gladly does not have, those that are gone: all, unless it has none of
    /// the others either.
    async fn judged(
        missing: Vec<ConversationUpdate>,
        context: &BatchContext,
        outcomes: &mut [Outcome],
    ) -> Vec<ConversationUpdate> {
        if missing.is_empty() {
            return missing;
        }
        context.judge(Upstream::Gladly).await;
        if context.fault_of(Upstream::Gladly).is_none() {
            return missing;
        }
        let events = missing.iter().flat_map(ConversationUpdate::events);
        note(outcomes, events.map(|event| (event.record, Outcome::Missing)));
        Vec::new()
    }

    /// Makes a parcel of a group, with a fetch unless all of it is covered already.
    async fn prepare(self: Arc<Self>, group: Group, context: Arc<BatchContext>) -> Prepared {
        let Group { conversation, events } = group;
        let covered = |event: &Event| {
            let item = event.item.as_ref().map(ItemRef::id);
            self.coverage.covers(&conversation, event.recorded_at(), item)
        };
        if events.iter().all(covered) {
            let all = (0..events.len()).collect();
            let update = ConversationUpdate::new(
                conversation,
                events,
                all,
                delivery::Coverage::Covered,
                None,
            );
            return Prepared { update: Some(update), returned: Vec::new(), is_missing: false };
        }
        let fetched = self.fetcher.fetch(&conversation, &events, &context).await;
        let doubtful = matches!(fetched, Ok(Fetched::Gone { with_customer: false }));
        let (coverage, snapshot) = match fetched {
            Ok(Fetched::Snapshot(snapshot)) => {
                context.succeeded(Upstream::Gladly, [&conversation].into_iter());
                (delivery::Coverage::Included, Some(snapshot))
            }
            Ok(Fetched::Gone { .. }) => (delivery::Coverage::Gone, None),
            Err(err) => {
                let outcome = failure(&conversation, &err, &context);
                let returned = events.iter().map(|event| (event.record, outcome.clone()));
                let returned = returned.collect();
                return Prepared { update: None, returned, is_missing: false };
            }
        };
        // What Gladly does not show yet it may show in a moment: its reads lag behind its events.
        let lags = |event: &Event| {
            event.is_new()
                && snapshot.as_ref().is_none_or(|snapshot| {
                    event.item.as_ref().is_some_and(|item| snapshot.missing.contains(item.id()))
                })
        };
        let (late, sent): (Vec<_>, Vec<_>) =
            (0..events.len()).partition(|index| lags(&events[*index]));
        let returned =
            late.into_iter().map(|index| (events[index].record, Outcome::NotYetVisible)).collect();
        let is_missing = doubtful && !sent.is_empty();
        if is_missing {
            context.denied(Upstream::Gladly, &conversation);
        }
        let update = (!sent.is_empty()).then(|| {
            ConversationUpdate::new(conversation, Arc::clone(&events), sent, coverage, snapshot)
        });
        Prepared { update, returned, is_missing }
    }

    /// Delivers parcels together. Refused, they are halved until the guilty one stands alone.
    async fn deliver(
        self: Arc<Self>,
        updates: Vec<ConversationUpdate>,
        context: Arc<BatchContext>,
    ) -> Vec<(usize, Outcome)> {
        let mut outcomes = Vec::new();
        let mut pending = vec![updates];
        while let Some(mut updates) = pending.pop() {
            let outcome = match self.attempt(&updates, &context).await {
                Outcome::Refused(_) if updates.len() > 1 => {
                    let rest = updates.split_off(updates.len() / 2);
                    pending.extend([rest, updates]);
                    continue;
                }
                outcome => outcome,
            };
            if let (Outcome::Refused(_), [update]) = (&outcome, &*updates) {
                context.denied(Upstream::Destination, &update.conversation);
            }
            let records =
                updates.iter().flat_map(ConversationUpdate::events).map(|event| event.record);
            outcomes.extend(records.map(|record| (record, outcome.clone())));
        }
        outcomes
    }

    async fn attempt(&self, updates: &[ConversationUpdate], context: &BatchContext) -> Outcome {
        let began = Instant::now();
        if began > context.times.forward {
            return Outcome::Failed(None);
        }
        let organization = self.fetcher.gladly().organization();
        let encoding = self.destination.content_encoding();
        let Ok((id, json)) = delivery::write(updates, organization, encoding, self.now()) else {
            return Outcome::Failed(None);
        };
        match self.destination.deliver(&id, json, context).await {
            DeliveryResult::Accepted => {
                let last_hold = self.gate.last_hold().await;
                self.accepted(&id, updates, context, began.elapsed(), last_hold);
                let conversations = updates.iter().map(|update| &update.conversation);
                context.succeeded(Upstream::Destination, conversations);
                context.served(Upstream::Destination).await;
                Outcome::Delivered
            }
            DeliveryResult::Refused(status) => Outcome::Refused(status),
            DeliveryResult::Interrupted(interrupted) => interrupted.into(),
            DeliveryResult::NotReady { why, retry_after } => {
                warn!(delivery.id = id, reason = why, "gave a delivery back");
                let conversations = updates.iter().map(|update| &update.conversation);
                context.failed(Upstream::Destination, conversations, &why);
                Outcome::Failed(retry_after)
            }
            DeliveryResult::Inconclusive(why) => {
                warn!(delivery.id = id, error = why, "could not send a delivery");
                Outcome::Failed(None)
            }
            DeliveryResult::Fault(why) => {
                context.fail(Upstream::Destination, why);
                Outcome::Failed(None)
            }
        }
    }

    /// Notes how late what could not be delivered is by now: what fails again and again would show
    /// nowhere until it is delivered at last.
    async fn note_late(&self, records: &[Record], outcomes: &[Outcome], context: &BatchContext) {
        let (last_hold, now) = (self.gate.last_hold().await, self.now());
        let undelivered = records.iter().zip(outcomes).enumerate().filter_map(|(index, it)| {
            let (record, Outcome::Failed(_) | Outcome::DeadlineExceeded) = it else { return None };
            Event::read(index, record).ok()?.lateness(last_hold, now)
        });
        if let Some(latest) = undelivered.max() {
            context.record(Metric::EventAgeMs, latest);
        }
    }

    /// Only what the destination has accepted covers anything.
    fn accepted(
        &self,
        id: &str,
        updates: &[ConversationUpdate],
        context: &BatchContext,
        took: Duration,
        last_hold: Option<Timestamp>,
    ) {
        let now = self.now();
        for update in updates {
            let events = update.sent.len() as u64;
            context.count(Metric::Forwarded, events);
            match update.coverage {
                delivery::Coverage::Included => {}
                delivery::Coverage::Covered => context.count(Metric::Covered, events),
                delivery::Coverage::Gone => context.count(Metric::Gone, events),
            }
            if let Some(snapshot) = &update.snapshot {
                context.count(Metric::Snapshots, 1);
                self.fetcher.finished(&update.conversation);
                // A cut list, or one that lacks an item, may lack the next event's item too.
                if !snapshot.truncated && snapshot.missing.is_empty() {
                    let items = snapshot.items.clone();
                    self.coverage.accepted(&update.conversation, snapshot.fetched_at, items);
                }
            }
        }
        let events = || updates.iter().flat_map(ConversationUpdate::events);
        if let Some(latest) = events().filter_map(|event| event.lateness(last_hold, now)).max() {
            context.record(Metric::EventAgeMs, latest);
        }
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        context.record(Metric::DeliveryMs, duration_ms);
        info!(
            delivery.id = id,
            delivery.events = events().count(),
            delivery.conversations = updates.len(),
            delivery.event_ids = listed(events().map(|event| &event.id)),
            delivery.conversation_ids = listed(updates.iter().map(|update| &update.conversation)),
            duration_ms,
            "delivered"
        );
    }
}

/// Ids for the log, at most [`LISTED`] of them: a field of a line cannot be a list.
fn listed<'a>(ids: impl Iterator<Item = &'a Id>) -> String {
    ids.take(LISTED).map(Id::as_str).collect::<Vec<_>>().join(",")
}

fn note(outcomes: &mut [Outcome], ended: impl IntoIterator<Item = (usize, Outcome)>) {
    for (record, outcome) in ended {
        outcomes[record] = outcome;
    }
}

impl From<Interrupted> for Outcome {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::PauseReason(_) | Interrupted::Fault(_) => Self::PauseReason,
        }
    }
}

fn failure(conversation: &Id, err: &GladlyError, context: &BatchContext) -> Outcome {
    if let GladlyError::Interrupted(interrupted) = err {
        return interrupted.clone().into();
    }
    let gladly = tracing::field::display(conversation);
    warn!(gladly.conversation_id = gladly, error = error_chain(err), "gave a conversation back");
    if let GladlyError::RateLimited(wait) = err {
        return Outcome::RateLimited(*wait);
    }
    if err.is_fault() {
        context.fail(Upstream::Gladly, error_chain(err));
    } else if err.is_transient() {
        context.failed(Upstream::Gladly, [conversation].into_iter(), &error_chain(err));
    } else if !err.is_inconclusive() {
        context.failed_alone(Upstream::Gladly, conversation);
    }
    Outcome::Failed(err.retry_after())
}

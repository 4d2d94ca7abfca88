//! The controller: brings the event source mapping in line with what the parameters say, lets the
//! breaker try again, has held messages renewed, and tells how things are.

pub(crate) mod backfill;
pub(crate) mod quarantine;
pub(crate) mod renewal;
pub(crate) mod status;
pub(crate) mod webhook_monitor;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use shared::{Metric, Metrics, ParameterError, error_chain};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::{
    Extractor,
    client::event_source_mapping::MappingError,
    client::gladly::GladlyError,
    client::sqs::QueueError,
    controller::backfill::document::StoreError,
    controller::renewal::Kind,
    controller::status::{Facts, Status},
    controller::webhook_monitor::{Watching, WebhookMonitor},
    gate::breaker::{NONE_FOUND, OpenState, State, Upstream},
    pipeline::context::BatchContext,
};

/// How long a change of the mapping is waited for; the next invocation goes on from there.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often the mapping is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// How long one invocation renews.
const RENEWAL: Duration = Duration::from_secs(45);
/// What a backfill gets at least, however long the renewal took.
const LEAST: Duration = Duration::from_secs(5);
/// How long whoever writes the pause parameter by hand has to mend it.
const GRACE: SignedDuration = SignedDuration::from_mins(1);
/// What every invocation keeps for its end.
pub(crate) const RESERVE: Duration = Duration::from_secs(20);

/// Why the controller could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Gladly(#[from] GladlyError),
    #[error(
        "the pause parameter says neither running nor paused, and counts as paused until it does"
    )]
    Invalid,
    #[error("the range is noted, and goes on by itself once it can; now it cannot")]
    Noted(#[source] Box<ControlError>),
    #[error("from must be a time before to, and within {0}")]
    NoRange(&'static str),
}

/// What an invocation of the controller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A parameter has changed.
    Change,
    /// Nothing special: everything is looked after.
    Schedule,
}

impl Extractor {
    /// Sets right what is not as it should be. Safe to run twice at once: everything is decided by
    /// what is found, and looked at again once it is done.
    ///
    /// What fails does not keep the rest from being done; the first failure is returned.
    pub(crate) async fn reconcile(
        &self,
        occasion: Occasion,
        time_left: Duration,
    ) -> Result<Status, ControlError> {
        let end = Instant::now() + time_left.saturating_sub(RESERVE);
        let mut failures = Vec::new();
        let mut check = |result: Result<(), ControlError>| failures.extend(result.err());

        check(self.probe_breaker(end).await);
        check(self.sync_mapping(end.min(Instant::now() + PATIENCE)).await);
        let (mut renewed, mut enabled) = (0, None);
        if occasion == Occasion::Schedule {
            let until = end.min(Instant::now() + RENEWAL);
            let watched = self.watch(Watching::Sometimes, end).await;
            check(watched.map(|health| enabled = health.map(|health| health.is_right())));
            for (kind, queue) in
                [(Kind::Events, &self.events), (Kind::Quarantine, &self.quarantine)]
            {
                check(
                    async {
                        let depth = queue.depth().await?;
                        let run_pass = self.renewals.run_pass(
                            kind,
                            queue,
                            &depth,
                            self.renews,
                            until,
                            &self.clock,
                        );
                        renewed += run_pass.await?;
                        Ok(())
                    }
                    .await,
                );
            }
            for kind in [backfill::Kind::Events, backfill::Kind::Exports] {
                if self.backfill.is_due(kind, self.now()) {
                    let left = until.saturating_duration_since(Instant::now()).max(LEAST);
                    check(self.resume_backfill(kind, left).await);
                }
            }
        }
        let status = self.status().await;
        let mut metrics = Metrics::default();
        metrics.add(Metric::Renewed, renewed);
        if let Ok(status) = &status {
            let names = [
                Metric::Paused,
                Metric::BreakerOpen,
                Metric::Backlog,
                Metric::OldestEventAgeSeconds,
                Metric::ExpiresInSeconds,
                Metric::DrainSeconds,
            ];
            names
                .into_iter()
                .zip(status.figures())
                .for_each(|(name, value)| metrics.record(name, value));
        }
        if let Some(enabled) = enabled {
            metrics.record(Metric::WebhookEnabled, enabled.into());
        }
        metrics.emit(self.now());
        // Everything is done as in a pause; the failure is what raises an alarm.
        let invalid = |status: &Status| status.has_been_invalid_for(GRACE);
        if occasion == Occasion::Schedule && status.as_ref().is_ok_and(invalid) {
            failures.push(ControlError::Invalid);
        }
        match (failures.into_iter().next(), status) {
            (None, status) => status,
            (Some(err), _) => Err(err),
        }
    }

    /// How things are. Changes nothing.
    pub(crate) async fn status(&self) -> Result<Status, ControlError> {
        let (switch, switched_at) = self.gate.switch.fetch().await?;
        let breaker = self.gate.breaker.fetch().await?;
        let mapping = self.mapping.find().await?;
        let events = self.events.depth().await?;
        let quarantine = self.quarantine.depth().await?;
        let now = self.now();
        Ok(Status::new(Facts {
            switch: switch.as_ref().clone(),
            switched_at,
            breaker: breaker.as_ref().clone(),
            mapping: mapping.state,
            backlog: events.total,
            in_flight: events.hidden,
            quarantined: quarantine.total,
            retention: events.retention,
            low_watermark: self.renewals.low_watermark(Kind::Events, &events, now).await?,
            drain_seconds: self.throughput.drain(events.total),
            renews: self.renews,
            webhook: self.webhook_monitor.as_ref().and_then(WebhookMonitor::known),
            now,
        }))
    }

    /// Brings the mapping in line with the parameters. Both are read again after every change, so
    /// that whoever decided on something older corrects it.
    async fn sync_mapping(&self, until: Instant) -> Result<(), ControlError> {
        loop {
            let (switch, _) = self.gate.switch.fetch().await?;
            let holder = switch.held(self.now());
            let holder = holder.or(self.gate.breaker.fetch().await?.held());
            let found = self.mapping.find().await?;
            let wanted = holder.is_none();
            match found.enabled() {
                Some(enabled) if enabled == wanted => return Ok(()),
                Some(_) => {
                    if let Some(holder) = &holder {
                        let reason = tracing::field::display(holder);
                        warn!(reason, "switching the mapping off");
                    } else {
                        info!("switching the mapping on");
                    }
                    self.mapping.switch(&found, wanted).await?;
                }
                // On its way: waited for, never fought.
                None => {}
            }
            if Instant::now() + LOOK >= until {
                info!(mapping.state = found.state, "the mapping is still changing");
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Lets an open breaker try again when it is time, or when the secret it may have failed for
    /// was replaced since.
    async fn probe_breaker(&self, end: Instant) -> Result<(), ControlError> {
        let breaker = &self.gate.breaker;
        match &*breaker.fetch().await? {
            State::Closed { .. } | State::HalfOpen(_) => {}
            // Closed is safe: a fault that still stands opens it at its first call.
            State::Invalid => {
                error!("the breaker parameter is not as the relay writes it: closing the breaker");
                breaker.close(None).await;
            }
            State::Open(open_state) if !self.is_due(open_state).await => {}
            State::Open(open_state) => match open_state.cause {
                Upstream::Destination => breaker.half_open(open_state).await,
                Upstream::Gladly => {
                    let left = end.saturating_duration_since(Instant::now());
                    let context = BatchContext::unguarded(Arc::clone(&self.gate), left);
                    match self.fetcher.gladly().probe(&context).await {
                        // That it knows us does not show that it has what we ask it for.
                        Ok(()) => breaker.half_open(open_state).await,
                        Err(err) if err.is_inconclusive() => {
                            warn!(error = error_chain(&err), "could not try Gladly again");
                        }
                        // Nor that it has it, if it cannot be asked just now.
                        Err(err) if open_state.reason == NONE_FOUND && err.is_transient() => {
                            breaker.keep_open(open_state, NONE_FOUND).await;
                        }
                        Err(err) => breaker.keep_open(open_state, &error_chain(&err)).await,
                    }
                }
            },
        }
        Ok(())
    }

    async fn is_due(&self, open_state: &OpenState) -> bool {
        let written_at = match open_state.cause {
            Upstream::Gladly => self.fetcher.gladly().token_written_at().await,
            Upstream::Destination => self.destination.token_written_at().await,
        };
        let replaced = written_at.ok().flatten().is_some_and(|at| at > open_state.opened_at());
        replaced || open_state.retry_at <= self.now()
    }
}

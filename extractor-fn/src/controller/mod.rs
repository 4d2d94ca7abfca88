//! The controller: reconciles the event source mapping with the parameters, probes an open breaker,
//! renews held messages, monitors the webhook, resumes backfills, and reports the status.

pub(crate) mod backfill;
pub(crate) mod error;
pub(crate) mod quarantine;
pub(crate) mod renewal;
pub(crate) mod schedule;
pub(crate) mod status;
pub(crate) mod webhook_monitor;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use shared::{
    Clock, Metric, Metrics, MetricsWriter, RecoverySource, SettleWindow, Status, error_chain,
};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::{
    client::{
        Clients,
        destination::Destination,
        event_source_mapping::Mapping,
        gladly::Gladly,
        sqs::{Depth, Queue},
        throughput::ThroughputEstimate,
    },
    controller::{
        backfill::{Backfill, BackfillStore},
        error::ControllerError,
        quarantine::Quarantine,
        renewal::{QueueKind, RenewalStore},
        schedule::RESERVE,
        status::{CurrentState, Facts},
        webhook_monitor::{Watching, WebhookMonitor},
    },
    gate::{
        ControllerPermission, Gate,
        breaker::{NONE_FOUND, OpenState, State, Upstream},
    },
};

/// How long one invocation waits for a change of the mapping; the next one continues.
const MAPPING_TRANSITION_TIMEOUT: Duration = Duration::from_secs(40);
/// The interval of polling the mapping meanwhile.
const MAPPING_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long one invocation renews.
const RENEWAL_TIME: Duration = Duration::from_secs(45);
/// The least time of a backfill, however long the renewal took.
const MIN_BACKFILL_TIME: Duration = Duration::from_secs(5);
/// How long the pause parameter may be invalid before the controller fails, which raises an alarm.
const INVALID_PAUSE_GRACE: SignedDuration = SignedDuration::from_mins(1);

/// What an invocation of the controller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A parameter has changed.
    Change,
    /// The schedule: everything is reconciled.
    Schedule,
}

/// Reconciles the resources at AWS and Gladly with the parameters.
pub(crate) struct Controller {
    gate: Arc<Gate>,
    gladly: Arc<Gladly>,
    destination: Arc<Destination>,
    events: Arc<Queue>,
    quarantined: Arc<Queue>,
    mapping: Mapping,
    renewals: RenewalStore,
    pub(crate) backfill: Backfill,
    pub(crate) quarantine: Quarantine,
    /// Absent where no webhook is monitored.
    pub(crate) webhook_monitor: Option<WebhookMonitor>,
    /// Whether messages are renewed before they expire.
    renews: bool,
    throughput: Arc<ThroughputEstimate>,
    settle_window: SettleWindow,
    clock: Clock,
    metrics: MetricsWriter,
}

/// What the operator wants of the controller.
pub(crate) struct ControllerOptions {
    /// The URL of the webhook that is monitored, if one is.
    pub(crate) webhook: Option<String>,
    pub(crate) settle_window: SettleWindow,
    /// Whether messages are renewed before they expire.
    pub(crate) renews: bool,
    /// Whether deletions and merges of customers are forwarded.
    pub(crate) forwards_erasures: bool,
}

impl Controller {
    pub(crate) fn new(
        clients: Clients,
        mapping: Mapping,
        renewals: RenewalStore,
        backfills: BackfillStore,
        options: ControllerOptions,
    ) -> Self {
        let Clients { gate, gladly, destination, events, quarantine, throughput, clock, metrics } =
            clients;
        let ControllerOptions { webhook, settle_window, renews, forwards_erasures } = options;
        let backfills = Arc::new(backfills);
        let monitor = |url| {
            let (gladly, backfills) = (Arc::clone(&gladly), Arc::clone(&backfills));
            WebhookMonitor::new(url, gladly, backfills, forwards_erasures, clock.clone())
        };
        Self {
            webhook_monitor: webhook.map(monitor),
            backfill: Backfill::new(
                backfills,
                Arc::clone(&gladly),
                Arc::clone(&events),
                forwards_erasures,
                clock.clone(),
            ),
            quarantine: Quarantine::new(
                Arc::clone(&quarantine),
                Arc::clone(&events),
                clock.clone(),
            ),
            gate,
            gladly,
            destination,
            events,
            quarantined: quarantine,
            mapping,
            renewals,
            renews,
            throughput,
            settle_window,
            clock,
            metrics,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Compares the current state with the desired one and corrects it. Safe to run concurrently:
    /// every decision follows from the state read, which is read again after every change.
    ///
    /// A failed step does not prevent the others; the first failure is returned.
    pub(crate) async fn reconcile(
        &self,
        occasion: Occasion,
        time_left: Duration,
    ) -> Result<Status, ControllerError> {
        let end = Instant::now() + time_left.saturating_sub(RESERVE);
        let mut failures = Vec::new();
        let mut check = |result: Result<(), ControllerError>| failures.extend(result.err());

        check(self.probe_breaker().await);
        check(self.sync_mapping(end.min(Instant::now() + MAPPING_TRANSITION_TIMEOUT)).await);
        let (mut renewed, mut enabled) = (0, None);
        if occasion == Occasion::Schedule {
            let until = end.min(Instant::now() + RENEWAL_TIME);
            if let Some(monitor) = &self.webhook_monitor {
                let watched = monitor.watch(Watching::IfDue).await;
                check(watched.map(|health| enabled = health.map(|health| health.is_right())));
            }
            for (kind, queue) in
                [(QueueKind::Events, &self.events), (QueueKind::Quarantine, &self.quarantined)]
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
            for source in [RecoverySource::Backfill, RecoverySource::Import] {
                if self.backfill.is_due(source) {
                    let left =
                        until.saturating_duration_since(Instant::now()).max(MIN_BACKFILL_TIME);
                    check(self.backfill.resume(source, left).await);
                }
            }
        }
        let state = self.state().await;
        let mut metrics = Metrics::default();
        metrics.add(Metric::Renewed, renewed);
        if let Ok(state) = &state {
            state.record(&mut metrics);
        }
        if let Some(enabled) = enabled {
            metrics.record(Metric::WebhookEnabled, enabled.into());
        }
        self.metrics.write(&metrics, self.now());
        // Everything else is done as in a pause; the failure raises the alarm.
        let invalid = |state: &CurrentState| state.has_been_invalid_for(INVALID_PAUSE_GRACE);
        if occasion == Occasion::Schedule && state.as_ref().is_ok_and(invalid) {
            failures.push(ControllerError::InvalidPause);
        }
        match (failures.into_iter().next(), state) {
            (None, state) => state.map(|state| state.status),
            (Some(err), _) => Err(err),
        }
    }

    /// The current state. Changes nothing.
    pub(crate) async fn status(&self) -> Result<Status, ControllerError> {
        self.state().await.map(|state| state.status)
    }

    async fn state(&self) -> Result<CurrentState, ControllerError> {
        let (pause, pause_written_at) = self.gate.pause.fetch().await?;
        let breaker = self.gate.breaker.fetch().await?;
        let mapping = self.mapping.find().await?;
        let events = self.events.depth().await?;
        let quarantine = self.quarantined.depth().await?;
        let now = self.now();
        Ok(CurrentState::new(Facts {
            pause: pause.as_ref().clone(),
            pause_written_at,
            breaker: breaker.as_ref().clone(),
            mapping: mapping.state,
            events,
            quarantined: quarantine.total,
            low_watermark: self.renewals.low_watermark(QueueKind::Events, &events, now).await?,
            drain_seconds: self.drain_seconds(&events),
            renews: self.renews,
            webhook: self.webhook_monitor.as_ref().and_then(WebhookMonitor::last_health),
            recoveries: self.backfill.pending().await?,
            now,
        }))
    }

    /// An estimate of how long the waiting events take; the delayed ones at least their window.
    fn drain_seconds(&self, events: &Depth) -> u64 {
        let window = if events.delayed > 0 { self.settle_window.longest() } else { 0 };
        self.throughput.drain(events.total).max(window.into())
    }

    /// Enables or disables the mapping according to the parameters. Both are read again after every
    /// change, so that an invocation that decided by an older value corrects it.
    async fn sync_mapping(&self, until: Instant) -> Result<(), ControllerError> {
        loop {
            let (pause, _) = self.gate.pause.fetch().await?;
            let holder = pause.held(self.now());
            let holder = holder.or(self.gate.breaker.fetch().await?.held());
            let found = self.mapping.find().await?;
            let wanted = holder.is_none();
            match found.enabled() {
                Some(enabled) if enabled == wanted => return Ok(()),
                Some(_) => {
                    if let Some(holder) = &holder {
                        let reason = tracing::field::display(holder);
                        warn!(reason, "disabling the event source mapping");
                    } else {
                        info!("enabling the event source mapping");
                    }
                    self.mapping.switch(&found, wanted).await?;
                }
                // In transition: waited for, never interrupted.
                None => {}
            }
            if Instant::now() + MAPPING_POLL_INTERVAL >= until {
                info!(mapping.state = found.state, "the event source mapping is still changing");
                return Ok(());
            }
            sleep(MAPPING_POLL_INTERVAL).await;
        }
    }

    /// Starts a trial of an open breaker when it is due, or when the secret it may have opened for
    /// has been replaced since.
    async fn probe_breaker(&self) -> Result<(), ControllerError> {
        let breaker = &self.gate.breaker;
        match &*breaker.fetch().await? {
            State::Closed { .. } | State::HalfOpen(_) => {}
            // Closed is safe: a cause that still exists opens it at the first call.
            State::Invalid => {
                error!("breaker parameter is malformed; resetting to closed");
                breaker.close(None).await;
            }
            State::Open(open_state) if !self.is_due(open_state).await => {}
            State::Open(open_state) => match open_state.cause {
                Upstream::Destination => breaker.half_open(open_state).await,
                Upstream::Gladly => {
                    match self.gladly.probe(&ControllerPermission).await {
                        // The probe shows that the credentials work, not that conversations exist.
                        Ok(()) => breaker.half_open(open_state).await,
                        Err(err) if err.is_inconclusive() => {
                            warn!(error = error_chain(&err), "could not probe Gladly");
                        }
                        // A transient failure does not show that conversations exist again.
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
            Upstream::Gladly => self.gladly.token_written_at().await,
            Upstream::Destination => self.destination.token_written_at().await,
        };
        let replaced = written_at.ok().flatten().is_some_and(|at| at > open_state.opened_at());
        replaced || open_state.retry_at <= self.now()
    }
}

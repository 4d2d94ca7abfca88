//! Monitors the webhook at Gladly: Gladly disables one after about an hour of failures, and reports
//! that only by e-mail. The monitor re-enables it, and records the gap for a backfill.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use shared::{Clock, ERASURE_EVENT_TYPES, REQUIRED_EVENT_TYPES, WebhookHealth, error_chain};
use tracing::{error, info, warn};

use crate::{
    client::gladly::{Gladly, Webhook},
    controller::{
        backfill::BackfillStore,
        error::ControllerError,
        schedule::{GLADLY_INTERVAL, is_due},
    },
    gate::ControllerPermission,
};

/// How long before the disabling a gap may begin: Gladly retries for up to an hour and a half, and
/// clocks differ.
const GAP_START_MARGIN: SignedDuration = SignedDuration::from_hours(2);
/// How long after the re-enabling a gap may end: Gladly may take a moment to send again.
const GAP_END_MARGIN: SignedDuration = SignedDuration::from_secs(30);
/// Monitors the webhook with this relay's URL.
pub(crate) struct WebhookMonitor {
    url: String,
    gladly: Arc<Gladly>,
    backfills: Arc<BackfillStore>,
    /// Whether deletions and merges of customers are forwarded, and so subscribed to.
    forwards_erasures: bool,
    clock: Clock,
    /// When it was last checked, and the last result.
    last_check: Mutex<Option<(Timestamp, Option<WebhookHealth>)>>,
}

/// When to check the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watching {
    /// If the last check is five minutes ago.
    IfDue,
    /// Now.
    Now,
}

impl WebhookMonitor {
    pub(crate) fn new(
        url: String,
        gladly: Arc<Gladly>,
        backfills: Arc<BackfillStore>,
        forwards_erasures: bool,
        clock: Clock,
    ) -> Self {
        Self { url, gladly, backfills, forwards_erasures, clock, last_check: Mutex::default() }
    }

    /// The last result in this environment.
    pub(crate) fn last_health(&self) -> Option<WebhookHealth> {
        self.locked().as_ref().and_then(|(_, health)| health.clone())
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<(Timestamp, Option<WebhookHealth>)>> {
        self.last_check.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_check(&self, now: Timestamp) {
        let health = self.last_health();
        *self.locked() = Some((now, health));
    }

    fn is_due(&self, now: Timestamp) -> bool {
        is_due(self.locked().as_ref().map(|(at, _)| *at), now)
    }

    fn own<'a>(&self, webhooks: &'a [Webhook]) -> Option<&'a Webhook> {
        webhooks.iter().find(|webhook| webhook.url == self.url)
    }

    /// Records the webhook's health without having corrected anything: the next watch stays due.
    fn note(&self, webhooks: &[Webhook], now: Timestamp) {
        *self.locked() = Some((now - GLADLY_INTERVAL, Some(self.health(self.own(webhooks), now))));
    }

    fn health(&self, webhook: Option<&Webhook>, now: Timestamp) -> WebhookHealth {
        let Some(webhook) = webhook else {
            return WebhookHealth {
                enabled: false,
                checked_at: now,
                missing: true,
                disabled_at_due_to_retry_limit: None,
                missing_events: Vec::new(),
                missing_erasures: Vec::new(),
            };
        };
        let is_missing = |name: &&str| !webhook.events.iter().any(|event| event == name);
        let missing =
            |types: &[&str]| types.iter().copied().filter(is_missing).map(str::to_owned).collect();
        WebhookHealth {
            enabled: webhook.enabled,
            checked_at: now,
            missing: false,
            disabled_at_due_to_retry_limit: webhook.disabled_at_due_to_retry_limit,
            missing_events: missing(&REQUIRED_EVENT_TYPES),
            missing_erasures: if self.forwards_erasures {
                missing(&ERASURE_EVENT_TYPES)
            } else {
                Vec::new()
            },
        }
    }
}

impl WebhookMonitor {
    /// Checks the webhook, and re-enables it if Gladly has disabled it. `None` if no check is due.
    pub(crate) async fn watch(
        &self,
        watching: Watching,
    ) -> Result<Option<WebhookHealth>, ControllerError> {
        if watching == Watching::IfDue && !self.is_due(self.clock.now()) {
            return Ok(None);
        }
        // Also if the call fails: a Gladly that does not answer is not called more often.
        self.note_check(self.clock.now());
        let webhooks = self.gladly.webhooks(&ControllerPermission).await?;
        let own = self.own(&webhooks);
        let mut health = self.health(own, self.clock.now());
        match own {
            None => error!("Gladly has no webhook with this relay's URL; no event can arrive"),
            Some(webhook) => self.re_enable(webhook, &mut health).await?,
        }
        if !health.missing_events.is_empty() {
            let missing = health.missing_events.join(",");
            error!(webhook.missing_events = missing, "the webhook lacks subscriptions");
        }
        // Not every organisation is offered them, so it is logged once.
        let known =
            self.last_health().is_some_and(|last| last.missing_erasures == health.missing_erasures);
        if !known && !health.missing_erasures.is_empty() {
            let missing = health.missing_erasures.join(",");
            warn!(
                webhook.missing_events = missing,
                "the webhook does not report deletions or merges of customers; they are not forwarded"
            );
        }
        *self.locked() = Some((self.clock.now(), Some(health.clone())));
        Ok(Some(health))
    }

    /// Reads the webhook's health if this environment has no recent result. Changes nothing.
    pub(crate) async fn refresh_health(&self) {
        if !self.is_due(self.clock.now()) {
            return;
        }
        match self.gladly.webhooks(&ControllerPermission).await {
            Ok(webhooks) => self.note(&webhooks, self.clock.now()),
            Err(err) => warn!(error = error_chain(&err), "could not check the webhook at Gladly"),
        }
    }

    /// Re-enables a webhook that Gladly disabled. The gap is recorded first, so that it is filled even
    /// if this fails.
    async fn re_enable(
        &self,
        webhook: &Webhook,
        health: &mut WebhookHealth,
    ) -> Result<(), ControllerError> {
        match webhook.disabled_at_due_to_retry_limit.filter(|_| !webhook.enabled) {
            None if webhook.enabled => {}
            // A person's decision.
            None => error!("the webhook was disabled by hand at Gladly; no event can arrive"),
            Some(disabled_at) => {
                let begins = disabled_at.saturating_sub(GAP_START_MARGIN).unwrap_or(disabled_at);
                self.backfills.events().update(|ranges| ranges.open(begins)).await?;
                error!(webhook.disabled_at = %disabled_at, "Gladly disabled the webhook; re-enabling it");
                match self.gladly.enable(&webhook.id, &ControllerPermission).await {
                    Ok(()) => {
                        info!("re-enabled the webhook");
                        health.enabled = true;
                    }
                    // Gladly tests the endpoint with a PING first; the next watch retries.
                    Err(err) => {
                        error!(error = error_chain(&err), "could not re-enable the webhook");
                        return Ok(());
                    }
                }
            }
        }
        if health.enabled {
            let ends = self.clock.now() + GAP_END_MARGIN;
            self.backfills.events().update(|ranges| ranges.close(ends)).await?;
        }
        Ok(())
    }
}

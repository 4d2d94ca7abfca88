//! The watch over Gladly's webhook: Gladly gives one up after an hour of failures, and tells by
//! e-mail only. It is switched on again, and what it missed is asked for.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::{Clock, error_chain};
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

/// Gladly tried for an hour before it gave up, or for an hour and a half, and its clock is not ours.
const BEFORE: SignedDuration = SignedDuration::from_hours(2);
/// A webhook that was switched on may take a moment to be sent to.
const AFTER: SignedDuration = SignedDuration::from_secs(30);
/// What a webhook has to be subscribed to. `MESSAGE/RECEIVED` is no longer on Gladly's list, and
/// `CONTACT/MESSAGE_RECEIVED` tells of the same.
const EVENTS: [&str; 9] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONVERSATION/TOPIC_REMOVED",
    "CONVERSATION_ASSIGNEE/UPDATED",
    "CONVERSATION_STATUS/UPDATED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
];

/// Looks after the webhook with our URL.
pub(crate) struct WebhookMonitor {
    url: String,
    gladly: Arc<Gladly>,
    backfills: Arc<BackfillStore>,
    clock: Clock,
    /// When Gladly was asked, and what it last said.
    known: Mutex<Option<(Timestamp, Option<Health>)>>,
}

/// How the webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Health {
    enabled: bool,
    checked_at: Timestamp,
    /// Gladly has no webhook with our URL.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    missing: bool,
    /// When Gladly gave it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at_due_to_retry_limit: Option<Timestamp>,
    /// What it is not subscribed to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_events: Vec<&'static str>,
}

/// When Gladly is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watching {
    /// Every five minutes.
    Sometimes,
    /// Now.
    Now,
}

impl WebhookMonitor {
    pub(crate) fn new(
        url: String,
        gladly: Arc<Gladly>,
        backfills: Arc<BackfillStore>,
        clock: Clock,
    ) -> Self {
        Self { url, gladly, backfills, clock, known: Mutex::default() }
    }

    /// What this environment knows.
    pub(crate) fn known(&self) -> Option<Health> {
        self.locked().as_ref().and_then(|(_, health)| health.clone())
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<(Timestamp, Option<Health>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, now: Timestamp) {
        let health = self.known();
        *self.locked() = Some((now, health));
    }

    fn is_due(&self, now: Timestamp) -> bool {
        is_due(self.locked().as_ref().map(|(at, _)| *at), now)
    }

    fn ours<'a>(&self, webhooks: &'a [Webhook]) -> Option<&'a Webhook> {
        webhooks.iter().find(|webhook| webhook.url == self.url)
    }

    /// Remembers how the webhook is, without having mended anything: the next watch is due.
    fn note(&self, webhooks: &[Webhook], now: Timestamp) {
        *self.locked() =
            Some((now - GLADLY_INTERVAL, Some(Self::health(self.ours(webhooks), now))));
    }

    fn health(webhook: Option<&Webhook>, now: Timestamp) -> Health {
        let Some(webhook) = webhook else {
            return Health {
                enabled: false,
                checked_at: now,
                missing: true,
                disabled_at_due_to_retry_limit: None,
                missing_events: Vec::new(),
            };
        };
        let subscribed = |kind: &&str| !webhook.events.iter().any(|event| event == kind);
        Health {
            enabled: webhook.enabled,
            checked_at: now,
            missing: false,
            disabled_at_due_to_retry_limit: webhook.disabled_at_due_to_retry_limit,
            missing_events: EVENTS.into_iter().filter(subscribed).collect(),
        }
    }
}

impl Health {
    /// Whether there is nothing to mend.
    pub(crate) fn is_right(&self) -> bool {
        self.enabled && self.missing_events.is_empty()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing {
            return f.write_str("Gladly has none with this relay's URL: make webhook");
        }
        f.write_str(if self.enabled { "enabled" } else { "DISABLED" })?;
        if let Some(at) = self.disabled_at_due_to_retry_limit {
            write!(f, ", given up by Gladly at {}", at.strftime("%Y-%m-%d %H:%M UTC"))?;
        }
        if !self.missing_events.is_empty() {
            write!(f, ", without {}: make webhook", self.missing_events.join(", "))?;
        }
        Ok(())
    }
}

impl WebhookMonitor {
    /// Checks the webhook, and re-enables it where Gladly disabled it. `None` where it is not time.
    pub(crate) async fn watch(
        &self,
        watching: Watching,
    ) -> Result<Option<Health>, ControllerError> {
        if watching == Watching::Sometimes && !self.is_due(self.clock.now()) {
            return Ok(None);
        }
        // Also where it fails: a Gladly that does not answer is not asked more often.
        self.asked(self.clock.now());
        let webhooks = self.gladly.webhooks(&ControllerPermission).await?;
        let ours = self.ours(&webhooks);
        let mut health = Self::health(ours, self.clock.now());
        match ours {
            None => error!("Gladly has no webhook with this relay's URL; no event can arrive"),
            Some(webhook) => self.re_enable(webhook, &mut health).await?,
        }
        if !health.missing_events.is_empty() {
            let missing = health.missing_events.join(",");
            error!(webhook.missing_events = missing, "the webhook lacks subscriptions");
        }
        *self.locked() = Some((self.clock.now(), Some(health.clone())));
        Ok(Some(health))
    }

    /// Asks how the webhook is where this environment does not know. Changes nothing.
    pub(crate) async fn refresh_health(&self) {
        if !self.is_due(self.clock.now()) {
            return;
        }
        match self.gladly.webhooks(&ControllerPermission).await {
            Ok(webhooks) => self.note(&webhooks, self.clock.now()),
            Err(err) => warn!(error = error_chain(&err), "could not check the webhook at Gladly"),
        }
    }

    /// Re-enables a webhook that Gladly disabled. The gap is recorded before, so that it is
    /// filled whatever happens in between.
    async fn re_enable(
        &self,
        webhook: &Webhook,
        health: &mut Health,
    ) -> Result<(), ControllerError> {
        match webhook.disabled_at_due_to_retry_limit.filter(|_| !webhook.enabled) {
            None if webhook.enabled => {}
            // Somebody's decision.
            None => error!("the webhook was disabled by hand at Gladly; no event can arrive"),
            Some(given_up) => {
                let begins = given_up.saturating_sub(BEFORE).unwrap_or(given_up);
                self.backfills.events().update(|ranges| ranges.open(begins)).await?;
                error!(webhook.disabled_at = %given_up, "Gladly disabled the webhook; re-enabling it");
                match self.gladly.enable(&webhook.id, &ControllerPermission).await {
                    Ok(()) => {
                        info!("re-enabled the webhook");
                        health.enabled = true;
                    }
                    // Gladly asks our endpoint first; the next watch tries again.
                    Err(err) => {
                        error!(error = error_chain(&err), "could not re-enable the webhook");
                        return Ok(());
                    }
                }
            }
        }
        if health.enabled {
            let ends = self.clock.now() + AFTER;
            self.backfills.events().update(|ranges| ranges.close(ends)).await?;
        }
        Ok(())
    }
}

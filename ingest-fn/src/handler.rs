//! From a request to its answer.

use std::{convert::Infallible, time::Duration};

use aws_config::SdkConfig;
use lambda_http::{
    Body, LambdaEvent,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
};
use shared::{
    Clock, Metric, Metrics, MetricsWriter, Parameter, SettleWindow, error_chain, invocation_span,
    ssm_client,
};
use tokio::time::timeout;
use tracing::{Instrument as _, error, warn};

use crate::{
    api_keys::{self, ActiveKeys, KEYS_TTL},
    config::Config,
    http_api::{self, Request, Response},
    queue::{EnqueueError, WebhookQueue},
    webhook::{Action, Rejection, Webhook},
};

/// The longest that a request may take. The function's timeout is 14 s, and a timed-out invocation
/// does not answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(13);

/// How a request ended. Each variant has exactly one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In the events queue.
    Queued,
    /// Gladly tested the endpoint.
    Pong,
    /// About nothing that the relay forwards.
    Ignored,
    /// In the quarantine queue: not an event, and sending it again would not change that.
    Quarantined,
    /// No valid key.
    Unauthorized,
    /// Nothing is stored; Gladly must send it again.
    Unavailable,
}

impl From<Outcome> for lambda_http::Response<Body> {
    fn from(outcome: Outcome) -> Self {
        let (status, body) = match outcome {
            Outcome::Queued => (StatusCode::OK, r#"{"status":"queued"}"#),
            Outcome::Pong => (StatusCode::OK, r#"{"status":"pong"}"#),
            Outcome::Ignored => (StatusCode::OK, r#"{"status":"ignored"}"#),
            Outcome::Quarantined => (StatusCode::OK, r#"{"status":"quarantined"}"#),
            Outcome::Unauthorized => (StatusCode::UNAUTHORIZED, r#"{"status":"unauthorized"}"#),
            Outcome::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"unavailable"}"#)
            }
        };
        let mut response = Self::new(body.into());
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// The receiver of webhooks.
pub struct Ingest {
    keys: Parameter<ActiveKeys>,
    queue: WebhookQueue,
    settle_window: SettleWindow,
    forwards_erasures: bool,
    clock: Clock,
    metrics: MetricsWriter,
}

impl Ingest {
    /// Creates a receiver that reaches AWS by `aws`.
    #[must_use]
    pub fn new(aws: &SdkConfig, config: Config, clock: Clock, metrics: MetricsWriter) -> Self {
        let name = config.webhook_keys_parameter.clone();
        let keys = Parameter::new(ssm_client(aws), name, KEYS_TTL, clock.clone());
        let Config { settle_window, forward_erasures, .. } = config;
        Self {
            keys,
            queue: WebhookQueue::new(aws, config),
            settle_window,
            forwards_erasures: forward_erasures,
            clock,
            metrics,
        }
    }

    /// Reads the keys ahead of the first request, while Lambda lends the start-up its full CPU.
    /// A failure does not prevent the start: the first request reads them again.
    pub async fn warm_up(&self) {
        if let Err(err) = api_keys::warm_up(&self.keys).await {
            error!(error = error_chain(&err), "could not read the webhook keys at start");
        }
    }

    /// Lambda's entry point. Infallible: every outcome is an answer.
    pub async fn handle(&self, event: LambdaEvent<Request>) -> Result<Response, Infallible> {
        let span = invocation_span(&event.context.request_id);
        let mut metrics = Metrics::default();
        let outcome = self.receive(event.payload.0, &mut metrics).instrument(span.clone()).await;
        span.in_scope(|| self.metrics.write(&metrics, self.clock.now()));
        Ok(http_api::to_response(outcome.into()))
    }

    /// Authenticates a request and makes it durable, or reports in time that it is not.
    pub async fn receive(&self, request: lambda_http::Request, metrics: &mut Metrics) -> Outcome {
        let Ok(outcome) = timeout(REQUEST_LIMIT, self.store(request, metrics)).await else {
            error!("timed out storing a webhook");
            metrics.add(Metric::Unavailable, 1);
            return Outcome::Unavailable;
        };
        outcome
    }

    async fn store(&self, request: lambda_http::Request, metrics: &mut Metrics) -> Outcome {
        let received_at = self.clock.now();
        let webhook = match Webhook::authenticate(request, &self.keys).await {
            Ok(webhook) => webhook,
            Err(Rejection::Unauthorized) => {
                metrics.add(Metric::Unauthorized, 1);
                return Outcome::Unauthorized;
            }
            Err(err @ Rejection::NoKeys(_)) => {
                error!(error = error_chain(&err), "could not check a webhook's key");
                metrics.add(Metric::Unavailable, 1);
                return Outcome::Unavailable;
            }
        };
        metrics.key_slot(webhook.slot());

        let action = webhook.action(received_at, self.settle_window, self.forwards_erasures);
        if let Ok(Action::IgnoreErasure(id)) = &action {
            let event = id.as_ref().map(tracing::field::display);
            warn!(event.id = event, "ignored an erasure that does not name its customer");
        }
        match action {
            Ok(Action::Pong) => Outcome::Pong,
            Ok(Action::Ignore | Action::IgnoreErasure(_)) => {
                metrics.add(Metric::Ignored, 1);
                Outcome::Ignored
            }
            Ok(Action::Enqueue(event)) => match self.queue.enqueue(&webhook, event).await {
                Ok(()) => {
                    metrics.add(Metric::Queued, 1);
                    Outcome::Queued
                }
                Err(err) => not_stored(&err, metrics),
            },
            Err(why) => match self.queue.quarantine(&webhook, &why, received_at).await {
                Ok(()) => {
                    let (reason, detail) = (why.reason().code(), tracing::field::display(&why));
                    error!(reason, detail, "quarantined a webhook");
                    metrics.add(Metric::Quarantined, 1);
                    Outcome::Quarantined
                }
                Err(err) => not_stored(&err, metrics),
            },
        }
    }
}

fn not_stored(err: &EnqueueError, metrics: &mut Metrics) -> Outcome {
    error!(error = error_chain(err), "could not store a webhook");
    metrics.add(Metric::Unavailable, 1);
    Outcome::Unavailable
}

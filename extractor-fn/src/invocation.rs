//! What the function can be invoked with.

use std::{
    fmt::{self, Debug, Display, Formatter},
    time::Duration,
};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};
use shared::{error_chain, invocation_span};
use tokio::time::Instant;
use tracing::{Instrument as _, info};

use crate::{
    client::message::{MissingMessageId, sqs_message},
    controller::{Occasion, error::ControllerError, schedule::RESERVE, webhook_monitor::Watching},
    extractor::Extractor,
};

/// What Lambda invokes the function with.
#[derive(Debug)]
pub enum Invocation {
    /// An SQS batch.
    Batch(Vec<SqsMessage>),
    /// An EventBridge event: a parameter has changed.
    ParameterChange,
    /// A task of the controller, from EventBridge Scheduler or by hand.
    Task {
        /// Which one.
        task: Task,
        /// Whether the response is a screen for people instead of a document.
        as_text: bool,
    },
    /// None of these.
    Unknown,
}

/// A task of the controller.
#[derive(Debug, Clone, Copy)]
pub enum Task {
    /// Reconciles everything, every minute.
    Reconcile,
    /// Checks the webhook at Gladly now.
    Watch,
    /// Reports the current state.
    Status,
    /// Lists the quarantine.
    Quarantine,
    /// Sends quarantined events back into the events queue.
    Redrive {
        /// At most this many.
        max: Option<u64>,
    },
    /// Queues what Gladly lists of a range.
    Backfill(TimeRange),
    /// Queues the conversations of Gladly's exports of a range.
    Import(TimeRange),
}

/// The range of a backfill or an import.
#[derive(Debug, Clone, Copy)]
pub struct TimeRange {
    from: Option<Timestamp>,
    /// Now, if absent.
    to: Option<Timestamp>,
}

/// The payload's JSON.
#[derive(Default, Deserialize)]
struct Payload {
    #[serde(default, rename = "Records", deserialize_with = "records")]
    records: Option<Vec<SqsMessage>>,
    task: Option<String>,
    max: Option<u64>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    #[serde(rename = "as")]
    form: Option<String>,
    source: Option<String>,
}

impl From<Payload> for Invocation {
    fn from(payload: Payload) -> Self {
        let Payload { records, task, max, from, to, form, source } = payload;
        if let Some(records) = records {
            return Self::Batch(records);
        }
        let range = TimeRange { from, to };
        let task = match (task.as_deref(), source.as_deref()) {
            (Some("reconcile"), _) => Task::Reconcile,
            (Some("watch"), _) => Task::Watch,
            (Some("status"), _) => Task::Status,
            (Some("quarantine"), _) => Task::Quarantine,
            (Some("redrive"), _) => Task::Redrive { max },
            (Some("backfill"), _) => Task::Backfill(range),
            (Some("import"), _) => Task::Import(range),
            (None, Some("aws.ssm")) => return Self::ParameterChange,
            _ => return Self::Unknown,
        };
        Self::Task { task, as_text: form.as_deref() == Some("text") }
    }
}

/// Reads each record alone.
fn records<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<SqsMessage>>, D::Error> {
    let records = Option::<Vec<Box<RawValue>>>::deserialize(deserializer)?;
    Ok(records.map(|records| records.iter().map(|record| sqs_message(record.get())).collect()))
}

impl<'de> Deserialize<'de> for Invocation {
    /// Never fails: the runtime's own error would show the payload's texts, in the log too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Payload::deserialize(deserializer).unwrap_or_default().into())
    }
}

/// Why an invocation failed.
#[derive(thiserror::Error)]
pub enum InvocationError {
    /// SQS keeps the whole batch.
    #[error(transparent)]
    MissingMessageId(#[from] MissingMessageId),
    /// A backfill or an import without a range.
    #[error(r#"from is missing: expected a time such as "2026-01-02T03:04:05Z""#)]
    NoRange,
    /// The task failed.
    #[error("{0}")]
    Failed(String),
    /// Not an invocation that the function supports.
    #[error(
        r#"unknown invocation: expected an SQS batch, a parameter change event of aws.ssm, or {{"task":"…"}}"#
    )]
    Unknown,
}

/// The text, not the derived form, since this is what the runtime logs.
impl Debug for InvocationError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<InvocationError> for Diagnostic {
    fn from(err: InvocationError) -> Self {
        let error_type = match err {
            InvocationError::MissingMessageId(_) => "MissingMessageId",
            InvocationError::NoRange => "NoRange",
            InvocationError::Failed(_) => "ControllerError",
            InvocationError::Unknown => "UnknownInvocation",
        };
        Self { error_type: error_type.into(), error_message: err.to_string() }
    }
}

impl From<ControllerError> for InvocationError {
    fn from(err: ControllerError) -> Self {
        Self::Failed(error_chain(&err))
    }
}

/// What an invocation answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// What stays in the queue.
    Batch(SqsBatchResponse),
    /// A task's result.
    Document(Value),
    /// The same, for people.
    Screen(String),
}

impl Response {
    fn new(answer: &(impl Serialize + Display), as_text: bool) -> Result<Self, InvocationError> {
        if as_text {
            return Ok(Self::Screen(answer.to_string()));
        }
        serde_json::to_value(answer)
            .map(Self::Document)
            .map_err(|err| InvocationError::Failed(err.to_string()))
    }
}

impl Task {
    /// Its name, as in the payload.
    fn name(self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Watch => "watch",
            Self::Status => "status",
            Self::Quarantine => "quarantine",
            Self::Redrive { .. } => "redrive",
            Self::Backfill(_) => "backfill",
            Self::Import(_) => "import",
        }
    }
}

impl Extractor {
    /// Lambda's entry point.
    pub async fn handle(
        &self,
        event: LambdaEvent<Invocation>,
    ) -> Result<Response, InvocationError> {
        let span = invocation_span(&event.context.request_id);
        let now = u64::try_from(self.clock.now().as_millisecond()).unwrap_or_default();
        let left = Duration::from_millis(event.context.deadline.saturating_sub(now));
        // Boxed: the futures below are deeply nested.
        Box::pin(self.respond(event.payload, left)).instrument(span).await
    }

    async fn respond(
        &self,
        invocation: Invocation,
        left: Duration,
    ) -> Result<Response, InvocationError> {
        let began = Instant::now();
        let (name, response) = match invocation {
            Invocation::Batch(messages) => {
                return Ok(Response::Batch(self.pipeline.batch(messages, left).await?));
            }
            Invocation::ParameterChange => {
                let status = self.controller.reconcile(Occasion::Change, left).await?;
                ("change", Response::new(&status, false)?)
            }
            Invocation::Task { task, as_text } => {
                (task.name(), self.task(task, as_text, left).await?)
            }
            Invocation::Unknown => return Err(InvocationError::Unknown),
        };
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(task = name, duration_ms, "task done");
        Ok(response)
    }

    async fn task(
        &self,
        task: Task,
        as_text: bool,
        left: Duration,
    ) -> Result<Response, InvocationError> {
        let controller = &self.controller;
        let work = left.saturating_sub(RESERVE);
        let range = |TimeRange { from, to }: TimeRange| {
            from.map(|from| (from, to.unwrap_or_else(|| self.clock.now())))
        };
        match task {
            Task::Reconcile => {
                Response::new(&controller.reconcile(Occasion::Schedule, left).await?, as_text)
            }
            Task::Watch => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.watch(Watching::Now).await?;
                }
                Response::new(&controller.status().await?, as_text)
            }
            Task::Status => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.refresh_health().await;
                }
                let reasons = controller.quarantine.list(left).await?.reasons();
                Response::new(&controller.status().await?.with_reasons(reasons), as_text)
            }
            Task::Quarantine => Response::new(&controller.quarantine.list(left).await?, as_text),
            Task::Redrive { max } => {
                Response::new(&controller.quarantine.redrive(max, left).await?, as_text)
            }
            Task::Backfill(requested) => {
                let (from, to) = range(requested).ok_or(InvocationError::NoRange)?;
                Response::new(&controller.backfill.backfill(from, to, work).await?, as_text)
            }
            Task::Import(requested) => {
                let (from, to) = range(requested).ok_or(InvocationError::NoRange)?;
                Response::new(&controller.backfill.import(from, to, work).await?, as_text)
            }
        }
    }
}

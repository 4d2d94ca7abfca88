//! What the function can be invoked with.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    time::Duration,
};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};
use shared::{Document, RecoveryRange, Task, error_chain, invocation_span};
use tokio::time::Instant;
use tracing::{Instrument as _, info};

use crate::{
    client::message::{MissingMessageId, sqs_message},
    controller::{
        Occasion, error::ControllerError, quarantine, schedule::RESERVE, webhook_monitor::Watching,
    },
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
    Task(Task),
    /// None of these.
    Unknown,
}

impl Invocation {
    /// `None` if it is not an invocation that the function supports.
    fn read(fields: &BTreeMap<String, Box<RawValue>>) -> Option<Self> {
        let text = |name: &str| serde_json::from_str::<String>(fields.get(name)?.get()).ok();
        let records = fields.get("Records").filter(|raw| raw.get() != "null");
        if let Some(records) = records {
            // Each record is read alone.
            let records = serde_json::from_str::<Vec<&RawValue>>(records.get()).ok()?;
            let records = records.into_iter().map(|record| sqs_message(record.get()));
            return Some(Self::Batch(records.collect()));
        }
        if fields.contains_key("task") {
            let payload = serde_json::to_string(fields).ok()?;
            return serde_json::from_str(&payload).ok().map(Self::Task);
        }
        (text("source")? == "aws.ssm").then_some(Self::ParameterChange)
    }
}

impl<'de> Deserialize<'de> for Invocation {
    /// Never fails: the runtime's own error would show the payload's texts, in the log too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::deserialize(deserializer).unwrap_or_default();
        Ok(Self::read(&fields).unwrap_or(Self::Unknown))
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
        r#"unknown invocation: expected an SQS batch, a parameter change event of aws.ssm, or {{"task":"…"}} with a task and fields of gladly-relay {}"#,
        env!("CARGO_PKG_VERSION")
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
}

impl Response {
    fn document(body: impl Serialize) -> Result<Self, InvocationError> {
        serde_json::to_value(Document::new(body))
            .map(Self::Document)
            .map_err(|err| InvocationError::Failed(err.to_string()))
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
                ("change", Response::document(status)?)
            }
            Invocation::Task(task) => (task.name(), self.task(task, left).await?),
            Invocation::Unknown => return Err(InvocationError::Unknown),
        };
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(task = name, duration_ms, "task done");
        Ok(response)
    }

    async fn task(&self, task: Task, left: Duration) -> Result<Response, InvocationError> {
        let controller = &self.controller;
        let work = left.saturating_sub(RESERVE);
        match task {
            Task::Reconcile => {
                Response::document(controller.reconcile(Occasion::Schedule, left).await?)
            }
            Task::Watch => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.watch(Watching::Now).await?;
                }
                Response::document(controller.status().await?)
            }
            Task::Status => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.refresh_health().await;
                }
                let reasons = quarantine::reasons(&controller.quarantine.list(left).await?);
                let mut status = controller.status().await?;
                status.quarantined_by_reason = Some(reasons);
                Response::document(status)
            }
            Task::Quarantine => Response::document(controller.quarantine.list(left).await?),
            Task::Show { id } => Response::document(controller.quarantine.show(&id, left).await?),
            Task::Redrive(selection) => {
                Response::document(controller.quarantine.redrive(&selection, left).await?)
            }
            Task::Discard(selection) => {
                Response::document(controller.quarantine.discard(&selection, left).await?)
            }
            Task::Backfill(range) => {
                let (from, to) = self.bounds(&range)?;
                let backfill = &controller.backfill;
                Response::document(backfill.backfill(from, to, range.dry_run, work).await?)
            }
            Task::Import(range) => {
                let (from, to) = self.bounds(&range)?;
                let backfill = &controller.backfill;
                Response::document(backfill.import(from, to, range.dry_run, work).await?)
            }
        }
    }

    /// A range's start and end.
    fn bounds(&self, range: &RecoveryRange) -> Result<(Timestamp, Timestamp), InvocationError> {
        let from = range.from.ok_or(InvocationError::NoRange)?;
        Ok((from, range.to.unwrap_or_else(|| self.clock.now())))
    }
}

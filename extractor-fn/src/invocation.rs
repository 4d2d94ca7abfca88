//! What the function can be invoked with.

use std::{
    fmt::{self, Debug, Formatter},
    time::Duration,
};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};
use shared::{Document, RecoveryRange, Task, error_chain, invocation_span};
use tokio::time::Instant;
use tracing::{Instrument as _, info};

use crate::{
    client::message::{MissingMessageId, sqs_message},
    controller::{
        Occasion, error::ControllerError, quarantine::reasons, schedule::RESERVE,
        webhook_monitor::Watching,
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

/// The payload's JSON.
#[derive(Default)]
struct Payload {
    records: Option<Vec<SqsMessage>>,
    source: Option<String>,
    /// Everything else: a task with its fields, or an event of another service.
    fields: Map<String, Value>,
}

/// The records of a batch, each read alone.
struct Records(Option<Vec<SqsMessage>>);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let records = Option::<Vec<Box<RawValue>>>::deserialize(deserializer)?;
        let read = |records: Vec<Box<RawValue>>| {
            records.iter().map(|record| sqs_message(record.get())).collect()
        };
        Ok(Self(records.map(read)))
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Payload;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
                let mut payload = Payload::default();
                while let Some(name) = map.next_key::<String>()? {
                    match &*name {
                        "Records" => payload.records = map.next_value::<Records>()?.0,
                        "source" => payload.source = map.next_value()?,
                        _ => drop(payload.fields.insert(name, map.next_value()?)),
                    }
                }
                Ok(payload)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

impl From<Payload> for Invocation {
    fn from(payload: Payload) -> Self {
        let Payload { records, source, fields } = payload;
        if let Some(records) = records {
            return Self::Batch(records);
        }
        if fields.contains_key("task") {
            return serde_json::from_value(fields.into()).map_or(Self::Unknown, Self::Task);
        }
        match source.as_deref() {
            Some("aws.ssm") => Self::ParameterChange,
            _ => Self::Unknown,
        }
    }
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
    /// A task's result: a [`Document`].
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
                let report = self.controller.reconcile(Occasion::Change, left).await?;
                ("change", Response::document(report.status)?)
            }
            Invocation::Task(task) => (task.name(), self.task(&task, left).await?),
            Invocation::Unknown => return Err(InvocationError::Unknown),
        };
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(task = name, duration_ms, "task done");
        Ok(response)
    }

    async fn task(&self, task: &Task, left: Duration) -> Result<Response, InvocationError> {
        let controller = &self.controller;
        let work = left.saturating_sub(RESERVE);
        let range = |range: &RecoveryRange| {
            let from = range.from.ok_or(InvocationError::NoRange)?;
            Ok::<_, InvocationError>((from, range.to.unwrap_or_else(|| self.clock.now())))
        };
        let quarantine = &controller.quarantine;
        match task {
            Task::Reconcile => {
                Response::document(controller.reconcile(Occasion::Schedule, left).await?.status)
            }
            Task::Watch => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.watch(Watching::Now).await?;
                }
                Response::document(controller.status().await?.status)
            }
            Task::Status => {
                if let Some(monitor) = &controller.webhook_monitor {
                    monitor.refresh_health().await;
                }
                let reasons = reasons(&quarantine.list(left).await?);
                Response::document(controller.status().await?.with_reasons(reasons))
            }
            Task::Quarantine => Response::document(quarantine.list(left).await?),
            Task::Show { id } => Response::document(quarantine.show(id, left).await?),
            Task::Redrive(selection) => {
                Response::document(quarantine.redrive(selection, left).await?)
            }
            Task::Discard(selection) => {
                Response::document(quarantine.discard(selection, left).await?)
            }
            Task::Backfill(requested) => {
                let (from, to) = range(requested)?;
                let dry_run = requested.dry_run;
                Response::document(controller.backfill.backfill(from, to, dry_run, work).await?)
            }
            Task::Import(requested) => {
                let (from, to) = range(requested)?;
                let dry_run = requested.dry_run;
                Response::document(controller.backfill.import(from, to, dry_run, work).await?)
            }
        }
    }
}

//! What the function can be invoked with.

use std::{
    fmt::{self, Debug, Display, Formatter},
    sync::Arc,
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
    Extractor,
    controller::webhook_monitor::Watching,
    controller::{ControlError, Occasion, RESERVE},
    pipeline::event::{MissingMessageId, sqs_message},
};

/// An invocation's payload, told apart by the fields that it has.
#[derive(Debug)]
pub struct Invocation(Fields);

#[derive(Debug, Default, Deserialize)]
struct Fields {
    /// An SQS batch.
    #[serde(rename = "Records", default, deserialize_with = "records")]
    records: Option<Vec<SqsMessage>>,
    /// A task, from EventBridge Scheduler or by hand.
    task: Option<String>,
    /// How many events a redrive is to send back.
    max: Option<u64>,
    /// What a backfill or an import is to cover.
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    /// `text`: the answer is a screen for people.
    #[serde(rename = "as")]
    form: Option<String>,
    /// An EventBridge event.
    source: Option<String>,
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
        Ok(Self(Fields::deserialize(deserializer).unwrap_or_default()))
    }
}

/// Why an invocation did nothing.
#[derive(thiserror::Error)]
pub enum InvocationError {
    /// SQS keeps the whole batch.
    #[error(transparent)]
    MissingMessageId(#[from] MissingMessageId),
    /// A backfill of nothing.
    #[error(r#"from is missing: it should be a time such as "2026-01-02T03:04:05Z", as to may be"#)]
    NoRange,
    /// The controller could not do what it was asked for.
    #[error("{0}")]
    Failed(String),
    /// None of ours.
    #[error(
        r#"unknown invocation: it should be an SQS batch, a parameter change event of aws.ssm, or {{"task":"…"}}"#
    )]
    Unknown,
}

/// In words, since this is what the runtime logs.
impl Debug for InvocationError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<InvocationError> for Diagnostic {
    fn from(err: InvocationError) -> Self {
        let error_type = match err {
            InvocationError::MissingMessageId(_) => "NamelessRecord",
            InvocationError::NoRange => "NoRange",
            InvocationError::Failed(_) => "ControlError",
            InvocationError::Unknown => "UnknownInvocation",
        };
        Self { error_type: error_type.into(), error_message: err.to_string() }
    }
}

impl From<ControlError> for InvocationError {
    fn from(err: ControlError) -> Self {
        Self::Failed(error_chain(&err))
    }
}

/// What an invocation answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// What stays in the queue.
    Batch(SqsBatchResponse),
    /// What a task came to.
    Document(Value),
    /// The same, for people.
    Screen(String),
}

impl Response {
    fn new(
        answer: &(impl Serialize + Display),
        form: Option<&str>,
    ) -> Result<Self, InvocationError> {
        match form {
            Some("text") => Ok(Self::Screen(answer.to_string())),
            _ => serde_json::to_value(answer)
                .map(Self::Document)
                .map_err(|err| InvocationError::Failed(err.to_string())),
        }
    }
}

impl Extractor {
    /// Lambda's entry point.
    pub async fn handle(
        self: &Arc<Self>,
        event: LambdaEvent<Invocation>,
    ) -> Result<Response, InvocationError> {
        let span = invocation_span(&event.context.request_id);
        // Boxed: the futures below are many deep.
        Box::pin(self.answer(event)).instrument(span).await
    }

    async fn answer(
        self: &Arc<Self>,
        event: LambdaEvent<Invocation>,
    ) -> Result<Response, InvocationError> {
        let began = Instant::now();
        let now = u64::try_from(self.now().as_millisecond()).unwrap_or_default();
        let left = Duration::from_millis(event.context.deadline.saturating_sub(now));
        let mut fields = event.payload.0;
        if let Some(messages) = fields.records.take() {
            return Ok(Response::Batch(self.batch(messages, left).await?));
        }
        let changed = || (fields.source.as_deref()? == "aws.ssm").then_some("change");
        let task = fields.task.as_deref().or_else(changed).unwrap_or_default();
        let answer = self.task(task, &fields, left).await?;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(task, duration_ms, "task done");
        Ok(answer)
    }

    async fn task(
        &self,
        task: &str,
        fields: &Fields,
        left: Duration,
    ) -> Result<Response, InvocationError> {
        let form = fields.form.as_deref();
        let work = left.saturating_sub(RESERVE);
        match task {
            "change" => Response::new(&self.reconcile(Occasion::Change, left).await?, form),
            "reconcile" => Response::new(&self.reconcile(Occasion::Schedule, left).await?, form),
            "watch" => {
                let end = Instant::now() + work;
                self.watch(Watching::Now, end).await?;
                Response::new(&self.status().await?, form)
            }
            "status" => {
                self.refresh_health(work).await;
                let reasons = self.list_quarantine(left).await?.reasons();
                Response::new(&self.status().await?.with_reasons(reasons), form)
            }
            "quarantine" => Response::new(&self.list_quarantine(left).await?, form),
            "redrive" => Response::new(&self.redrive(fields.max, left).await?, form),
            "backfill" | "import" => {
                let (Some(from), to) = (fields.from, fields.to.unwrap_or_else(|| self.now()))
                else {
                    return Err(InvocationError::NoRange);
                };
                let done = match task {
                    "backfill" => self.backfill(from, to, work).await?,
                    _ => self.import(from, to, work).await?,
                };
                Response::new(&done, form)
            }
            _ => Err(InvocationError::Unknown),
        }
    }
}

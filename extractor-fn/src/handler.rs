//! What the function can be invoked with.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
    time::Duration,
};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::{Deserialize, Deserializer};

use crate::{Extractor, record::Nameless};

/// An invocation's payload, told apart by the fields that it has.
#[derive(Debug)]
pub struct Invocation(Fields);

#[derive(Debug, Default, Deserialize)]
struct Fields {
    /// An SQS batch.
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
    /// A task, from EventBridge Scheduler or by hand.
    task: Option<String>,
    /// An EventBridge event.
    source: Option<String>,
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
    Nameless(#[from] Nameless),
    /// Something this version does not do.
    #[error("{0} is not available in this version")]
    NotAvailable(String),
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
            InvocationError::Nameless(_) => "NamelessRecord",
            InvocationError::NotAvailable(_) => "NotAvailable",
            InvocationError::Unknown => "UnknownInvocation",
        };
        Self { error_type: error_type.into(), error_message: err.to_string() }
    }
}

impl Extractor {
    /// Lambda's entry point.
    pub async fn handle(
        self: &Arc<Self>,
        event: LambdaEvent<Invocation>,
    ) -> Result<SqsBatchResponse, InvocationError> {
        match event.payload.0 {
            Fields { records: Some(messages), .. } => {
                let now = u64::try_from(self.now().as_millisecond()).unwrap_or_default();
                let left = Duration::from_millis(event.context.deadline.saturating_sub(now));
                Ok(self.batch(messages, left).await?)
            }
            Fields { task: Some(task), .. } => {
                let known = ["reconcile", "status", "redrive", "backfill"].contains(&task.as_str());
                Err(if known {
                    InvocationError::NotAvailable(format!("the task {task}"))
                } else {
                    InvocationError::Unknown
                })
            }
            Fields { source: Some(source), .. } if source == "aws.ssm" => {
                Err(InvocationError::NotAvailable("the controller".into()))
            }
            _ => Err(InvocationError::Unknown),
        }
    }
}

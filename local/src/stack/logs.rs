//! What the functions have logged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::stack::{Function, Stack, StackError};

/// Log lines per request; more than any millisecond has.
const LOG_PAGE: usize = 2_000;

/// How much later than its timestamp a line may appear: the emulator takes the time before it stores an invocation's
/// lines, and takes milliseconds for that.
const APPEARANCE_DELAY_MS: i64 = 10_000;

/// A log event, as `FilterLogEvents` gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogEvent {
    timestamp: i64,
    log_stream_name: String,
    message: String,
}

impl Stack<'_> {
    /// Everything that a function has logged. MiniStack hands a function's lines over when an invocation ends.
    pub async fn logs(&self, function: Function) -> Result<Vec<String>, StackError> {
        let events = self.log_events(function, 0).await?;
        Ok(events.into_iter().map(|event| event.message).collect())
    }

    /// What a function has logged since this time, in milliseconds since 1970.
    async fn log_events(
        &self,
        function: Function,
        since: i64,
    ) -> Result<Vec<LogEvent>, StackError> {
        let folder = match function {
            Function::Ingest => "ingest-fn",
            Function::Extractor => "extractor-fn",
        };
        // The emulator has no pagination token, so each request starts at the last time of the one before.
        let mut body = json!({
            "logGroupName": format!("/aws/lambda/{}/{folder}", self.name),
            "limit": LOG_PAGE,
            "startTime": since,
        });
        let (mut all, mut known) = (Vec::new(), 0);
        loop {
            let mut page = self.aws.emulator.logs("FilterLogEvents", body.clone()).await?;
            let events: Vec<LogEvent> =
                serde_json::from_value(page["events"].take()).unwrap_or_default();
            let last = events.last().filter(|_| events.len() == LOG_PAGE).map(|it| it.timestamp);
            let known_later = events.iter().filter(|event| Some(event.timestamp) == last).count();
            all.extend(events.into_iter().skip(known));
            let Some(last) = last else { return Ok(all) };
            known = known_later;
            body["startTime"] = Value::from(last);
        }
    }
}

/// Reads a function's log line by line, each line once.
#[derive(Debug)]
pub struct NewLines {
    function: Function,
    since: i64,
    /// The log streams that were read, with the times of their last lines. An invocation has a stream of its own, which
    /// appears with all its lines at once.
    read: BTreeMap<String, i64>,
}

impl NewLines {
    /// From the log's beginning.
    #[must_use]
    pub fn of(function: Function) -> Self {
        Self { function, since: 0, read: BTreeMap::new() }
    }

    /// The lines since the last call.
    pub async fn read(&mut self, stack: &Stack<'_>) -> Result<Vec<String>, StackError> {
        let mut events = stack.log_events(self.function, self.since).await?;
        events.retain(|event| !self.read.contains_key(&event.log_stream_name));
        for event in &events {
            self.read.insert(event.log_stream_name.clone(), event.timestamp);
            self.since = self.since.max(event.timestamp - APPEARANCE_DELAY_MS);
        }
        self.read.retain(|_, last| *last >= self.since);
        Ok(events.into_iter().map(|event| event.message).collect())
    }
}

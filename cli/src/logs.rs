//! What the two functions logged, as CloudWatch Logs has it.

use aws_sdk_cloudwatchlogs::Client;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::time::{Duration, Instant};

use crate::{
    args::Level,
    error::{Error, Result, explain},
    relay::Relay,
};

/// How often an Insights query is asked for its result.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How long an Insights query may take.
const QUERY_TIMEOUT: Duration = Duration::from_mins(1);
/// The most lines of one query: Insights' own limit.
const QUERY_LINES: i32 = 10_000;

/// One of the two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Function {
    Ingest,
    Extractor,
}

impl Function {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingest, Self::Extractor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest-fn",
            Self::Extractor => "extractor-fn",
        }
    }

    /// Its log group.
    pub(crate) fn log_group(self, stack: &str) -> String {
        format!("/aws/lambda/{stack}/{}", self.name())
    }
}

/// A line that a function wrote for people: neither a metric nor one of Lambda's own that reports
/// nothing wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogLine {
    pub(crate) at: Timestamp,
    pub(crate) level: Level,
    pub(crate) message: String,
    /// The message's fields.
    pub(crate) fields: Map<String, Value>,
}

impl LogLine {
    /// Reads a line of a log group.
    pub(crate) fn read(at: Timestamp, text: &str) -> Option<Self> {
        let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(text.trim()) else {
            // Lambda's own lines in plain text, and a crash's.
            let is_own = ["START ", "END ", "REPORT ", "INIT_START "]
                .iter()
                .any(|own| text.starts_with(own));
            let message = text.trim().to_owned();
            let level = if message.contains("panicked") || message.contains("Task timed out") {
                Level::Error
            } else {
                Level::Info
            };
            return (!is_own && !message.is_empty()).then(|| Self {
                at,
                level,
                message,
                fields: Map::new(),
            });
        };
        if fields.contains_key("_aws") {
            return None;
        }
        if let Some(kind) = fields.get("type").and_then(Value::as_str).map(str::to_owned) {
            let record = fields.remove("record").unwrap_or_default();
            let failed = record["status"].as_str().filter(|status| *status != "success");
            return failed.map(|status| Self {
                at,
                level: Level::Error,
                message: format!("{kind}: {status}"),
                fields: Map::new(),
            });
        }
        let level = match fields.remove("level").as_ref().and_then(Value::as_str) {
            Some("ERROR") => Level::Error,
            Some("WARN") => Level::Warn,
            Some("DEBUG" | "TRACE") => Level::Debug,
            _ => Level::Info,
        };
        let message = fields.remove("message")?.as_str()?.to_owned();
        let own = fields.remove("timestamp").and_then(|at| at.as_str()?.parse().ok());
        Some(Self { at: own.unwrap_or(at), level, message, fields })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// The fields as a person reads them: `name=value`.
    pub(crate) fn details(&self) -> String {
        let fields = self.fields.iter().filter(|(name, _)| *name != "request_id");
        let shown = fields.map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            value => format!("{name}={value}"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }
}

/// A function's log.
pub(crate) struct Log {
    client: Client,
    group: String,
}

impl Log {
    pub(crate) fn of(relay: &Relay, function: Function) -> Self {
        Self { client: Client::new(&relay.session.config), group: function.log_group(&relay.name) }
    }

    /// The lines since a time, each with its place in the log (its id), as far as `time` allows; a group
    /// that does not exist yet is empty. The pattern is only a filter on AWS's side.
    pub(crate) async fn since(
        &self,
        from: Timestamp,
        pattern: Option<&str>,
        time: Duration,
    ) -> Result<Vec<(String, LogLine)>> {
        let until = Instant::now() + time;
        let mut pages = self
            .client
            .filter_log_events()
            .log_group_name(&self.group)
            .start_time(from.as_millisecond())
            .set_filter_pattern(pattern.map(str::to_owned))
            .into_paginator()
            .send();
        let mut lines = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(|err| explain("could not read the log", &err)) {
                Ok(page) => page,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            };
            for event in page.events.unwrap_or_default() {
                let at = event.timestamp.and_then(|at| Timestamp::from_millisecond(at).ok());
                let line =
                    LogLine::read(at.unwrap_or_default(), &event.message.unwrap_or_default());
                lines.extend(line.map(|line| (event.event_id.unwrap_or_default(), line)));
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(lines)
    }
}

/// The lines of both functions of the last while that contain this id, oldest first, by CloudWatch Logs
/// Insights. An id has letters, digits, `_` and `-` only, so it is its own regular expression.
pub(crate) async fn lines_with(
    relay: &Relay,
    id: &shared::Id,
    span: SignedDuration,
) -> Result<Vec<(Function, LogLine)>> {
    let (ingest, extractor) = futures::join!(
        query(relay, Function::Ingest, id, span),
        query(relay, Function::Extractor, id, span)
    );
    let mut lines = ingest?;
    lines.extend(extractor?);
    lines.sort_by_key(|(_, line)| line.at);
    Ok(lines)
}

async fn query(
    relay: &Relay,
    function: Function,
    id: &shared::Id,
    span: SignedDuration,
) -> Result<Vec<(Function, LogLine)>> {
    const WHAT: &str = "could not search the log";
    let client = Client::new(&relay.session.config);
    let now = Timestamp::now();
    let started = client
        .start_query()
        .log_group_name(function.log_group(&relay.name))
        .start_time((now - span).as_second())
        .end_time(now.as_second() + 60)
        .query_string(format!(
            "fields @timestamp, @message | filter @message like /{id}/ | sort @timestamp asc | limit {QUERY_LINES}"
        ))
        .send()
        .await;
    let started = match started.map_err(|err| explain(WHAT, &err)) {
        Ok(started) => started,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let query = started.query_id.unwrap_or_default();
    let until = Instant::now() + QUERY_TIMEOUT;
    loop {
        let found = client.get_query_results().query_id(&query).send().await;
        let found = found.map_err(|err| explain(WHAT, &err))?;
        let status = found.status.as_ref().map(aws_sdk_cloudwatchlogs::types::QueryStatus::as_str);
        match status.unwrap_or_default() {
            "Complete" => {
                let rows = found.results.unwrap_or_default();
                return Ok(rows
                    .iter()
                    .filter_map(|row| Some((function, read_row(row)?)))
                    .collect());
            }
            "Scheduled" | "Running" if Instant::now() < until => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            status => return Err(Error::failed(format!("{WHAT}: the query ended as {status}."))),
        }
    }
}

fn read_row(row: &[aws_sdk_cloudwatchlogs::types::ResultField]) -> Option<LogLine> {
    let field = |name: &str| {
        row.iter().find(|field| field.field.as_deref() == Some(name))?.value.as_deref()
    };
    // "2026-01-02 03:04:05.678", in UTC.
    let at = field("@timestamp")?.replacen(' ', "T", 1) + "Z";
    LogLine::read(at.parse().unwrap_or_default(), field("@message")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people_are_read_and_others_are_not() {
        let read = |text: &str| LogLine::read(Timestamp::UNIX_EPOCH, text);
        let line = read(
            r#"{"timestamp":"2026-01-02T03:04:05.000Z","level":"WARN","message":"could not deliver","request_id":"r","error":"HTTP 500","count":3}"#,
        )
        .unwrap();
        assert_eq!((line.level, &*line.message), (Level::Warn, "could not deliver"));
        assert_eq!(
            (line.details().as_str(), line.at.as_second()),
            ("count=3 error=HTTP 500", 1_767_323_045)
        );
        assert_eq!(read(r#"{"_aws":{"Timestamp":1},"Queued":1}"#), None);
        assert_eq!(read(r#"{"type":"platform.report","record":{"status":"success"}}"#), None);
        let crash = read(r#"{"type":"platform.report","record":{"status":"timeout"}}"#).unwrap();
        assert_eq!((crash.level, &*crash.message), (Level::Error, "platform.report: timeout"));
        assert_eq!(read("REPORT RequestId: x"), None);
        assert_eq!(read("thread 'main' panicked").unwrap().level, Level::Error);
    }
}

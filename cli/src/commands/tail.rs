//! `tail`: what both functions log, as lines for people.

use std::collections::HashSet;

use anstyle::AnsiColor;
use futures::future;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Duration, sleep};

use crate::{
    Context,
    args::{Level, TailArgs},
    error::Result,
    logs::{Function, Log, LogLine},
};

/// The interval between two looks at the log.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// CloudWatch may take this long to show a line, so each look begins this much earlier.
const OVERLAP: SignedDuration = SignedDuration::from_secs(30);
/// How long one look may take.
const LOOK_TIME: Duration = Duration::from_mins(1);

pub(crate) async fn run(context: &Context, args: &TailArgs) -> Result<()> {
    let relay = context.relay().await?;
    let logs = Function::BOTH.map(|function| (function, Log::of(&relay, function)));
    let pattern = pattern(args.level);
    let mut from = Timestamp::now() - args.since;
    let mut seen: HashSet<String> = HashSet::new();
    context.if_stopped("the relay goes on");
    loop {
        let now = Timestamp::now();
        let looks = logs.iter().map(async |(function, log)| {
            log.since(from, pattern, LOOK_TIME).await.map(|lines| (*function, lines))
        });
        let found =
            context.terminal.during("reading the logs", future::try_join_all(looks)).await?;
        let mut lines = Vec::new();
        let mut recent = HashSet::new();
        for (function, found) in found {
            for (id, line) in found {
                // Without an id, what the line is identifies it.
                let id = if id.is_empty() {
                    format!("{} {} {}", line.at, line.message, line.details())
                } else {
                    id
                };
                let key = format!("{}/{id}", function.name());
                if !seen.contains(&key) && line.level >= args.level {
                    lines.push((function, line));
                }
                recent.insert(key);
            }
        }
        seen = recent;
        lines.sort_by_key(|(_, line)| line.at);
        if context.terminal.is_json() {
            context.terminal.result(
                "tail",
                &lines.iter().map(|(f, line)| document(*f, line)).collect::<Vec<_>>(),
            );
        }
        for (function, line) in &lines {
            print(context, *function, line);
        }
        if args.no_follow {
            return Ok(());
        }
        from = now - OVERLAP;
        sleep(POLL_INTERVAL).await;
    }
}

fn document(function: Function, line: &LogLine) -> serde_json::Value {
    json!({
        "at": line.at, "function": function.name(), "level": format!("{:?}", line.level).to_uppercase(),
        "message": line.message, "fields": line.fields,
    })
}

/// A line for people.
fn print(context: &Context, function: Function, line: &LogLine) {
    let (word, color) = match line.level {
        Level::Error => ("ERROR", AnsiColor::Red),
        Level::Warn => ("WARN", AnsiColor::Yellow),
        Level::Info => ("INFO", AnsiColor::Green),
        Level::Debug => ("DEBUG", AnsiColor::Blue),
    };
    let at = line.at.strftime("%Y-%m-%d %H:%M:%S");
    let details = line.details();
    let details = if details.is_empty() { details } else { format!("  {details}") };
    let start = format!("{at} {word:<5}");
    context.terminal.styled(
        color,
        &start,
        &format!(" {:<12} {}{details}", function.name(), line.message),
    );
}

/// A filter on AWS's side: metrics have no level.
fn pattern(level: Level) -> Option<&'static str> {
    match level {
        Level::Debug | Level::Info => None,
        Level::Warn => Some(
            r#"{ $.level = "WARN" || $.level = "ERROR" || ($.type = "platform.report" && $.record.status != "success") }"#,
        ),
        Level::Error => Some(
            r#"{ $.level = "ERROR" || ($.type = "platform.report" && $.record.status != "success") }"#,
        ),
    }
}

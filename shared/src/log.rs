//! Log lines: one JSON object per line on standard output.
//!
//! A message is a constant text, so that it can be searched for; what varies is in fields. Every
//! line has `timestamp`, `level`, `message` and, within an invocation, `request_id`. A field's name
//! is in `snake_case`, and begins with what it is about and a dot: `sqs.message_id`,
//! `gladly.conversation_id`, `batch.records`. Without that prefix are those that mean the same in
//! any line: `error` (with all of its causes), `reason`, `count`, `parameter` (its name), `task`,
//! `duration_ms`. ERROR needs a person, or reports data that is lost; WARN passes by itself, or
//! waits in a queue.

use std::{
    env,
    fmt::Debug,
    io::{self, Write as _},
    panic,
};

use jiff::Timestamp;
use serde::{Serialize, Serializer as _, ser::SerializeMap};
use tracing::{
    Event, Span, Subscriber, error, error_span,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Scope},
    util::SubscriberInitExt,
};

/// Starts logging at the level that Lambda's `AWS_LAMBDA_LOG_LEVEL` names, INFO without it.
pub fn init_log() {
    let level = env::var("AWS_LAMBDA_LOG_LEVEL").ok().and_then(|level| level.parse().ok());
    // One write per line: Lambda treats each write as a log event. A failure cannot be reported
    // anywhere.
    let print = |line: &[u8]| drop(io::stdout().lock().write_all(line));
    subscriber(level.unwrap_or(LevelFilter::INFO), print).init();
    // A panic's own message may quote the text that it failed on; its location is enough.
    panic::set_hook(Box::new(|panic| {
        error!(panic.location = panic.location().map(tracing::field::display), "panicked");
    }));
}

/// The subscriber that writes log lines from this level on. Libraries log from WARN on: the AWS
/// SDK's lines at INFO are noise.
pub fn subscriber(
    level: LevelFilter,
    write: impl Fn(&[u8]) + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["shared", "ingest_fn", "extractor_fn"].map(|target| (target, level)))
        // The span around the runtime's own lines, such as that of a failed invocation.
        .with_target("lambda_runtime::layers::trace", LevelFilter::INFO);
    tracing_subscriber::registry().with(Lines(write)).with(targets)
}

/// The span of an invocation: every line in it names the invocation. Tasks that are spawned within
/// need `in_current_span`.
#[must_use]
pub fn invocation_span(request_id: &str) -> Span {
    // At the highest level: otherwise a filter would drop it with the lower levels.
    error_span!("invocation", request_id)
}

/// The id of the current invocation.
pub(crate) fn request_id() -> Option<String> {
    let found = Span::current().with_subscriber(|(id, subscriber)| {
        let span = subscriber.downcast_ref::<Registry>()?.span(id)?;
        in_scope(span.scope())
    });
    found.flatten()
}

/// Writes events as lines.
struct Lines<W>(W);

/// The invocation that a span is about.
struct RequestId(String);

/// The request id of the closest span that has one.
fn in_scope<'a>(mut scope: Scope<'a, impl LookupSpan<'a>>) -> Option<String> {
    scope.find_map(|span| Some(span.extensions().get::<RequestId>()?.0.clone()))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, W: Fn(&[u8]) + 'static> Layer<S> for Lines<W> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FindRequestId(None);
        attributes.record(&mut found);
        if let (Some(request_id), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(request_id));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Vec::with_capacity(256);
        let written = serde_json::Serializer::new(&mut line).serialize_map(None).and_then(|map| {
            let mut fields = Fields { map, written: Ok(()) };
            fields.add("timestamp", &format_args!("{:.6}", Timestamp::now()));
            fields.add("level", event.metadata().level().as_str());
            event.record(&mut fields);
            if let Some(request_id) = context.event_scope(event).and_then(in_scope) {
                fields.add("request_id", &request_id);
            }
            fields.written.and_then(|()| fields.map.end())
        });
        if written.is_ok() {
            line.push(b'\n');
            (self.0)(&line);
        }
    }
}

/// Finds the request id among a span's fields: the relay's, or the runtime's `requestId`.
struct FindRequestId(Option<String>);

impl Visit for FindRequestId {
    fn record_str(&mut self, field: &Field, value: &str) {
        if matches!(field.name(), "request_id" | "requestId") {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// Writes an event's fields into a line.
struct Fields<M: SerializeMap> {
    map: M,
    written: Result<(), M::Error>,
}

impl<M: SerializeMap> Fields<M> {
    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        if self.written.is_ok() {
            self.written = self.map.serialize_entry(name, value);
        }
    }
}

impl<M: SerializeMap> Visit for Fields<M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing::{Instrument, info, subscriber::with_default, warn};

    use super::*;

    /// The lines that are written at this level while something runs.
    fn lines(level: LevelFilter, run: impl FnOnce()) -> Vec<Value> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&written);
        let write = move |line: &[u8]| {
            let line = line.strip_suffix(b"\n").unwrap();
            lines.lock().unwrap().push(serde_json::from_slice(line).unwrap());
        };
        with_default(subscriber(level, write), run);
        std::mem::take(&mut *written.lock().unwrap())
    }

    #[test]
    fn a_line_is_flat_json_and_names_its_invocation() {
        let text = "\"quoted\"\n\u{0}é";
        let lines = lines(LevelFilter::INFO, || {
            info!("outside");
            let _invocation = invocation_span("r-1").entered();
            let _inner = error_span!("conversation", gladly.conversation_id = "c").entered();
            let err = io::Error::other("no");
            warn!(
                sqs.message_id = text, count = 3_usize, task = ?Some(1), share = 0.5, off = -1, yes = true,
                error = &err as &dyn std::error::Error, "inside"
            );
        });
        let [outside, inside] = &lines[..] else { panic!("{lines:?}") };
        assert!(outside.get("request_id").is_none());
        let timestamp = inside["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z') && timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
        assert_eq!(
            *inside,
            json!({
                "timestamp": timestamp, "level": "WARN", "message": "inside", "sqs.message_id": text, "count": 3,
                "task": "Some(1)", "share": 0.5, "off": -1, "yes": true, "error": "no", "request_id": "r-1",
            })
        );
    }

    #[test]
    fn every_level_names_the_invocation_and_so_do_the_runtimes_own_lines() {
        for level in ["TRACE", "INFO", "WARN", "ERROR"] {
            let lines = lines(level.parse().unwrap(), || {
                invocation_span("r-1").in_scope(|| error!("own"));
                let runtimes = tracing::info_span!(
                    target: "lambda_runtime::layers::trace", "Lambda runtime invoke", requestId = "r-2"
                );
                runtimes
                    .in_scope(|| error!(target: "lambda_runtime::layers::panic", "the runtime's"));
                runtimes.in_scope(|| {
                    invocation_span("r-3").in_scope(|| error!("own within the runtime's"));
                });
            });
            let ids: Vec<_> = lines.iter().map(|line| line["request_id"].as_str()).collect();
            assert_eq!(ids, [Some("r-1"), Some("r-2"), Some("r-3")], "{level}");
        }
    }

    #[test]
    fn libraries_log_from_warn_on() {
        let lines = lines(LevelFilter::TRACE, || {
            info!(target: "aws_smithy_runtime", "noise");
            warn!(target: "aws_smithy_runtime", "warning");
            tracing::trace!("own");
        });
        let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str()).collect();
        assert_eq!(messages, [Some("warning"), Some("own")]);
    }

    #[test]
    fn what_is_not_within_an_invocation_has_no_request_id() {
        assert_eq!(request_id(), None, "without a subscriber");
        lines(LevelFilter::ERROR, || {
            assert_eq!(request_id(), None);
            let inner = || error_span!("inner").in_scope(request_id);
            assert_eq!(invocation_span("r-1").in_scope(inner).as_deref(), Some("r-1"));
        });
    }

    #[test]
    fn a_panic_is_logged_with_its_location_and_invocation_and_without_its_message() {
        let run = Command::new(env::current_exe().unwrap())
            .args(["--exact", "log::tests::panics", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let stdout = String::from_utf8(run.stdout).unwrap();
        let lines = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let [line] = &lines.collect::<Vec<_>>()[..] else { panic!("{stdout}") };
        assert_eq!((&line["level"], &line["message"]), (&json!("ERROR"), &json!("panicked")));
        assert_eq!(line["request_id"], "r-1");
        assert!(line["panic.location"].as_str().unwrap().contains("shared/src/log.rs:"), "{line}");
        assert!(!stdout.contains("what a person wrote"), "{stdout}");
    }

    #[tokio::test]
    #[ignore = "run by the test above, which reads what this writes"]
    async fn panics() {
        init_log();
        let task = async { panic!("what a person wrote") };
        let task = invocation_span("r-1").in_scope(|| task.in_current_span());
        tokio::spawn(task).await.unwrap_err();
    }
}

//! What the functions write into logs, quarantine details, errors and responses.

use std::{cell::RefCell, io, sync::Once};

use shared::MetricsWriter;
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _};

/// The text in the inputs wherever a person might have written something. It is not a valid id, and the
/// relay itself never writes it.
pub(crate) const CANARY: &str = "sings like a canary";

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Collects the log lines.
#[derive(Clone, Copy)]
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// Runs something, and asserts that its log contains no text of a person and no panic.
#[expect(clippy::expect_used, reason = "how a property fails")]
pub(crate) fn assert_log_redacted<T>(run: impl FnOnce() -> T) -> T {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // As in `shared::init_log` at its most verbose level.
        let targets = Targets::new().with_default(Level::WARN).with_targets(
            ["shared", "ingest_fn", "extractor_fn"].map(|target| (target, Level::DEBUG)),
        );
        let lines = tracing_subscriber::fmt::layer().json().with_writer(Lines);
        let subscriber = tracing_subscriber::registry().with(lines).with(targets);
        tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    });
    LINES.with_borrow_mut(Vec::clear);
    let done = run();
    LINES.with_borrow(|lines| {
        let log = String::from_utf8_lossy(lines);
        assert_redacted("the log", &log);
        assert!(!log.contains("panic"), "a panic was caught: {log}");
    });
    done
}

/// Asserts that no line of metrics contains text of a person.
pub(crate) fn redacted_metrics() -> MetricsWriter {
    MetricsWriter::new("function", |line| assert_redacted("a metric", line))
}

/// Asserts that this text contains no text of a person.
pub(crate) fn assert_redacted(what: &str, text: &str) {
    assert!(!text.contains(CANARY), "{what} repeats what a person wrote: {text}");
}

/// The details that a message in quarantine can have, with a zero for every number.
const DETAILS: [&str; 17] = [
    "not UTF-0",
    "not JSON: error in line 0, column 0",
    "nested deeper than 0 levels",
    "duplicate field",
    "content is not an object",
    "not a queue message of version 0",
    "no conversationId, nor the id of a deleted or merged customer",
    "no type",
    "invalid content.conversationId: expected 0 to 0 characters of A-Z a-z 0-0 _ -",
    "invalid content.customerId: expected 0 to 0 characters of A-Z a-z 0-0 _ -",
    "invalid content.sourceCustomerId: expected 0 to 0 characters of A-Z a-z 0-0 _ -",
    "invalid content.destinationCustomerId: expected 0 to 0 characters of A-Z a-z 0-0 _ -",
    "invalid id: expected 0 to 0 characters of A-Z a-z 0-0 _ -",
    "0 bytes: larger than a queue message can be",
    "the destination answered 0",
    "failed for more than a day, received 0 times",
    "received too often: moved by SQS itself",
];

/// Asserts that a detail contains numbers of the relay and nothing of the content.
pub(crate) fn is_detail(detail: &str) {
    let mut plain = String::new();
    for character in detail.chars() {
        match character {
            '0'..='9' if plain.ends_with('0') => {}
            '0'..='9' => plain.push('0'),
            other => plain.push(other),
        }
    }
    assert!(DETAILS.contains(&&*plain), "not one of the details: {detail:?}");
}

//! Log lines, in JSON on standard output.

use std::{env, panic};

use tracing::{error, level_filters::LevelFilter};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging at the level that Lambda's `AWS_LAMBDA_LOG_LEVEL` names, INFO without it.
/// Libraries are heard from WARN on: at INFO the AWS SDK writes of things that are no news.
pub fn init_log() {
    let level = env::var("AWS_LAMBDA_LOG_LEVEL").ok().and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::INFO);
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["shared", "ingest_fn", "extractor_fn"].map(|ours| (ours, level)));
    let lines = fmt::layer().json().flatten_event(true).with_target(false).with_span_list(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
    // A panic's own message may quote the text it tripped over; its place is enough to find it.
    panic::set_hook(Box::new(|panic| {
        error!(location = panic.location().map(tracing::field::display), "panicked");
    }));
}

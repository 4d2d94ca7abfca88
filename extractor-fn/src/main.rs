//! Wiring only: every decision is in the library.

use std::sync::Arc;

use aws_config::BehaviorVersion;
use extractor_fn::{Config, Extractor, Http, Invocation};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use shared::{Clock, init_log};
use tracing::error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    init_log();
    let config = Config::from_env().inspect_err(|err| error!("cannot start: {err}"))?;
    let http = Http::new();
    let aws = aws_config::defaults(BehaviorVersion::latest()).http_client(http.sdk_client());
    let extractor = Arc::new(Extractor::new(&aws.load().await, config, http, Clock::system()));

    run(service_fn(|event: LambdaEvent<Invocation>| extractor.handle(event))).await
}

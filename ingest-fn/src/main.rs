//! Wiring only: every decision is in the library.

use aws_config::BehaviorVersion;
use ingest_fn::{Call, Config, Ingest};
use lambda_http::{Error, LambdaEvent, lambda_runtime, service_fn};
use shared::{Clock, init_log};
use tracing::error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    init_log();
    let config = Config::from_env().inspect_err(|err| error!("cannot start: {err}"))?;
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let ingest = Ingest::new(&aws, config, Clock::system());
    ingest.warm_up().await;

    lambda_runtime::run(service_fn(|event: LambdaEvent<Call>| ingest.call(event))).await
}

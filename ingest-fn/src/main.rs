//! Wiring only: every decision is in the library.

use ingest_fn::{Config, Ingest, Request};
use lambda_http::{Error, LambdaEvent, lambda_runtime, service_fn};
use shared::{Clock, MetricsWriter, https_connector, init_log, sdk_config};
use tracing::error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    init_log();
    let log = |err: &_| error!(error = %err, "cannot start");
    let config = Config::from_env().inspect_err(log)?;
    let aws = sdk_config(&https_connector()).inspect_err(log)?;
    let ingest = Ingest::new(&aws, config, Clock::system(), MetricsWriter::stdout());
    ingest.warm_up().await;

    lambda_runtime::run(service_fn(|event: LambdaEvent<Request>| ingest.handle(event))).await
}

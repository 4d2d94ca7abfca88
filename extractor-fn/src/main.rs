//! Wiring only: every decision is in the library.

use std::sync::Arc;

use extractor_fn::{Config, Extractor, Http, Invocation};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use shared::{Clock, MetricsWriter, https_connector, init_log, sdk_config};
use tracing::error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    init_log();
    let log = |err: &_| error!(error = %err, "cannot start");
    let config = Config::from_env().inspect_err(log)?;
    let connector = https_connector();
    let aws = sdk_config(&connector).inspect_err(log)?;
    let (clock, metrics) = (Clock::system(), MetricsWriter::stdout());
    let extractor = Extractor::new(&aws, config, Http::over(connector), clock, metrics);
    let extractor = Arc::new(extractor);

    run(service_fn(|event: LambdaEvent<Invocation>| extractor.handle(event))).await
}

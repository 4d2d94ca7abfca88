//! The composition root: builds the clients, the pipeline and the controller, and decides nothing.

use std::sync::Arc;

use aws_config::SdkConfig;
use jiff::SignedDuration;
use shared::{Clock, MetricsWriter, Parameter, ssm_client};

use crate::{
    client::{
        Clients,
        coverage_store::CoverageStore,
        destination::{https::Https, s3::S3},
        event_source_mapping::Mapping,
        gladly::Gladly,
        http::Http,
        rate_limiter::RateLimiter,
        sqs::{Queue, sqs_client},
        throughput::ThroughputEstimate,
    },
    config::{Config, DestinationConfig},
    controller::{Controller, ControllerOptions, backfill::BackfillStore, renewal::RenewalStore},
    gate::{Gate, PAUSE_TTL, breaker::Breaker},
    pipeline::Pipeline,
};

/// How long a token is cached.
const TOKEN_TTL: SignedDuration = SignedDuration::from_mins(1);

/// The function.
pub struct Extractor {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) controller: Controller,
    pub(crate) clock: Clock,
}

impl Extractor {
    /// Creates an extractor that reaches AWS by `aws`, and everything else through `http`.
    #[must_use]
    pub fn new(
        aws: &SdkConfig,
        config: Config,
        http: Http,
        clock: Clock,
        metrics: MetricsWriter,
    ) -> Self {
        let ssm = ssm_client(aws);
        let store = CoverageStore::new(aws, &config, clock.clone());
        let secret = |name| Parameter::new(ssm.clone(), name, TOKEN_TTL, clock.clone());
        let name = config.pause_parameter;
        let breaker =
            Parameter::new(ssm.clone(), format!("{name}-breaker"), PAUSE_TTL, clock.clone());
        let renewals = RenewalStore::new(ssm.clone(), format!("{name}-renewal"), clock.clone());
        let backfills = BackfillStore::new(&ssm, &name, clock.clone());
        let pause = Parameter::new(ssm.clone(), name, PAUSE_TTL, clock.clone());
        let sqs = sqs_client(aws);
        let clients = Clients {
            gate: Arc::new(Gate::new(pause, Breaker::new(breaker, clock.clone()), clock.clone())),
            gladly: Arc::new(Gladly::new(
                http.clone(),
                config.gladly,
                config.gladly_email,
                secret(config.gladly_token_parameter),
                RateLimiter::new(config.gladly_rate),
                clock.clone(),
            )),
            destination: Arc::new(match config.destination {
                DestinationConfig::Https { url, token_parameter, token_header } => {
                    let (token, gzip) = (secret(token_parameter), config.delivery.gzip);
                    Https::new(http, url, token_header, token, gzip, clock.clone()).into()
                }
                DestinationConfig::S3(url) => S3::new(aws, http, &url, clock.clone()).into(),
            }),
            events: Arc::new(Queue::new(sqs.clone(), config.events_queue_url)),
            quarantine: Arc::new(Queue::new(sqs, config.quarantine_queue_url)),
            throughput: Arc::new(ThroughputEstimate::new(config.gladly_rate)),
            clock: clock.clone(),
            metrics,
        };
        let mapping = Mapping::new(aws, config.function, config.events_queue_arn);
        let (renews, window) = (config.renew_held_events, config.settle_window);
        let pipeline = Arc::new(Pipeline::new(&clients, store, config.delivery, window, renews));
        let options = ControllerOptions {
            webhook: config.watched_webhook,
            settle_window: window,
            renews,
            forwards_erasures: config.delivery.erasures,
        };
        let controller = Controller::new(clients, mapping, renewals, backfills, options);
        Self { pipeline, controller, clock }
    }
}

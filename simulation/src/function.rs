//! The function as Lambda runs it: environments that start, idle, freeze and crash.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_smithy_runtime_api::client::http::SharedHttpConnector;
use extractor_fn::{Config, Extractor, Http, Invocation};
use jiff::Timestamp;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::Value;
use shared::{Env, MetricsWriter};
use testing::{aws::TABLE, settings::ExtractorSettings};
use tokio::{
    select,
    time::{Instant, sleep, timeout},
};

use crate::{
    connector::SimConnector,
    constants::{INVOCATION_TIMEOUT, WEBHOOK_URL},
    environment::{CrashPlan, CrashPoint, Environment},
    plan::Plan,
    sim::Simulation,
};

/// Without it a long pause loses events: `mutants` shows it.
const RENEW_HELD_EVENTS: bool = true;
/// The time Lambda takes to start an environment.
const COLD_START: Duration = Duration::from_millis(300);

/// The function.
pub(crate) struct Function {
    sim: Arc<Simulation>,
    idle: Mutex<Vec<Instance>>,
    number: AtomicU64,
    /// Environments older than this are of a replaced version.
    deployed: AtomicU64,
}

/// An extractor in its environment.
struct Instance {
    environment: Arc<Environment>,
    started: Instant,
    extractor: Arc<Extractor>,
}

/// Why an invocation failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its environment crashed.
    Died,
    /// It took too long.
    TimedOut,
    /// It returned an error.
    Refused(String),
}

impl Function {
    pub(crate) fn new(sim: Arc<Simulation>) -> Self {
        Self { sim, idle: Mutex::default(), number: AtomicU64::new(0), deployed: AtomicU64::new(0) }
    }

    /// Ships a new version.
    pub(crate) fn deploy(&self) {
        self.deployed.store(self.number.load(Ordering::Relaxed), Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Invokes it and waits for its answer. Returns when it began, too.
    pub(crate) async fn invoke(&self, payload: &Value) -> Result<(Timestamp, Value), Failure> {
        let sim = &self.sim;
        let instance = self.instance().await;
        let (environment, began) = (&instance.environment, sim.now());
        environment.state().began = began;
        environment.state().crash = sim.goes_wrong(sim.plan.crashes).then(|| {
            let rng = &mut sim.state().rng;
            // Most invocations make few calls; some make hundreds.
            let calls = if rng.bool() { rng.u32(1..12) } else { rng.u32(1..200) };
            let point = if rng.bool() { CrashPoint::Before } else { CrashPoint::After };
            CrashPlan { calls, point }
        });
        let deadline =
            sim.now().as_millisecond() + i64::try_from(INVOCATION_TIMEOUT.as_millis()).unwrap_or(0);
        let mut context = Context::default();
        context.deadline = u64::try_from(deadline).unwrap_or_default();
        let text = payload.to_string();
        let invocation: Invocation = match serde_json::from_str(&text) {
            Ok(invocation) => invocation,
            Err(err) => return Err(Failure::Refused(err.to_string())),
        };
        let handled = instance.extractor.handle(LambdaEvent::new(invocation, context));
        let ended = select! {
            biased;
            () = environment.died.notified() => Err(Failure::Died),
            handled = timeout(INVOCATION_TIMEOUT, handled) => match handled {
                Ok(Ok(answer)) => serde_json::to_value(answer).map_err(|err| Failure::Refused(err.to_string())),
                Ok(Err(err)) => Err(Failure::Refused(format!("{err:?}"))),
                Err(_) => Err(Failure::TimedOut),
            },
        };
        environment.state().crash = None;
        match &ended {
            Err(Failure::Died) => {
                sim.count("crashes");
                sim.note(|| format!("env {} crashes", environment.number));
            }
            Err(Failure::TimedOut) => {
                sim.count("timeouts");
                sim.note(|| {
                    format!("env {} is ended after {INVOCATION_TIMEOUT:?}", environment.number)
                });
                environment.end();
            }
            _ => self.rest(instance),
        }
        ended.map(|answer| (began, answer))
    }

    /// An environment that idles, or a new one.
    async fn instance(&self) -> Instance {
        let idle = {
            let idle = &mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let count = idle.len();
            (count > 0).then(|| idle.swap_remove(self.sim.state().rng.usize(0..count)))
        };
        if let Some(instance) = idle {
            return instance;
        }
        sleep(COLD_START).await;
        let sim = &self.sim;
        let environment = Arc::new(Environment::new(self.number.fetch_add(1, Ordering::Relaxed)));
        sim.note(|| format!("env {} starts", environment.number));
        sim.count("environments");
        let connector =
            SimConnector { sim: Arc::clone(sim), environment: Arc::clone(&environment) };
        let connector = SharedHttpConnector::new(connector);
        let aws = sim.aws.config_over(connector.clone());
        let config = config(&sim.plan);
        let (clock, metrics) = (sim.clock(), MetricsWriter::new("extractor-fn", |_| {}));
        let extractor = Extractor::new(&aws, config, Http::over(connector), clock, metrics);
        Instance { environment, started: Instant::now(), extractor: Arc::new(extractor) }
    }

    /// Keeps an environment for the next invocation, mostly.
    fn rest(&self, instance: Instance) {
        let old = instance.environment.number < self.deployed.load(Ordering::Relaxed);
        let plan = &self.sim.plan;
        let recycled = self.sim.state().rng.f64() < plan.recycled
            || plan.lifetime.is_some_and(|lifetime| instance.started.elapsed() > lifetime);
        if !old && !recycled {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
    }
}

/// The function's settings.
#[expect(clippy::expect_used, reason = "these are its settings, as the template has them")]
fn config(plan: &Plan) -> Config {
    let watched = !plan.outages.is_empty();
    let settings = ExtractorSettings::default()
        .with("GLADLY_REQUESTS_PER_SECOND", plan.rate)
        .with("SETTLE_SECONDS", plan.settle_seconds.to_string())
        .with("COVERAGE_TABLE", if plan.shares_coverage { TABLE } else { "" })
        .with("RENEW_HELD_EVENTS", RENEW_HELD_EVENTS.to_string())
        .with("WATCH_WEBHOOK", watched.to_string())
        .with("WEBHOOK_URL", WEBHOOK_URL);
    Config::read(&Env::new(&|name: &str| settings.get(name))).expect("settings that can be read")
}

/// A time as Lambda writes it.
pub(crate) fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

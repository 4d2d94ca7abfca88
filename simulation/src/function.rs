//! The function as Lambda runs it: environments that live, idle, freeze and die.

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
use shared::Env;
use testing::aws::QUEUES;
use tokio::{
    select,
    time::{sleep, timeout},
};

use crate::{
    connector::{COLD_START, CrashPoint, Environment, SimConnector},
    fakes::DESTINATION,
    gap::WEBHOOK_URL,
    world::{PAUSE, World},
};

/// `RENEW_HELD_EVENTS`. Without it a long pause loses events: `planted` shows it.
const RENEWS: bool = true;
/// The function's own timeout.
const LIMIT: Duration = Duration::from_mins(5);

/// Regions there have been. The SDK keeps count of its tries by region for the whole process, and
/// an environment begins without any.
static REGIONS: AtomicU64 = AtomicU64::new(1);

/// The function.
pub(crate) struct Function {
    world: Arc<World>,
    idle: Mutex<Vec<Process>>,
    number: AtomicU64,
    /// Environments older than this are of a version that is gone.
    deployed: AtomicU64,
}

struct Process {
    life: Arc<Environment>,
    extractor: Arc<Extractor>,
}

/// Why an invocation came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its environment died.
    Died,
    /// It took too long.
    TimedOut,
    /// It says so itself.
    Refused(String),
}

impl Function {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            idle: Mutex::default(),
            number: AtomicU64::new(0),
            deployed: AtomicU64::new(0),
        }
    }

    /// Ships a new version.
    pub(crate) fn deploy(&self) {
        self.deployed.store(self.number.load(Ordering::Relaxed), Ordering::Relaxed);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Invokes it and waits for its answer. Says when it began, too.
    pub(crate) async fn invoke(&self, payload: &Value) -> Result<(Timestamp, Value), Failure> {
        let world = &self.world;
        let environment = self.environment().await;
        let (life, began) = (&environment.life, world.now());
        life.crash_plan().began = began;
        life.crash_plan().end = world.goes_wrong(world.plan.crashes).then(|| {
            let rng = &mut world.state().rng;
            // Most invocations make few calls; some make hundreds.
            let calls = if rng.bool() { rng.u32(1..12) } else { rng.u32(1..200) };
            (calls, if rng.bool() { CrashPoint::Before } else { CrashPoint::After })
        });
        let deadline = world.now().as_millisecond() + i64::try_from(LIMIT.as_millis()).unwrap_or(0);
        let mut context = Context::default();
        context.deadline = u64::try_from(deadline).unwrap_or_default();
        let text = payload.to_string();
        let invocation: Invocation = match serde_json::from_str(&text) {
            Ok(invocation) => invocation,
            Err(err) => return Err(Failure::Refused(err.to_string())),
        };
        let handled = environment.extractor.handle(LambdaEvent::new(invocation, context));
        let ended = select! {
            biased;
            () = life.died.notified() => Err(Failure::Died),
            handled = timeout(LIMIT, handled) => match handled {
                Ok(Ok(answer)) => serde_json::to_value(answer).map_err(|err| Failure::Refused(err.to_string())),
                Ok(Err(err)) => Err(Failure::Refused(format!("{err:?}"))),
                Err(_) => Err(Failure::TimedOut),
            },
        };
        life.crash_plan().end = None;
        match &ended {
            Err(Failure::Died) => {
                world.count("crashes");
                world.note(|| format!("env {} dies", life.number));
            }
            Err(Failure::TimedOut) => {
                world.count("timeouts");
                world.note(|| format!("env {} is ended after {LIMIT:?}", life.number));
                life.end();
            }
            _ => self.rest(environment),
        }
        ended.map(|answer| (began, answer))
    }

    /// An environment that idles, or a new one.
    async fn environment(&self) -> Process {
        let idle = {
            let idle = &mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let count = idle.len();
            (count > 0).then(|| idle.swap_remove(self.world.state().rng.usize(0..count)))
        };
        if let Some(environment) = idle {
            return environment;
        }
        sleep(COLD_START).await;
        let world = &self.world;
        let life = Arc::new(Environment::new(self.number.fetch_add(1, Ordering::Relaxed)));
        world.note(|| format!("env {} starts", life.number));
        world.count("environments");
        let connector = SimConnector { world: Arc::clone(world), life: Arc::clone(&life) };
        let connector = SharedHttpConnector::new(connector);
        let region = format!("eu-west-{}", REGIONS.fetch_add(1, Ordering::Relaxed));
        let aws = world.aws.config_over(connector.clone(), &region);
        let config = settings(world.plan.rate, !world.plan.outages.is_empty());
        let extractor = Extractor::new(&aws, config, Http::over(connector), world.clock());
        Process { life, extractor: Arc::new(extractor) }
    }

    /// Keeps an environment for the next invocation, mostly.
    fn rest(&self, environment: Process) {
        let old = environment.life.number < self.deployed.load(Ordering::Relaxed);
        let recycled = self.world.state().rng.f64() < self.world.plan.recycled;
        if !old && !recycled {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(environment);
        }
    }
}

/// The function's settings.
#[expect(clippy::expect_used, reason = "these are its settings, as the template has them")]
pub(crate) fn settings(rate: &str, watched: bool) -> Config {
    let lookup = |name: &str| {
        Some(match name {
            "EVENTS_QUEUE_URL" => format!("{QUEUES}events"),
            "QUARANTINE_QUEUE_URL" => format!("{QUEUES}quarantine"),
            "EVENTS_QUEUE_ARN" => format!("{}events", testing::aws::QUEUE_ARNS),
            "AWS_LAMBDA_FUNCTION_NAME" => "extractor".into(),
            "PAUSE_PARAMETER" => PAUSE.into(),
            "GLADLY_HOST" => "acme.gladly.com".into(),
            "GLADLY_EMAIL" => "relay@example.org".into(),
            "GLADLY_TOKEN_PARAMETER" => "/relay/gladly-token".into(),
            "GLADLY_REQUESTS_PER_SECOND" => rate.into(),
            "DESTINATION_URL" => DESTINATION.into(),
            "DESTINATION_TOKEN_PARAMETER" => "/relay/destination-token".into(),
            "RENEW_HELD_EVENTS" => RENEWS.to_string(),
            "WATCH_WEBHOOK" => watched.to_string(),
            "WEBHOOK_URL" => WEBHOOK_URL.into(),
            _ => return None,
        })
    };
    Config::read(&Env::new(&lookup)).expect("settings that can be read")
}

/// A time as Lambda writes it.
pub(crate) fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

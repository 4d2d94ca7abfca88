//! The way out of one environment: what takes how long, what fails, and where it dies.

use std::{
    fmt, future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use jiff::{SignedDuration, Timestamp};
use testing::aws::{Fault, Service, THROTTLED};
use tokio::{sync::Notify, time::sleep};

use crate::{
    fakes::{DESTINATION, GLADLY},
    plan::{FaultKind, Upstream},
    world::{PAUSE, World},
};

/// How long a failed read of the pause parameter excuses what is sent in ignorance of it.
const IGNORANCE: SignedDuration = SignedDuration::from_secs(15);

/// An environment's life.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) number: u64,
    /// Rings when it dies.
    pub(crate) died: Notify,
    crash_plan: Mutex<CrashPlan>,
}

#[derive(Debug)]
pub(crate) struct CrashPlan {
    /// Calls until it dies, and at which moment of the last one.
    pub(crate) end: Option<(u32, CrashPoint)>,
    dead: bool,
    /// When its invocation began.
    pub(crate) began: Timestamp,
    /// When a read of the pause parameter failed.
    blind_at: Timestamp,
}

/// A moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// It has no effect.
    Before,
    /// It has taken effect.
    After,
}

impl Environment {
    pub(crate) fn new(number: u64) -> Self {
        let crash_plan =
            CrashPlan { end: None, dead: false, began: Timestamp::MIN, blind_at: Timestamp::MIN };
        Self { number, died: Notify::new(), crash_plan: Mutex::new(crash_plan) }
    }

    pub(crate) fn crash_plan(&self) -> MutexGuard<'_, CrashPlan> {
        self.crash_plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. Tells at which moment of it the environment dies, if it does.
    fn step(&self) -> Option<CrashPoint> {
        let end = &mut self.crash_plan().end;
        let (left, moment) = end.as_mut()?;
        *left = left.saturating_sub(1);
        (*left == 0).then_some(*moment)
    }

    /// Ends it: nothing of it reaches anybody any more.
    pub(crate) fn end(&self) {
        self.crash_plan().dead = true;
        self.died.notify_one();
    }

    fn is_over(&self) -> bool {
        self.crash_plan().dead
    }
}

/// An environment's connector, to AWS and to everybody else.
#[derive(Clone)]
pub(crate) struct SimConnector {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Environment>,
}

impl fmt::Debug for SimConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpConnector for SimConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move { connector.carry(request).await })
    }
}

impl SimConnector {
    async fn carry(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let Self { world, life } = &self;
        let moment = life.step();
        if moment == Some(CrashPoint::Before) {
            life.end();
        }
        if life.is_over() {
            return future::pending().await;
        }
        let service = Service::of(&request);
        let delivers = request.uri() == DESTINATION;
        if delivers {
            let ignorant = world.now().duration_since(life.crash_plan().blind_at) <= IGNORANCE;
            world.check_pause(ignorant);
        }
        let (least, most) = if service.is_some() { (2, 30) } else { (20, 300) };
        sleep(world.time_between(least, most) / 2).await;
        let answer = match service {
            Some(service) => {
                world.count(match service {
                    Service::Ssm => "calls to SSM",
                    Service::Sqs => "calls to SQS",
                    Service::Lambda => "calls to Lambda",
                });
                let target = request.headers().get("x-amz-target").unwrap_or_default();
                let fault = world.aws_fault(service, target.ends_with("Batch"));
                if let Some(fault) = fault {
                    world.count("AWS faults");
                    world.note(|| format!("env {} meets {fault:?} at {service:?}", life.number));
                    if request.body().bytes().is_some_and(names_pause) {
                        life.crash_plan().blind_at = world.now();
                    }
                }
                let answer = world.aws.answer(&request, fault);
                world.audit(life.number, life.crash_plan().began);
                Ok(answer)
            }
            None if delivers => {
                let began = life.crash_plan().began;
                Err(world.destination(&request, life.number, began))
            }
            None if request.uri().starts_with(GLADLY) => {
                Err(world.gladly(&request, life.number).await)
            }
            None => panic!("nobody is at {}", request.uri()),
        };
        if moment == Some(CrashPoint::After) {
            life.end();
            return future::pending().await;
        }
        let answer = match answer {
            Ok(answer) => answer.await,
            Err(reply) => reply.send().await,
        };
        sleep(world.time_between(least, most) / 2).await;
        if life.is_over() { future::pending().await } else { answer }
    }
}

/// Whether a request names the operator's parameter.
fn names_pause(body: &[u8]) -> bool {
    let name = format!("\"{PAUSE}\"");
    body.windows(name.len()).any(|part| part == name.as_bytes())
}

impl World {
    /// How a call to AWS fails now, if it does.
    fn aws_fault(&self, service: Service, batch: bool) -> Option<Fault> {
        let upstream = match service {
            Service::Ssm => Upstream::Ssm,
            Service::Sqs => Upstream::Sqs,
            Service::Lambda => Upstream::Lambda,
        };
        match self.plan.fault_kind(upstream, self.elapsed()) {
            Some(FaultKind::Status(status)) => Some(Fault::Refused(status, "InternalError")),
            Some(FaultKind::Hang) => Some(Fault::Hang),
            Some(FaultKind::Flaky) if self.goes_wrong(0.5) => Some(Fault::Lost),
            Some(FaultKind::Reset | FaultKind::Token | FaultKind::Missing) => Some(Fault::Reset),
            _ if self.goes_wrong(self.plan.aws_faults) => Some(match self.state().rng.u32(0..7) {
                0 => Fault::Refused(500, "InternalError"),
                1 => THROTTLED,
                2 => Fault::Reset,
                3 => Fault::Hang,
                4 => Fault::Garbage(502),
                _ => Fault::Lost,
            }),
            // What is answered 200 all the same is what is most easily overlooked.
            _ if batch && self.goes_wrong(5.0 * self.plan.aws_faults) => {
                Some(Fault::Entries(self.state().rng.u16(..)))
            }
            _ => None,
        }
    }
}

/// Nothing on a machine is instant: the time Lambda takes to begin.
pub(crate) const COLD_START: Duration = Duration::from_millis(300);

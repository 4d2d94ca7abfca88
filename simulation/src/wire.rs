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
use local::aws::{Fault, Service, THROTTLED};
use tokio::{sync::Notify, time::sleep};

use crate::{
    outside::{DESTINATION, GLADLY},
    plan::{Ailment, Side},
    world::{PAUSE, World},
};

/// How long a failed read of the pause parameter excuses what is sent in ignorance of it.
const IGNORANCE: SignedDuration = SignedDuration::from_secs(15);

/// An environment's life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) number: u64,
    /// Rings when it dies.
    pub(crate) died: Notify,
    fate: Mutex<Fate>,
}

#[derive(Debug)]
pub(crate) struct Fate {
    /// Calls until it dies, and at which moment of the last one.
    pub(crate) end: Option<(u32, Moment)>,
    dead: bool,
    /// When its invocation began.
    pub(crate) began: Timestamp,
    /// When a read of the pause parameter failed.
    blind_at: Timestamp,
}

/// A moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It has no effect.
    Before,
    /// It has taken effect.
    After,
}

impl Life {
    pub(crate) fn new(number: u64) -> Self {
        let fate = Fate { end: None, dead: false, began: Timestamp::MIN, blind_at: Timestamp::MIN };
        Self { number, died: Notify::new(), fate: Mutex::new(fate) }
    }

    pub(crate) fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. Tells at which moment of it the environment dies, if it does.
    fn step(&self) -> Option<Moment> {
        let end = &mut self.fate().end;
        let (left, moment) = end.as_mut()?;
        *left = left.saturating_sub(1);
        (*left == 0).then_some(*moment)
    }

    /// Ends it: nothing of it reaches anybody any more.
    pub(crate) fn end(&self) {
        self.fate().dead = true;
        self.died.notify_one();
    }

    fn is_over(&self) -> bool {
        self.fate().dead
    }
}

/// An environment's connector, to AWS and to everybody else.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move { wire.carry(request).await })
    }
}

impl Wire {
    async fn carry(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let Self { world, life } = &self;
        let moment = life.step();
        if moment == Some(Moment::Before) {
            life.end();
        }
        if life.is_over() {
            return future::pending().await;
        }
        let service = Service::of(&request);
        let delivers = request.uri() == DESTINATION;
        if delivers {
            let ignorant = world.now().duration_since(life.fate().blind_at) <= IGNORANCE;
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
                        life.fate().blind_at = world.now();
                    }
                }
                let answer = world.aws.answer(&request, fault);
                world.audit(life.number, life.fate().began);
                Ok(answer)
            }
            None if delivers => {
                let began = life.fate().began;
                Err(world.destination(&request, life.number, began))
            }
            None if request.uri().starts_with(GLADLY) => {
                Err(world.gladly(&request, life.number).await)
            }
            None => panic!("nobody is at {}", request.uri()),
        };
        if moment == Some(Moment::After) {
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
        let side = match service {
            Service::Ssm => Side::Ssm,
            Service::Sqs => Side::Sqs,
            Service::Lambda => Side::Lambda,
        };
        match self.plan.ailment(side, self.elapsed()) {
            Some(Ailment::Status(status)) => Some(Fault::Refused(status, "InternalError")),
            Some(Ailment::Hang) => Some(Fault::Hang),
            Some(Ailment::Flaky) if self.goes_wrong(0.5) => Some(Fault::Lost),
            Some(Ailment::Reset | Ailment::Token | Ailment::Missing) => Some(Fault::Reset),
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

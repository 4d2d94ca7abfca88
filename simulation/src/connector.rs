//! The network of one environment: latencies, faults and crashes.

use std::{fmt, future, sync::Arc};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use jiff::SignedDuration;
use testing::aws::{Fault, Service, THROTTLED};
use tokio::time::sleep;

use crate::{
    constants::{DESTINATION_URL, GLADLY, PAUSE_PARAMETER},
    environment::{CrashPoint, Environment},
    fakes,
    plan::{FaultKind, Upstream},
    sim::Simulation,
};

/// How long a failed read of the pause parameter excuses calls during a pause.
const UNREADABLE_PAUSE_EXCUSE: SignedDuration = SignedDuration::from_secs(15);

/// An environment's connector, to AWS and to everything else.
#[derive(Clone)]
pub(crate) struct SimConnector {
    pub(crate) sim: Arc<Simulation>,
    pub(crate) environment: Arc<Environment>,
}

impl fmt::Debug for SimConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimConnector")
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
        let Self { sim, environment } = &self;
        let crash_point = environment.count_call();
        if crash_point == Some(CrashPoint::Before) {
            environment.end();
        }
        if environment.is_dead() {
            return future::pending().await;
        }
        let service = Service::of(&request);
        let delivers = request.uri() == DESTINATION_URL;
        if delivers {
            let unreadable_for = sim.now().duration_since(environment.state().unreadable_at);
            let excused = unreadable_for <= UNREADABLE_PAUSE_EXCUSE;
            sim.check(|checker, cx| checker.check_pause(excused, cx));
        }
        let (least, most) = if service.is_some() { (2, 30) } else { (20, 300) };
        sleep(sim.time_between(least, most) / 2).await;
        let reply = match service {
            Some(service) => Ok(self.call_aws(service, &request)),
            None if delivers => Err(fakes::deliver(sim, &request, environment.invocation())),
            None if request.uri().starts_with(GLADLY) => {
                Err(fakes::ask(sim, &request, environment.number).await)
            }
            None => panic!("no server is at {}", request.uri()),
        };
        if crash_point == Some(CrashPoint::After) {
            environment.end();
            return future::pending().await;
        }
        let response = match reply {
            Ok(response) => response.await,
            Err(reply) => reply.send().await,
        };
        sleep(sim.time_between(least, most) / 2).await;
        if environment.is_dead() { future::pending().await } else { response }
    }

    fn call_aws(&self, service: Service, request: &HttpRequest) -> HttpConnectorFuture {
        let Self { sim, environment } = self;
        sim.count(match service {
            Service::Ssm => "calls to SSM",
            Service::Sqs => "calls to SQS",
            Service::Lambda => "calls to Lambda",
            Service::DynamoDb => "calls to DynamoDB",
            Service::S3 => "calls to S3",
        });
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let is_batch = target.ends_with("Batch") || service == Service::DynamoDb;
        let fault = aws_fault(sim, service, is_batch);
        if let Some(fault) = fault {
            sim.count("AWS faults");
            sim.note(|| {
                format!("env {} has the fault {fault:?} at {service:?}", environment.number)
            });
            if request.body().bytes().is_some_and(names_pause) {
                environment.state().unreadable_at = sim.now();
            }
        }
        let response = sim.aws.answer(request, fault);
        sim.audit(environment.invocation());
        response
    }
}

/// Whether a request names the operator's parameter.
fn names_pause(body: &[u8]) -> bool {
    let name = format!("\"{PAUSE_PARAMETER}\"");
    body.windows(name.len()).any(|part| part == name.as_bytes())
}

/// How a call to AWS fails now, if it does.
fn aws_fault(sim: &Simulation, service: Service, batch: bool) -> Option<Fault> {
    let upstream = match service {
        Service::Ssm => Upstream::Ssm,
        Service::Sqs => Upstream::Sqs,
        Service::Lambda => Upstream::Lambda,
        Service::DynamoDb => Upstream::DynamoDb,
        Service::S3 => Upstream::Destination,
    };
    match sim.plan.fault_kind(upstream, sim.elapsed()) {
        Some(FaultKind::Status(status)) => Some(Fault::Refused(status, "InternalError")),
        Some(FaultKind::Hang) => Some(Fault::Hang),
        Some(FaultKind::Flaky) if sim.goes_wrong(0.5) => Some(Fault::Lost),
        Some(FaultKind::Reset | FaultKind::Token | FaultKind::Missing) => Some(Fault::Reset),
        _ if sim.goes_wrong(sim.plan.aws_faults) => Some(match sim.state().rng.u32(0..7) {
            0 => Fault::Refused(500, "InternalError"),
            1 => THROTTLED,
            2 => Fault::Reset,
            3 => Fault::Hang,
            4 => Fault::Garbage(502),
            _ => Fault::Lost,
        }),
        // Partial failures answered with 200 are the easiest to overlook.
        _ if batch && sim.goes_wrong(5.0 * sim.plan.aws_faults) => {
            Some(Fault::Entries(sim.state().rng.u16(..)))
        }
        _ => None,
    }
}

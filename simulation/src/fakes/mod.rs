//! Fakes of Gladly and the destination.

mod destination;
mod gladly;
mod recovery;

use testing::connector::{Body, Reply};

use crate::{
    plan::{FaultKind, Upstream},
    sim::Simulation,
};

pub(crate) use self::{destination::deliver, gladly::ask};

/// A status and an empty object.
fn status(status: u16) -> Reply {
    Reply::response(status, Body::Whole(b"{}".to_vec()))
}

/// How one upstream fails now, if it does.
fn failure(sim: &Simulation, upstream: Upstream) -> Option<Reply> {
    let fault = match sim.plan.fault_kind(upstream, sim.elapsed()) {
        Some(FaultKind::Flaky) => sim.goes_wrong(0.5).then(|| {
            if upstream == Upstream::Gladly { FaultKind::Status(503) } else { FaultKind::Reset }
        })?,
        Some(FaultKind::Missing) => return None,
        Some(fault) => fault,
        None if sim.goes_wrong(sim.plan.net_faults) => {
            let faults =
                [FaultKind::Reset, FaultKind::Hang, FaultKind::Status(503), FaultKind::Status(429)];
            faults[sim.state().rng.usize(0..faults.len())]
        }
        None => return None,
    };
    Some(match fault {
        FaultKind::Status(429) => {
            status(429).header("retry-after", sim.state().rng.u32(1..8).to_string())
        }
        FaultKind::Status(code) => status(code),
        FaultKind::Hang => Reply::Hang,
        FaultKind::Reset | FaultKind::Flaky | FaultKind::Token | FaultKind::Missing => Reply::Reset,
    })
}

/// The token that an upstream accepts now.
pub(crate) fn token(sim: &Simulation, upstream: Upstream) -> String {
    let name = if upstream == Upstream::Gladly { "gladly" } else { "destination" };
    format!("{name}-token-{}", sim.plan.tokens_replaced(upstream, sim.elapsed()))
}

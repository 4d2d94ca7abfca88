//! The whole relay in one process on a virtual clock, from a seed.
//!
//! A seed determines a simulation: the real extractor in as many environments as Lambda would run, between a
//! model of the account (`testing::aws`), of Gladly and of the destination, for hours or days of
//! virtual time. Everything random comes from the seed, so a failure is reproducible. A simulation
//! ends when all its faults are over and the backlog has drained; then every accepted event must
//! be accounted for. The other invariants (`invariant`, `checker`) are checked at every call.
//!
//! Time is tokio's paused clock, and the seam is the connector of the SDK and of the HTTP client,
//! so nothing of the functions is replaced but the network. madsim was considered: it has tokio
//! itself replaced, in the SDK's dependencies too, and knows of AWS only S3. So was turmoil: it
//! simulates hosts and their sockets, and there is no socket here. stateright and
//! proptest-state-machine check a model of the logic; this is to be the logic itself.

mod checker;
mod connector;
mod constants;
mod drain;
mod environment;
mod erasure;
mod eventbridge;
mod fakes;
mod function;
mod gladly;
mod history;
mod invariant;
mod live;
mod mapping;
mod neighbour;
mod operator;
mod plan;
mod seed;
mod sim;
mod sweep;
mod virtual_time;

pub use crate::{
    drain::{Drain, drain},
    history::{COVERAGE, Keep, Tally},
    invariant::Violation,
    live::{Environments, LIVE_HEADER, Live, live},
    neighbour::{Neighbour, Scenario, neighbour},
    plan::Delays,
    seed::{Report, run, run_erasures},
    sweep::sweep,
};

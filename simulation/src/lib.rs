//! The whole hold in one process on a virtual clock, from a seed.
//!
//! A seed is a world: the real extractor in as many environments as Lambda would run, between a
//! model of the account (`local::aws`), of Gladly and of the destination, for hours or days of
//! virtual time. Everything random comes from the seed, so a failure can be had again.

mod bridge;
mod function;
mod history;
mod ledger;
mod mapping;
mod operator;
mod outside;
mod plan;
mod seed;
mod wire;
mod world;

pub use crate::{
    history::{Keep, Tally},
    ledger::Violation,
    seed::{Report, run},
};

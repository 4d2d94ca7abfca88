//! `secrets`, `webhook`, `rotate-key`, `doctor`, `test` and `replay` on the deployed template: the real binary, the emulated AWS and
//! the simulators.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

#[path = "../it/allowed.rs"]
mod allowed;
mod aws;
#[path = "../it/cbor.rs"]
mod cbor;
mod delivery;
mod doctor;
mod metrics;
mod refusals;
mod rotate_key;
mod sandbox;
mod secrets;
mod stacks;
mod terminal;
mod webhook;

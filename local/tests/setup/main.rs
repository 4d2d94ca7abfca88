//! `tools/setup` on the deployed template, with the real AWS CLI and the Gladly simulator.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

mod doctor;
mod refusals;
mod rotate_key;
mod sandbox;
mod secrets;
mod webhook;

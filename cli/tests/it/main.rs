//! The program as a person or a script runs it, with AWS faked at the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod cbor;
mod deploy;
mod operate;
mod policy;
mod sandbox;
mod wire;

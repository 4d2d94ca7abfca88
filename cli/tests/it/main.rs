//! The program as a person or a script runs it, with a fake AWS on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod allowed;
mod cbor;
mod conformance;
mod deploy;
mod fake_aws;
mod operate;
mod policy;
mod sandbox;

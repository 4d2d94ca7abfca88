//! The program as a person or a script runs it, with AWS faked at the aws.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod cbor;
mod deploy;
mod fake_aws;
mod operate;
mod policy;
mod sandbox;

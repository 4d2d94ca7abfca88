//! Properties that hold whatever bytes arrive.
//!
//! Each target takes bytes, hands them to the real functions where such bytes come in, and panics
//! where a property does not hold. `fuzz/` looks for such bytes with libFuzzer; the tests of this crate
//! run every input that was worth keeping, without it.
//!
//! AWS, Gladly and the destination are models in this process, and time is tokio's paused clock. So
//! the functions are reached through their own public entry points, and nothing of them is opened
//! for this.

mod batch;
mod control;
mod keys;
mod message;
mod pause;
mod redaction;
mod relay;
mod script;
mod scripted;
mod webhook;

pub use crate::{
    batch::batch, control::control, keys::keys, message::message, pause::pause, webhook::webhook,
};

/// A target: panics where a property does not hold for the bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 6] = [
    ("batch", batch),
    ("control", control),
    ("keys", keys),
    ("message", message),
    ("pause", pause),
    ("webhook", webhook),
];

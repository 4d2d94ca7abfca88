//! Properties that hold for any input.
//!
//! Each target passes bytes to the real functions as their input, and panics if a property does not
//! hold. `fuzz/` searches for such bytes with libFuzzer; the tests of this crate run every input of the
//! corpora and findings without it.
//!
//! AWS, Gladly and the destination are fakes in this process, and tokio's clock is paused. The functions
//! are called through their public entry points only.

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

/// A target, which panics if a property does not hold for the bytes.
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

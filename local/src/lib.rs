//! The relay on one machine, for the demo and the tests.

pub mod dashboard;
pub mod demo;
pub mod emulator;
pub mod local_stack;
mod picture;
pub mod soak;
pub mod stack;
pub mod up;

//! What the demo and the tests run on a laptop.

pub mod dashboard;
pub mod demo;
pub mod emulator;
pub mod local_stack;
mod picture;
pub mod soak;
pub mod stack;
pub mod up;

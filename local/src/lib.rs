//! The relay on one machine, for the demo and the tests.

pub mod bucket;
pub mod command;
pub mod dashboard;
pub mod demo;
pub mod embedded_metrics;
pub mod emulator;
pub mod local_stack;
pub mod page;
mod picture;
pub mod soak;
pub mod stack;
pub mod up;

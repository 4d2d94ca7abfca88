//! What the demo and the tests run on a laptop.

pub mod aws;
pub mod demo;
pub mod destination;
pub mod emulator;
pub mod fault;
pub mod gladly;
pub mod scene;
pub mod server;
pub mod stack;
pub mod up;

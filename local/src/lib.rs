//! What the demo and the tests run on a laptop.

pub mod alarm;
pub mod aws;
pub mod demo;
pub mod destination;
pub mod emulator;
pub mod fault;
pub mod gladly;
pub mod golden;
pub mod local_stack;
mod picture;
pub mod proxy;
pub mod role;
pub mod screen;
pub mod server;
pub mod soak;
pub mod stack;
pub mod template;
pub mod tls;
pub mod up;

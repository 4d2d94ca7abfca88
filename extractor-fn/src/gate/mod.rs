//! Whether extraction may go on: the operator's pause and the circuit breaker.

pub(crate) mod breaker;
pub(crate) mod pause;

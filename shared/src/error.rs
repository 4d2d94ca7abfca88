//! How an error is written to the log.

use std::{error::Error, iter};

/// An error and its causes on one line. An AWS SDK error alone prints only "service error".
#[must_use]
pub fn error_chain(err: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(err), |&err| err.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

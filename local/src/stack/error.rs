//! Why a stack could not be deployed or used.

use std::{io, path::PathBuf};

use crate::emulator::EmulatorError;

/// Why a stack could not be deployed or used.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Cargo could not be run.
    #[error("running cargo")]
    Cargo(#[source] io::Error),
    /// Cargo wrote the reason to standard error.
    #[error("the functions could not be built")]
    NotBuilt,
    /// A file that a stack is made of.
    #[error("reading {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A binary could not be packaged.
    #[error("packaging a function")]
    Zip(#[source] io::Error),
    /// The template is not laid out as expected.
    #[error("template.yaml should hold this line once: {0}")]
    Template(String),
    /// The stack was not created or changed.
    #[error("stack {name} is in {status}: {}", reasons.join("; "))]
    Stack {
        /// The stack's name.
        name: String,
        /// Its status.
        status: String,
        /// Why its resources failed, the last first.
        reasons: Vec<String>,
    },
    /// The template's outputs have changed.
    #[error("the stack has no usable output {0}")]
    Output(String),
    /// The emulated AWS failed.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

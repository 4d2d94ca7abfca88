//! The foundation of the tests and the demo: an in-process AWS that authorizes every call by the template's
//! roles, a Gladly simulator, a destination that checks every delivery against the schema, faults, a connector without a
//! network, and builders of settings and records.

use std::path::{Path, PathBuf};

pub mod alarm;
pub mod aws;
pub mod connector;
pub mod destination;
pub mod fault;
pub mod gladly;
pub mod golden;
pub mod proxy;
pub mod reader;
pub mod record;
pub mod role;
pub mod server;
pub mod settings;
pub mod template;
pub mod tls;

/// The folder of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder).to_owned()
}

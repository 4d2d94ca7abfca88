//! The mutants that the simulation must find still fit the sources.

use std::{path::Path, process::Command};

#[test]
fn every_mutant_changes_one_place_of_the_sources() {
    let mutants = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
    let output = Command::new(mutants).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

//! Every input that was worth keeping still breaks nothing: what libFuzzer gathered for each target,
//! and what once broke a promise.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{collections::BTreeSet, fs, path::Path};

use properties::TARGETS;

fn folder(name: &str) -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name);
    // Not every target has findings.
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Runs the inputs of a target.
fn run(target: &str) {
    let (_, properties) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let inputs = ["corpus", "findings"].map(|kind| folder(&format!("{kind}/{target}")));
    let inputs = inputs.concat();
    assert!(inputs.len() > 5, "there are inputs to run");
    for input in inputs {
        // The one that was shown last is the one that fails.
        eprintln!("{}", input.display());
        properties(&fs::read(input).unwrap());
    }
}

#[test]
fn no_batch_breaks_a_promise() {
    run("batch");
}

#[test]
fn no_parameter_or_list_has_the_controller_break_a_promise() {
    run("control");
}

#[test]
fn what_does_not_clearly_say_running_holds() {
    run("hold");
}

#[test]
fn only_a_key_is_a_key() {
    run("keys");
}

#[test]
fn every_message_reads_back_as_it_was() {
    run("message");
}

#[test]
fn every_webhook_is_answered_and_kept() {
    run("webhook");
}

#[test]
fn every_target_is_fuzzed_and_has_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for kind in ["corpus", "fuzz_targets"] {
        let found: BTreeSet<_> = folder(kind).iter().map(|path| name(path)).collect();
        assert_eq!(found, targets, "fuzz/{kind}");
    }
}

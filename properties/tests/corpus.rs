//! Every property holds for every stored input: libFuzzer's corpus of each target, and inputs that once
//! failed.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use properties::TARGETS;
use zip::ZipArchive;

fn fuzz(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name)
}

fn folder(name: &str) -> Vec<PathBuf> {
    // Not every target has findings.
    let mut paths: Vec<_> =
        fs::read_dir(fuzz(name)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// A target's corpus, by name.
fn gathered(target: &str) -> Vec<(String, Vec<u8>)> {
    let archive = File::open(fuzz(&format!("corpus/{target}.zip"))).unwrap();
    let mut archive = ZipArchive::new(archive).unwrap();
    let count = archive.len();
    let read = |index| {
        let mut input = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).unwrap();
        (format!("{target}.zip: {}", input.name().unwrap()), bytes)
    };
    (0..count).map(read).collect()
}

/// Runs a target's inputs, at least `least`: otherwise a missing archive would go unnoticed.
fn run(target: &str, least: usize) {
    let (_, properties) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let named = ["corpus", "findings"].map(|kind| folder(&format!("{kind}/{target}"))).concat();
    let named = named.into_iter().map(|path| (path.display().to_string(), fs::read(path).unwrap()));
    let inputs: Vec<_> = named.chain(gathered(target)).collect();
    for (name, input) in &inputs {
        // The last input printed is the one that fails.
        eprintln!("{name}");
        properties(input);
    }
    let count = inputs.len();
    eprintln!("{target}: ran {count} inputs");
    assert!(count >= least, "ran {count} inputs of {target}, expected {least} or more");
}

#[test]
fn every_record_of_a_batch_ends_in_exactly_one_way() {
    run("batch", 132);
}

#[test]
fn no_parameter_or_list_makes_the_controller_lose_a_message() {
    run("control", 213);
}

#[test]
fn what_is_not_clearly_running_is_paused() {
    run("pause", 250);
}

#[test]
fn only_valid_keys_are_accepted() {
    run("keys", 20);
}

#[test]
fn every_message_round_trips() {
    run("message", 433);
}

#[test]
fn every_webhook_is_answered_and_stored() {
    run("webhook", 244);
}

#[test]
fn every_target_is_fuzzed_and_has_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for kind in ["corpus", "fuzz_targets"] {
        let found: BTreeSet<_> = folder(kind).iter().map(|path| name(path)).collect();
        assert_eq!(found, targets, "fuzz/{kind}");
    }
}

/// So that adding an input changes no other byte, and adding none changes nothing.
#[test]
fn unpacking_and_packing_reproduces_an_archive() {
    let tool = |arguments: [&Path; 3]| {
        let status = Command::new(fuzz("../tools/corpus")).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus");
    for (target, _) in TARGETS {
        let archive = fuzz(&format!("corpus/{target}.zip"));
        let (unpacked, packed) = (scratch.join(target), scratch.join("packed.zip"));
        let _ = fs::remove_dir_all(&unpacked);
        tool(["unpack".as_ref(), &archive, &unpacked]);
        assert_eq!(fs::read_dir(&unpacked).unwrap().count(), gathered(target).len());
        // Seeds have descriptive names, and stay files.
        fs::write(unpacked.join("a-seed"), "{}").unwrap();
        tool(["pack".as_ref(), &unpacked, &packed]);
        assert!(fs::read(&packed).unwrap() == fs::read(&archive).unwrap(), "{target}");
    }
}

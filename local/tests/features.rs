//! "make demo" and "make test" share what they build: the same crates, with the same features.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, process::Command};

use testing::root;

/// The crates that cargo would build for a selection of packages, each with its features.
fn resolved(selection: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p} {f}"])
        .args(selection)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn the_demo_the_program_and_the_tests_build_every_crate_with_the_same_features() {
    let demo = ["--package=local", "--package=ingest-fn", "--package=extractor-fn"];
    let all = resolved(&["--workspace", "--edges=normal,build"]);
    let tests = resolved(&["--workspace", "--edges=normal,build,dev"]);
    let program = resolved(&[&demo[..], &["--package=cli", "--edges=normal,build"]].concat());
    let demo = resolved(&[&demo[..], &["--edges=normal,build"]].concat());
    for (name, some, more) in
        [("make demo", &demo, &all), ("gladly-relay", &program, &all), ("make test", &all, &tests)]
    {
        let different: Vec<_> = some.difference(more).collect();
        assert!(different.is_empty(), "{name} builds these with other features: {different:#?}");
    }
    assert!(demo.len() > 100 && all.len() > demo.len());
}

//! The CI workflows, as far as they can be tested locally; `make lint-workflows` parses them as the service does.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{fs, path::Path};

use regex::Regex;

/// Names and texts.
fn workflows() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = fs::read_dir(root.join(".github/workflows")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), fs::read_to_string(path).unwrap());
    let workflows: Vec<_> = paths.map(read).collect();
    assert!(workflows.len() > 3, "{} workflows", workflows.len());
    workflows
}

/// A tag can be moved to other code; a commit cannot.
#[test]
fn every_action_is_pinned_to_a_commit_and_names_its_version() {
    let used = Regex::new(r"uses: (.+)").unwrap();
    let pinned = Regex::new(r"^[a-z-]+/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$").unwrap();
    for (name, text) in workflows() {
        for found in used.captures_iter(&text) {
            let is_ours = found[1].starts_with("./.github/workflows/");
            assert!(is_ours || pinned.is_match(&found[1]), "{name}: {}", &found[1]);
        }
    }
}

#[test]
fn a_workflow_may_read_the_sources_and_only_the_release_may_write() {
    let granted = Regex::new(r"(?m)^ +([a-z-]+): (read|write)$").unwrap();
    for (name, text) in workflows() {
        let granted: Vec<_> =
            granted.captures_iter(&text).map(|it| it[0].trim().to_owned()).collect();
        let is_release = name.ends_with("/release.yml");
        let expected = ["contents: read", "contents: write"];
        assert_eq!(granted, expected[..=usize::from(is_release)], "{name}");
        assert!(text.contains("\npermissions:\n  contents: read\n\nconcurrency:\n"), "{name}");
        let jobs = text.matches("runs-on:").count();
        assert_eq!(text.matches("timeout-minutes:").count(), jobs, "{name}");
        let checkouts = text.matches("actions/checkout@").count();
        assert_eq!(text.matches("persist-credentials: false").count(), checkouts, "{name}");
    }
}

#[test]
fn every_make_target_that_a_workflow_runs_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let ran = Regex::new(r"run: make ([a-z0-9-]+)").unwrap();
    let mut targets = Vec::new();
    for (name, text) in workflows() {
        for found in ran.captures_iter(&text) {
            assert!(makefile.contains(&format!("\n{}:", &found[1])), "{name}: {}", &found[0]);
            targets.push(found[1].to_owned());
        }
    }
    for target in ["test", "package", "audit", "sbom"] {
        assert!(targets.iter().any(|it| it == target), "no workflow runs make {target}");
    }
}

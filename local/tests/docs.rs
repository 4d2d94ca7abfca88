//! The documents name tests, commands and settings that exist.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use testing::role::Role;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every Rust file of these folders.
fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The text of every Rust file of these folders.
fn code(folders: &[&str]) -> String {
    rust_files(folders).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The module of a Rust file: its own name, or its folder's.
fn module(path: &Path) -> String {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    match name(path) {
        own if own == "mod" || own == "main" => name(path.parent().unwrap()),
        own => own,
    }
}

#[test]
fn every_test_that_semantics_names_exists() {
    assert_names_tests("docs/SEMANTICS.md", 25);
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    assert_names_tests("docs/SECURITY.md", 25);
}

fn assert_names_tests(document: &str, least: usize) {
    let folders = ["ingest-fn", "extractor-fn", "shared", "local", "properties", "simulation"];
    let code = code(&folders);
    let files: BTreeSet<_> = rust_files(&folders).iter().map(|path| module(path)).collect();
    let named = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::([a-z_0-9]+)`").unwrap();
    let text = read(document);
    let mut count = 0;
    for found in named.captures_iter(&text) {
        let claim = format!("fn {}(", &found[2]);
        assert!(code.contains(&claim), "{document} names {}, which is no test", &found[0]);
        count += 1;
    }
    assert!(count > least, "the pattern still finds them: {count}");
    let modules = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::\*`").unwrap();
    for found in modules.captures_iter(&text) {
        assert!(files.contains(&found[1]), "no module {}", &found[1]);
    }
}

/// The template's roles need no list of their permissions here: the document is that list.
#[test]
fn the_threat_model_gives_a_reason_for_every_permission_and_no_other() {
    let row =
        Regex::new(r"(?m)^\| `([A-Za-z]+Role)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$").unwrap();
    let word = Regex::new("`([^`]+)`").unwrap();
    let words = |cell: &str| -> Vec<String> {
        word.captures_iter(cell).map(|found| found[1].to_owned()).collect()
    };
    let (mut all, mut of_the_code) = (BTreeSet::new(), BTreeSet::new());
    for found in row.captures_iter(&read("docs/SECURITY.md")) {
        for action in words(&found[2]) {
            for on in words(&found[3]) {
                let permission = (found[1].to_owned(), action.clone(), on);
                assert!(all.insert(permission.clone()), "{permission:?} stands there twice");
                if &found[4] == "the code" {
                    of_the_code.insert(permission);
                }
            }
        }
    }
    let (mut allowed, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for role in ["ExtractorRole", "IngestRole", "ReconcileScheduleRole"] {
        let of = |(action, on)| (role.to_owned(), action, on);
        allowed.extend(Role::named(role).pairs().into_iter().map(of));
        if role != "ReconcileScheduleRole" {
            needed.extend(Role::named(role).pairs_of_the_code().into_iter().map(of));
        }
    }
    assert_eq!(all, allowed);
    assert_eq!(of_the_code, needed);
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    let named = Regex::new("[`\"\n] *make ([a-z]+(?:-[a-z0-9]+)*)").unwrap();
    for document in [
        "README.md",
        "SECURITY.md",
        "docs/OPERATIONS.md",
        "docs/SECURITY.md",
        "docs/SEMANTICS.md",
        "template.yaml",
    ] {
        for found in named.captures_iter(&read(document)) {
            let target = format!("\n{}:", &found[1]);
            assert!(makefile.contains(&target), "{document} names {}", &found[0]);
        }
    }
}

#[test]
fn the_readme_lists_every_parameter_of_the_template_and_no_other() {
    let (readme, template) = (read("README.md"), read("template.yaml"));
    let section = |text: &str, from: &str, to: &str| {
        let text = &text[text.find(from).unwrap()..];
        text[..text.find(to).unwrap()].to_owned()
    };
    let parameters = section(&template, "\nParameters:\n", "\nMappings:\n");
    let table = section(&readme, "## Configure it", "## When something is wrong");
    let names = |pattern: &str, text: &str| {
        let pattern = Regex::new(pattern).unwrap();
        let mut names: Vec<_> =
            pattern.captures_iter(text).map(|found| found[1].to_owned()).collect();
        names.sort();
        names
    };
    let rows: String = table
        .lines()
        .filter_map(|row| Some(row.strip_prefix('|')?.split('|').next()?.to_owned() + "\n"))
        .collect();
    assert_eq!(
        names(r"`([A-Z][A-Za-z]+)`", &rows),
        names(r"(?m)^  ([A-Z][A-Za-z]+):$", &parameters)
    );
}

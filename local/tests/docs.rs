//! The documents tell of tests, commands and settings that exist.

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

/// The documents directly in a folder of the repository.
fn markdown(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
    let documents =
        names.filter(|name| name.extension().is_some_and(|extension| extension == "md"));
    documents.map(|name| name.into_os_string().into_string().unwrap()).collect()
}

/// Every Rust file of these folders.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
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

/// The text of all of them.
fn code(folders: &[&str]) -> String {
    sources(folders).into_iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    assert_names_tests("docs/SEMANTICS.md", 25);
    assert_names_tests("docs/THREAT_MODEL.md", 25);
    assert_names_tests("docs/TESTING.md", 25);
    assert_names_tests("ARCHITECTURE.md", 25);
    assert_names_tests("CONTRIBUTING.md", 5);
    for decision in markdown("docs/adr") {
        assert_names_tests(&decision, 0);
    }
}

fn assert_names_tests(document: &str, least: usize) {
    let folders =
        ["ingest-fn", "extractor-fn", "shared", "local", "properties", "simulation", "testing"];
    let code = code(&folders);
    let named = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::([a-z_0-9]+)`").unwrap();
    let text = read(document);
    let mut count = 0;
    for found in named.captures_iter(&text) {
        let claim = format!("fn {}(", &found[2]);
        assert!(code.contains(&claim), "{document} names {}, which is no test", &found[0]);
        count += 1;
    }
    assert!(count >= least, "expected {least} names of tests in {document}, found {count}");
    let modules = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::\*`").unwrap();
    let paths = sources(&folders);
    for found in modules.captures_iter(&text) {
        // A module is a file, or a folder with a mod.rs.
        let (file, folder) = (format!("{}.rs", &found[1]), format!("{}/mod.rs", &found[1]));
        let exists = paths.iter().any(|path| path.ends_with(&file) || path.ends_with(&folder));
        assert!(exists, "{document} names {}, which is no module", &found[0]);
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
    for found in row.captures_iter(&read("docs/THREAT_MODEL.md")) {
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
    let documents = markdown("").into_iter().chain(markdown("docs")).chain(markdown("docs/adr"));
    for document in documents.chain(["template.yaml".to_owned()]) {
        for found in named.captures_iter(&read(&document)) {
            let target = format!("\n{}:", &found[1]);
            assert!(makefile.contains(&target), "{document} names {}", &found[0]);
        }
    }
}

#[test]
fn the_deployment_page_lists_every_parameter_of_the_template_and_no_other() {
    let (page, template) = (read("docs/DEPLOYMENT.md"), read("template.yaml"));
    let section = |text: &str, from: &str, to: &str| {
        let text = &text[text.find(from).unwrap()..];
        text[..text.find(to).unwrap()].to_owned()
    };
    let parameters = section(&template, "\nParameters:\n", "\nMappings:\n");
    let table = section(&page, "## Parameters", "## By hand");
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

//! The documents name tests, files, log messages, commands and settings that exist.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use testing::{role::Role, root};

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

/// All of them with their text.
fn code(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
    sources(folders).into_iter().map(|path| (path.clone(), text(&path))).collect()
}

/// Whether this file is that module: a module is a file, or a folder with a `mod.rs`.
fn is_module(path: &Path, module: &str) -> bool {
    path.ends_with(format!("{module}.rs")) || path.ends_with(format!("{module}/mod.rs"))
}

/// The part of a document below this heading, up to the next heading of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let level = heading.chars().take_while(|&letter| letter == '#').count();
    let start = document.find(&format!("\n{heading}\n")).unwrap() + heading.len() + 2;
    let rest = &document[start..];
    let above = |line: &str| {
        let found = line.chars().take_while(|&letter| letter == '#').count();
        (1..=level).contains(&found)
    };
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if above(line) {
            break;
        }
        end += line.len();
    }
    &rest[..end]
}

/// The cells of a document's tables, row by row.
fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect())
}

/// The texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    assert_names_tests("docs/SEMANTICS.md", 25);
    assert_names_tests("docs/THREAT_MODEL.md", 25);
    assert_names_tests("docs/TESTING.md", 25);
    assert_names_tests("ARCHITECTURE.md", 25);
    assert_names_tests("CONTRIBUTING.md", 5);
    assert_names_tests("docs/LOGGING.md", 5);
    for decision in markdown("docs/adr") {
        assert_names_tests(&decision, 0);
    }
}

fn assert_names_tests(document: &str, least: usize) {
    let folders = [
        "ingest-fn",
        "extractor-fn",
        "shared",
        "cli",
        "local",
        "properties",
        "simulation",
        "testing",
    ];
    let code = code(&folders);
    let named = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::([a-z_0-9]+)`").unwrap();
    let text = read(document);
    let mut count = 0;
    for found in named.captures_iter(&text) {
        let claim = format!("fn {}(", &found[2]);
        let exists =
            code.iter().any(|(path, text)| is_module(path, &found[1]) && text.contains(&claim));
        assert!(exists, "{document} names {}, which is no test", &found[0]);
        count += 1;
    }
    assert!(count >= least, "expected {least} names of tests in {document}, found {count}");
    let modules = Regex::new(r"`(?:[a-z-]+: )?([a-z_]+)::\*`").unwrap();
    for found in modules.captures_iter(&text) {
        let exists = code.iter().any(|(path, _)| is_module(path, &found[1]));
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
                assert!(all.insert(permission.clone()), "{permission:?} is listed twice");
                if &found[4] == "the code" {
                    of_the_code.insert(permission);
                }
            }
        }
    }
    let (mut allowed, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for role in ["ExtractorRole", "IngestRole", "ReconcileScheduleRole"] {
        let of = |(action, on)| (role.to_owned(), action, on);
        for role in [Role::named(role), Role::with_a_bucket(role)] {
            allowed.extend(role.pairs().into_iter().map(of));
            needed.extend(role.pairs_of_the_code().into_iter().map(of));
        }
    }
    needed.retain(|(role, _, _)| role != "ReconcileScheduleRole");
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
    let between = |text: &str, from: &str, to: &str| {
        let text = &text[text.find(from).unwrap()..];
        text[..text.find(to).unwrap()].to_owned()
    };
    let parameters = between(&template, "\nParameters:\n", "\nMappings:\n");
    let table = between(&page, "## Parameters", "## By hand");
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

#[test]
fn the_code_map_matches_the_folders() {
    let page = read("ARCHITECTURE.md");
    for folder in ["ingest-fn/src", "extractor-fn/src", "shared/src"] {
        let table = section(&page, &format!("### {folder}"));
        let listed = listed_once(table);
        let root = root().join(folder);
        let names = sources(&[folder])
            .into_iter()
            .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
        assert_same(folder, &listed, &names.collect());
    }
    let map = section(&page, "## Code map");
    let folders = map.split("\n### ").next().unwrap();
    let listed = listed_once(folders);
    for name in &listed {
        assert!(root().join(name).exists(), "the code map lists {name}, which does not exist");
    }
    for entry in fs::read_dir(root()).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().join("Cargo.toml").exists() {
            let name = entry.file_name().into_string().unwrap();
            assert!(listed.contains(&name), "the code map does not list the crate {name}");
        }
    }
}

/// What the rows of a table are about; fails if one has two rows.
fn listed_once(table: &str) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for name in rows(table).flat_map(|row| quoted(row[0])) {
        assert!(listed.insert(name.to_owned()), "two rows are about {name}");
    }
    listed
}

/// Fails with the difference of the two sets.
fn assert_same(what: &str, listed: &BTreeSet<String>, found: &BTreeSet<String>) {
    let listed_only: Vec<_> = listed.difference(found).collect();
    let found_only: Vec<_> = found.difference(listed).collect();
    assert!(
        listed_only.is_empty() && found_only.is_empty(),
        "{what}: only the document has {listed_only:#?}\nonly the code has {found_only:#?}"
    );
}

#[test]
fn every_file_that_a_document_names_exists() {
    let named = Regex::new(r"`([a-z_][a-z_/-]*\.rs)`").unwrap();
    let files = sources(&[
        "ingest-fn",
        "extractor-fn",
        "shared",
        "testing",
        "local",
        "simulation",
        "properties",
        "bench",
    ]);
    for document in markdown("").into_iter().chain(markdown("docs")).chain(markdown("docs/adr")) {
        for found in named.captures_iter(&read(&document)) {
            let exists = files.iter().any(|path| path.ends_with(&found[1]));
            assert!(exists, "{document} names {}, which does not exist", &found[1]);
        }
    }
}

/// Each row of `docs/LOGGING.md` is a log line of the code, and the reverse: level, message and
/// fields.
#[test]
fn the_logging_page_lists_every_message_of_the_functions_and_no_other() {
    let page = read("docs/LOGGING.md");
    for (heading, folder) in [
        ("## ingest-fn", "ingest-fn/src"),
        ("## extractor-fn", "extractor-fn/src"),
        ("## Both functions", "shared/src"),
    ] {
        let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
        let rows = rows(section(&page, heading)).filter(|row| levels.contains(&row[0]));
        let listed = rows.map(|row| {
            assert_eq!(
                row.len(),
                5,
                "expected level, message, fields, meaning, what to do: {row:?}"
            );
            let fields: BTreeSet<_> = quoted(row[2]).into_iter().collect();
            format!("{} {} {fields:?}", row[0], row[1].trim_matches('`'))
        });
        let lines = code(&[folder]).into_iter().flat_map(|(_, text)| log_lines(&text));
        assert_same(folder, &listed.collect(), &lines.collect());
    }
}

/// The level, message and fields of each log line in a source, outside its tests.
fn log_lines(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let line = Regex::new(r"\b(error|warn|info|debug)!\(").unwrap();
    let field = Regex::new(r"^[%?]?([a-z_.]+)").unwrap();
    let of_a_line = |found: regex::Captures<'_>| {
        let mut arguments = arguments(&source[found.get(0).unwrap().end()..]);
        let message = arguments.pop().unwrap();
        let message = message.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let message = message.unwrap_or_else(|| panic!("no constant message: {arguments:?}"));
        let fields: BTreeSet<_> = arguments
            .iter()
            .map(|argument| field.captures(argument).unwrap().get(1).unwrap().as_str())
            .collect();
        format!("{} {message} {fields:?}", found[1].to_uppercase())
    };
    line.captures_iter(source).map(of_a_line).collect()
}

/// The arguments of a macro, from behind its opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut in_text) = (1, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => in_text = !in_text,
            '\\' if in_text => {
                arguments.last_mut().unwrap().push(letter);
                arguments.last_mut().unwrap().extend(letters.next());
                continue;
            }
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 1 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        arguments.last_mut().unwrap().push(letter);
    }
    let trimmed = arguments.into_iter().map(|argument| argument.trim().to_owned());
    trimmed.filter(|argument| !argument.is_empty()).collect()
}

//! No item has a name for which the field has another.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};
use testing::root;

/// The crates of the workspace.
const CRATES: [&str; 10] = [
    "bench",
    "cli",
    "extractor-fn",
    "fuzz",
    "ingest-fn",
    "local",
    "properties",
    "shared",
    "simulation",
    "testing",
];

/// Replaced names, each with the crates in which it is another thing's right name: a metric's or a status's of the
/// contract (`Backlog`, `Quarantined`), an injected fault, an outage of a simulated service, a record that is held, the
/// floor that a benchmark compares with, a ratio's `Times`.
const REPLACED: &[(&str, &[&str])] = &[
    ("Ailment", &[]),
    ("Answer", &[]),
    ("BEHIND", &[]),
    ("Backlog", &["shared"]),
    ("Book", &[]),
    ("Books", &[]),
    ("CALL_LIMIT", &[]),
    ("CONVERSATIONS", &[]),
    ("Cloud", &[]),
    ("Desk", &[]),
    ("ENOUGH", &[]),
    ("FRAME", &[]),
    ("Fate", &[]),
    ("Fault", &["local", "simulation", "testing"]),
    ("Fresh", &[]),
    ("GiveBack", &[]),
    ("Guard", &[]),
    ("HIDE", &[]),
    ("Held", &["extractor-fn", "local", "simulation", "testing"]),
    ("Incoming", &[]),
    ("Ingredients", &[]),
    ("KEPT", &[]),
    ("LATE", &[]),
    ("LOOK", &[]),
    ("Ledger", &[]),
    ("Life", &[]),
    ("Look", &[]),
    ("LookAgain", &[]),
    ("MOVES", &[]),
    ("May", &[]),
    ("Moment", &[]),
    ("Moved", &[]),
    ("Nameless", &[]),
    ("NamelessRecord", &[]),
    ("Nature", &[]),
    ("Opening", &[]),
    ("OutOfTime", &[]),
    ("Outage", &["local", "simulation"]),
    ("Outgoing", &[]),
    ("PATIENCE", &[]),
    ("Pace", &[]),
    ("Pacer", &[]),
    ("Packer", &[]),
    ("Parcel", &[]),
    ("PutAside", &[]),
    ("QUIET", &[]),
    ("Quarantined", &["ingest-fn", "local", "shared"]),
    ("Reason", &[]),
    ("Record", &[]),
    ("Revived", &[]),
    ("Run", &[]),
    ("STEP", &[]),
    ("Scene", &[]),
    ("Seen", &[]),
    ("Shape", &[]),
    ("Side", &[]),
    ("Spoken", &[]),
    ("Stopped", &[]),
    ("Story", &[]),
    ("Switch", &[]),
    ("TRY_LIMIT", &[]),
    ("Times", &["bench"]),
    ("Unintelligible", &[]),
    ("Unusable", &[]),
    ("Verdict", &[]),
    ("Watchdog", &[]),
    ("Wire", &[]),
    ("Work", &[]),
    ("World", &[]),
    ("align", &[]),
    ("aws_config", &[]),
    ("bridge", &[]),
    ("catch_up", &[]),
    ("chain", &[]),
    ("contents", &[]),
    ("floor", &["bench"]),
    ("fresh", &[]),
    ("gap", &[]),
    ("give_back", &[]),
    ("hold", &[]),
    ("is_deep", &[]),
    ("is_dry", &[]),
    ("is_spoken", &[]),
    ("leak", &[]),
    ("ledger", &[]),
    ("look", &[]),
    ("mend", &[]),
    ("milliseconds", &[]),
    ("nothing_unsaid", &[]),
    ("odd", &[]),
    ("outside", &[]),
    ("permit", &[]),
    ("planted", &[]),
    ("promise", &[]),
    ("put_aside", &[]),
    ("refreshed", &[]),
    ("reopen", &[]),
    ("resend", &[]),
    ("revive", &[]),
    ("said", &[]),
    ("screen", &[]),
    ("spoken", &[]),
    ("tend", &[]),
    ("time", &[]),
    ("try_again", &[]),
    ("unguarded", &[]),
    ("whole_characters", &[]),
    ("words", &[]),
];

/// Every item's name: types, functions, constants, modules, variants, macros.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn add(&mut self, ident: &syn::Ident) {
        self.0.insert(ident.to_string());
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.add(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.add(&item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.add(&item.ident);
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.add(&item.ident);
        visit::visit_item_static(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.add(&item.ident);
        visit::visit_item_mod(self, item);
    }

    // Of functions, methods and trait methods alike.
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.add(&signature.ident);
        visit::visit_signature(self, signature);
    }
}

/// Every Rust file of a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut pending) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let is_source = |path: &PathBuf| path.file_name().is_some_and(|name| name != "target");
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            pending.extend(entries.filter(is_source));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn no_item_has_a_replaced_name() {
    let mut found = Vec::new();
    let mut count = 0;
    for folder in CRATES {
        for path in sources(&root().join(folder)) {
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let mut names = Names::default();
            names.visit_file(&file);
            names.0.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
            count += names.0.len();
            for (name, allowed) in REPLACED {
                if names.0.contains(*name) && !allowed.contains(&folder) {
                    found.push(format!(
                        "{name} in {}",
                        path.strip_prefix(root()).unwrap().display()
                    ));
                }
            }
        }
    }
    assert!(count > 3_000, "found only {count} names");
    assert!(found.is_empty(), "replaced names: {found:#?}");
}

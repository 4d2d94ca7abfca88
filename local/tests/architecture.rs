//! The functions' modules depend on one another in one direction, as ARCHITECTURE.md draws it.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use testing::root;

/// A module's imports from its own crate, by the module's path, such as `client::http`.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The layers of extractor-fn, lowest first; a module imports from its own layer's folder or from
/// below. Pipeline and controller are on one layer.
const LAYERS: [&[&str]; 6] = [
    &["config"],
    &["gate"],
    &["client"],
    &["pipeline", "controller"],
    &["extractor"],
    &["invocation"],
];

/// Reads the modules below `folder`, without their tests.
fn imports(folder: &Path) -> Imports {
    let mut found = Imports::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let module = path.strip_prefix(folder).unwrap().with_extension("");
        let module = module.to_str().unwrap().replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
        if module == "main" || module == "lib" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let paths = code.match_indices("crate::").flat_map(|(at, found)| {
            let mut paths = Vec::new();
            expand(&code[at + found.len()..], "", &mut paths);
            paths
        });
        found.insert(module, paths.collect());
    }
    found
}

/// The paths of a use tree, and what follows it.
fn expand<'a>(tree: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        loop {
            rest = expand(rest, prefix, paths).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
        }
    }
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    if let Some(rest) = rest.strip_prefix("::") {
        return expand(rest, &format!("{prefix}{name}::"), paths);
    }
    let path = format!("{prefix}{name}");
    paths.push(path.strip_suffix("::self").unwrap_or(&path).to_owned());
    rest
}

/// The module that a path leads into.
fn owner<'a>(imports: &'a Imports, path: &str) -> Option<&'a str> {
    let owns = |module: &&String| {
        path == **module
            || path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with("::"))
    };
    imports.keys().filter(owns).max_by_key(|module| module.len()).map(String::as_str)
}

#[test]
fn the_layers_of_extractor_fn_import_downwards_only() {
    let imports = imports(&root().join("extractor-fn/src"));
    let layer = |module: &str| {
        let top = module.split("::").next().unwrap().to_owned();
        let rank = LAYERS.iter().position(|layer| layer.contains(&top.as_str()));
        (rank.unwrap_or_else(|| panic!("{module} has no layer")), top)
    };
    for (module, paths) in &imports {
        let (rank, top) = layer(module);
        for path in paths {
            let Some(owner) = owner(&imports, path) else { continue };
            let (below, other) = layer(owner);
            assert!(below < rank || top == other, "{module} imports {path}, which is not below it");
        }
    }
}

#[test]
fn no_function_has_circular_imports() {
    for function in ["ingest-fn", "extractor-fn"] {
        let mut imports = imports(&root().join(function).join("src"));
        let known = imports.clone();
        for (module, paths) in &mut imports {
            let owners = paths.iter().filter_map(|path| owner(&known, path));
            *paths = owners.filter(|owner| owner != module).map(ToOwned::to_owned).collect();
        }
        // What imports nothing that is left can be in no circle.
        while let Some(free) =
            imports.iter().find(|(_, paths)| !paths.iter().any(|path| known_in(&imports, path)))
        {
            let free = free.0.clone();
            imports.remove(&free);
        }
        assert!(imports.is_empty(), "{function}: a circle is among {imports:#?}");
    }
}

fn known_in(imports: &Imports, path: &str) -> bool {
    imports.contains_key(path)
}

#[test]
fn modules_import_from_where_a_thing_is_defined() {
    for function in ["ingest-fn", "extractor-fn"] {
        let imports = imports(&root().join(function).join("src"));
        for (module, paths) in &imports {
            for path in paths {
                assert!(
                    owner(&imports, path).is_some() || path.to_uppercase() == *path,
                    "{function}: {module} imports {path} through the crate's root"
                );
            }
        }
    }
}

#[test]
fn a_folder_holds_a_dozen_files_at_most() {
    for function in ["ingest-fn", "extractor-fn"] {
        let mut pending = vec![root().join(function).join("src")];
        while let Some(folder) = pending.pop() {
            let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
            assert!(files.len() <= 13, "{} holds {} files", folder.display(), files.len());
            pending.extend(folders);
        }
    }
}

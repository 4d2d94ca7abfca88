//! The modules of the simulation import one another in one direction.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Every module of the crate's root with the others that its files name. A folder is one module.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let source = folders[0].clone();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let module = path.strip_prefix(&source).unwrap().with_extension("");
            let module = module.iter().next().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            if module != "lib" && module != "main" {
                imports.entry(module).or_default().extend(named(&text));
            }
        }
    }
    imports
}

/// The modules that a file names behind `crate::`, alone or in braces.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let (mut depth, mut word) = (0, String::new());
        for character in rest.chars() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if character.is_alphanumeric() || character == '_' => {
                    word.push(character);
                    continue;
                }
                _ => {}
            }
            // Deeper than the first pair of braces are items of a module.
            if depth < 2 && !word.is_empty() {
                found.push(word.clone());
            }
            word.clear();
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut left = imports();
    let known: BTreeSet<_> = left.keys().cloned().collect();
    assert!(known.len() > 10, "{known:?}");
    for (module, named) in &mut left {
        named.retain(|name| known.contains(name) && name != module);
    }
    // A module that imports none of the remaining ones is in no circle.
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, named)| named.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            left.remove(&name);
            for named in left.values_mut() {
                named.remove(&name);
            }
        }
    }
    assert!(left.is_empty(), "circles among {left:?}");
}

//! The docs name what exists, and the rules for files, functions and type names hold.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All Rust text of a module: its file and everything below it.
fn module(path: &Path) -> String {
    let mut text = fs::read_to_string(path.with_extension("rs")).unwrap_or_default();
    for entry in fs::read_dir(path).into_iter().flatten() {
        let entry = entry.unwrap().path();
        if entry.is_dir() || entry.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&module(&entry.with_extension("")));
        }
    }
    text
}

#[test]
fn every_name_in_the_request_path_section_exists() {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut names = 0;
    for name in document
        .split('`')
        .filter(|word| word.matches("::").count() >= 3)
    {
        let [krate, file, holder, function] = name.split("::").collect::<Vec<_>>()[..] else {
            panic!("{name} is not crate::module::Type::function");
        };
        let source = module(&root().join("crates").join(krate).join("src").join(file));
        let exists = source.contains(&format!("fn {function}("))
            || source.contains(&format!("fn {function}<"));
        assert!(exists, "{name}: no such function");
        assert!(
            source.contains(&format!(" {holder} {{")) || source.contains(&format!(" {holder}<")),
            "{name}: no such type"
        );
        names += 1;
    }
    assert_eq!(names, 14);
}

#[test]
fn every_place_to_add_things_exists() {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let (_, table) = document.split_once("## Adding things").unwrap();
    let mut places = 0;
    for line in table.lines() {
        let words: Vec<&str> = line.split('`').collect();
        if let [.., what, " in ", file, _] = words[..] {
            let source = fs::read_to_string(root().join("crates").join(file)).unwrap_or_default();
            assert!(source.contains(what), "{file} has no {what}");
            places += 1;
        }
    }
    assert!(places >= 4, "{places}");
}

#[test]
fn every_dependency_has_its_reason() {
    let document = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let manifest = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap();
        let lines = manifest
            .lines()
            .skip_while(|line| !line.contains("dependencies]"));
        let names = lines
            .filter(|line| line.contains("workspace = true"))
            .filter_map(|line| line.split(['.', ' ']).next());
        for name in names.filter(|name| !name.starts_with("outrider") && *name != "workspace") {
            assert!(
                document.contains(&format!("`{name}`")),
                "docs/dependencies.md does not say why {name} is there"
            );
        }
    }
}

/// All Rust files of the crates below `folder`.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    sources
}

/// The text after the visibility and the words before the kind of an item.
fn without_modifiers(line: &str) -> &str {
    let mut rest = line.trim_start();
    loop {
        let before = rest;
        for word in ["pub ", "async ", "const ", "unsafe "] {
            rest = rest.strip_prefix(word).unwrap_or(rest);
        }
        if let Some((_, after)) = rest
            .strip_prefix("pub(")
            .and_then(|text| text.split_once(") "))
        {
            rest = after;
        }
        if rest == before {
            return rest;
        }
    }
}

/// The name in `text`, which begins with it.
fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

#[test]
fn one_module_may_be_unsafe() {
    let lint = ["unsafe", "code"].join("_");
    let exempt: Vec<_> = sources("crates")
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains(&lint))
        .collect();
    let exempt: Vec<_> = exempt
        .iter()
        .map(|path| path.file_name().unwrap())
        .collect();
    assert_eq!(exempt, ["allocator.rs"]);
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for path in sources("crates").into_iter().chain(sources("examples")) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() >= 600 {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            if !without_modifiers(line).starts_with("fn ") {
                continue;
            }
            // rustfmt puts the closing brace of a function where its first line begins.
            let indent = line.len() - line.trim_start().len();
            let end = format!("{:indent$}}}", "");
            let length = lines[start..].iter().take(80).position(|line| *line == end);
            let is_short = line.ends_with("{}") || line.ends_with(';');
            let is_declared = || {
                let mut rest = lines[start..]
                    .iter()
                    .take_while(|line| !line.ends_with('{'));
                rest.any(|line| line.ends_with(';'))
            };
            if !is_short && length.is_none_or(|length| length >= 79) && !is_declared() {
                long.push(format!("{}:{}: a long function", path.display(), start + 1));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_two_exported_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources("crates").into_iter().chain(sources("examples")) {
        let text = fs::read_to_string(&path).unwrap();
        for (index, line) in text.lines().enumerate() {
            let Some(item) = line.strip_prefix("pub ") else {
                continue;
            };
            let kinds = ["struct ", "enum ", "trait "];
            let named = kinds.iter().find_map(|kind| item.strip_prefix(kind));
            let named = named.or(item.strip_prefix("type "));
            if let Some(name) = named.map(name_at).filter(|name| !name.is_empty()) {
                let place = format!("{}:{}", path.display(), index + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

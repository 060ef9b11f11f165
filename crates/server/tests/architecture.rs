//! `docs/ARCHITECTURE.md` names what exists.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

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

#[test]
fn one_module_may_be_unsafe() {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("crates")];
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
    let lint = ["unsafe", "code"].join("_");
    let exempt = sources
        .iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains(&lint));
    let exempt: Vec<_> = exempt.map(|path| path.file_name().unwrap()).collect();
    assert_eq!(exempt, ["allocator.rs"]);
}

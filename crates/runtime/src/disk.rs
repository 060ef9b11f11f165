//! A disk layer: each file below a directory is a value, and its path with dots is the key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::Entry;

/// The deepest nesting of directories, as in Envoy.
const MAX_DEPTH: usize = 16;
/// The largest accepted file, in bytes. Values have a few bytes, so a larger file is probably there by mistake.
const MAX_BYTES: u64 = 1 << 20;

/// All values below `directory`.
///
/// # Errors
/// A file or directory cannot be read.
pub(crate) fn read(directory: &Path) -> Result<BTreeMap<String, Entry>, String> {
    let mut values = BTreeMap::new();
    walk(directory, "", 1, &mut values)?;
    Ok(values)
}

fn walk(
    directory: &Path,
    prefix: &str,
    depth: usize,
    values: &mut BTreeMap<String, Entry>,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "{}: more than {MAX_DEPTH} directories inside one another",
            directory.display()
        ));
    }
    let fail = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let entries = fs::read_dir(directory).map_err(|error| fail(directory, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| fail(directory, error))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let key = match prefix {
            "" => name.into_owned(),
            prefix => format!("{prefix}.{name}"),
        };
        // Links are followed.
        let kind = fs::metadata(&path).map_err(|error| fail(&path, error))?;
        if kind.is_dir() {
            walk(&path, &key, depth + 1, values)?;
        } else if kind.is_file() {
            if kind.len() > MAX_BYTES {
                let limit = MAX_BYTES >> 20;
                return Err(format!(
                    "{} (key {key}): larger than {limit} MiB",
                    path.display()
                ));
            }
            let content = fs::read(&path).map_err(|error| fail(&path, error))?;
            let text = without_comments(&String::from_utf8_lossy(&content));
            let entry = Entry::of_text(&text)
                .map_err(|error| format!("{} (key {key}): {error}", path.display()))?;
            values.insert(key, entry);
        }
    }
    Ok(())
}

/// The text without empty lines, lines that start with `#`, and white space at its end.
fn without_comments(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
    let mut value = String::new();
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        if lines.last() == Some(line) {
            value.push_str(line.trim_ascii_end());
        } else {
            value.push_str(line);
            value.push('\n');
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_space_are_cut() {
        for (text, expected) in [
            ("5\n", "5"),
            ("# of all\nhello \r\n", "hello"),
            ("# nothing\n", ""),
            ("", ""),
            ("1\n\n2\n", "1\n2"),
        ] {
            assert_eq!(without_comments(text), expected, "{text:?}");
        }
    }
}

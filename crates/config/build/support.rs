//! The support table: `proto/support/*.txt`.
//!
//! ```text
//! # comment
//! [envoy.config.cluster.v3.Cluster]
//! name            yes
//! health_checks   no         what to do instead
//! alt_stat_name   inert      why it makes no difference here
//! protocol        only       TCP: why nothing else
//! typed_config    extension  envoy.filters.http
//! cluster_type    extension  envoy.clusters optional
//! hosts           gone       what took its place
//! ```
//!
//! A field that has no line is refused; the line `*` stands for all that have none. An enum without a section has all
//! its values.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

/// The sections by message or enum.
pub(crate) type SupportTable = BTreeMap<String, Section>;

/// The lines of a message by field, or of an enum by value.
pub(crate) type Section = BTreeMap<String, SupportLine>;

/// The status word of a field and the text after it.
pub(crate) struct SupportLine {
    pub(crate) status: SupportStatus,
    pub(crate) note: String,
}

impl SupportLine {
    /// The category of extensions that the field selects from.
    pub(crate) fn category(&self) -> &str {
        self.note.split_whitespace().next().unwrap_or_default()
    }

    /// The word `optional` when the extension may also go by its name alone.
    pub(crate) fn after_category(&self) -> &str {
        self.note.split_whitespace().nth(1).unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SupportStatus {
    Yes,
    No,
    Inert,
    Only,
    Extension,
    Gone,
}

/// One line of `extensions.txt`.
pub(crate) struct ExtensionLine {
    pub(crate) category: String,
    pub(crate) name: String,
    pub(crate) types: Vec<String>,
}

/// Reads every table in `dir`.
pub(crate) fn read(dir: &Path) -> Result<SupportTable, Box<dyn Error>> {
    let mut support = SupportTable::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt")
            && !path.ends_with("extensions.txt")
        {
            parse(&std::fs::read_to_string(&path)?, &mut support)
                .map_err(|error| format!("{}:{error}", path.display()))?;
        }
    }
    Ok(support)
}

/// Adds the sections of one file; the error starts with a line number.
fn parse(text: &str, support: &mut SupportTable) -> Result<(), String> {
    let mut section = None;
    for (index, line) in text.lines().enumerate() {
        let at = |message: &str| format!("{}: {message}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            if support.contains_key(name) {
                return Err(at("a second section of this name"));
            }
            section = Some(support.entry(name.to_owned()).or_default());
            continue;
        }
        let section = section
            .as_mut()
            .ok_or_else(|| at("a line before the first section"))?;
        let (field, rest) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| at("no status"))?;
        let rest = rest.trim();
        let (status, note) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let status = match status {
            "yes" => SupportStatus::Yes,
            "no" => SupportStatus::No,
            "inert" => SupportStatus::Inert,
            "only" => SupportStatus::Only,
            "extension" => SupportStatus::Extension,
            "gone" => SupportStatus::Gone,
            _ => return Err(at("expected yes, no, inert, only, extension or gone")),
        };
        if matches!(
            status,
            SupportStatus::Inert
                | SupportStatus::Only
                | SupportStatus::Extension
                | SupportStatus::Gone
        ) && note.is_empty()
        {
            return Err(at("this status needs a text after it"));
        }
        let line = SupportLine {
            status,
            note: note.trim().to_owned(),
        };
        if section.insert(field.to_owned(), line).is_some() {
            return Err(at("a second line for this field"));
        }
    }
    Ok(())
}

/// Reads `extensions.txt`.
pub(crate) fn read_extensions(path: &Path) -> Result<Vec<ExtensionLine>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let mut extensions = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(category), Some(name)) = (words.next(), words.next()) else {
            return Err(format!("expected a category and a name in {line:?}").into());
        };
        extensions.push(ExtensionLine {
            category,
            name,
            types: words.collect(),
        });
    }
    Ok(extensions)
}

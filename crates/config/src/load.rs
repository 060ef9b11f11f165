//! From files and options to a checked bootstrap.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message as _;

use crate::Diagnostic;
use crate::Diagnostics;
use crate::DisabledExtensions;
use crate::Positions;
use crate::api::envoy::config::bootstrap::v3::Bootstrap;
use crate::check;
use crate::document::Node;
use crate::document::encoding;
use crate::document::json;
use crate::document::yaml;
use crate::merge::merge;
use crate::position::SourcePosition;
use crate::reader::Problem;
use crate::reader::Reader;
use crate::schema::MessageType;
use crate::value::Message;
use crate::wire;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// The largest accepted file. A bootstrap has a few kilobytes, a generated one a few megabytes.
pub const MAX_BYTES: usize = 64 << 20;

/// The sources of the configuration, from the command line.
#[derive(Clone, Debug, Default)]
pub struct BootstrapSources {
    /// `--config-path`
    pub config_path: Option<PathBuf>,
    /// `--config-yaml`: merged over the file, or the whole configuration when there is no file.
    pub config_yaml: Option<String>,
    /// `--allow-unknown-static-fields`: unknown fields are a warning.
    pub allow_unknown_static_fields: bool,
    /// `--disable-extensions`: uses of these are refused.
    pub disabled_extensions: DisabledExtensions,
}

/// One text to read, with its name in messages.
#[derive(Clone)]
pub struct Source {
    /// The path of the file or the name of the option.
    pub name: String,
    /// Its content.
    pub text: Vec<u8>,
    /// How to read it.
    pub format: Format,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Source({}, {:?}, {} bytes)",
            self.name,
            self.format,
            self.text.len()
        )
    }
}

/// How a source is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.yaml` and `.yml`, in small letters or capitals as all of these
    Yaml,
    /// `.json`, and every other file name
    Json,
    /// `.pb`
    Protobuf,
}

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub bootstrap: Bootstrap,
    /// The same as protobuf bytes, with the fields that have no effect here too: `/config_dump` shows it.
    pub wire: Vec<u8>,
    /// The positions of its fields. Drop it once everything is built.
    pub positions: Positions,
    /// Deprecated fields and the like.
    pub warnings: Vec<Diagnostic>,
    /// How many files and texts had fields that the API does not have, where these are allowed.
    pub sources_with_unknown_fields: u64,
}

/// Reads, merges and checks the configuration.
///
/// # Errors
/// All errors in it, in the order of the files.
pub fn load(sources: &BootstrapSources) -> Result<Loaded, Diagnostics> {
    load_from(sources, read_file)
}

/// Like [`load`], while the proxy runs: the file must be a regular one.
///
/// # Errors
/// The same.
pub fn load_again(sources: &BootstrapSources) -> Result<Loaded, Diagnostics> {
    load_from(sources, read_regular_file)
}

fn load_from(
    sources: &BootstrapSources,
    read_file: fn(&Path) -> Result<Source, Diagnostics>,
) -> Result<Loaded, Diagnostics> {
    let mut texts = Vec::new();
    if let Some(path) = &sources.config_path {
        texts.push(read_file(path)?);
    }
    if let Some(yaml) = &sources.config_yaml {
        let text = yaml.clone().into_bytes();
        texts.push(Source {
            name: "--config-yaml".to_owned(),
            text,
            format: Format::Yaml,
        });
    }
    if texts.is_empty() {
        let text = "no configuration: give --config-path, --config-yaml or both";
        return Err(Diagnostics(vec![Diagnostic {
            position: None,
            path: Default::default(),
            message: text.to_owned(),
        }]));
    }
    let allow_unknown = sources.allow_unknown_static_fields;
    load_enabled(&texts, allow_unknown, &sources.disabled_extensions)
}

/// Like [`load`], for texts in memory. Later ones are merged over earlier ones.
///
/// # Errors
/// All errors in them.
pub fn load_texts(texts: &[Source], allow_unknown: bool) -> Result<Loaded, Diagnostics> {
    load_enabled(texts, allow_unknown, &DisabledExtensions::default())
}

fn load_enabled(
    texts: &[Source],
    allow_unknown: bool,
    disabled: &DisabledExtensions,
) -> Result<Loaded, Diagnostics> {
    let names: Vec<Arc<str>> = texts.iter().map(|text| text.name.as_str().into()).collect();
    let mut reader = Reader {
        allow_unknown,
        ..Reader::default()
    };
    let mut merged: Option<Message> = None;
    let mut sources_with_unknown_fields = 0;
    for (index, source) in texts.iter().enumerate() {
        let warned = reader.warnings.len();
        let message = read(source, u8::try_from(index).unwrap_or(u8::MAX), &mut reader)
            .map_err(|problem| located(vec![problem], &Positions::unplaced(names.clone())))?;
        sources_with_unknown_fields += u64::from(reader.warnings.len() > warned);
        match &mut merged {
            None => merged = Some(message),
            Some(merged) => merge(merged, message),
        }
    }
    let Some(message) = merged else {
        return Err(Diagnostics::default());
    };
    let findings = check::check(&message, disabled);
    let positions = Positions::of(&message, names);
    let problems = without_consequences(reader.problems, findings.problems);
    if !problems.is_empty() {
        return Err(located(problems, &positions));
    }
    let wire = wire::encode(&message);
    let bootstrap = Bootstrap::decode(wire.as_slice()).map_err(|error| {
        Diagnostics::about(
            BOOTSTRAP,
            format!("the configuration does not decode: {}", undecoded(&error)),
        )
    })?;
    let warnings = reader
        .warnings
        .into_iter()
        .chain(findings.warnings)
        .collect();
    Ok(Loaded {
        bootstrap,
        wire,
        warnings: located(warnings, &positions).0,
        positions,
        sources_with_unknown_fields,
    })
}

pub(crate) fn read_file(path: &Path) -> Result<Source, Diagnostics> {
    let name = path.display().to_string();
    let fail = |text: String| Diagnostics::about(&name, text);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let extension = extension.map(str::to_ascii_lowercase);
    let format = match extension.as_deref() {
        Some("yaml" | "yml") => Format::Yaml,
        Some("pb") => Format::Protobuf,
        Some("pb_text") => {
            return Err(fail(
                "text protobuf files are not supported here: write YAML or JSON".to_owned(),
            ));
        }
        _ => Format::Json,
    };
    // A pipe or device, which may be given at start-up, has no size to check beforehand.
    let mut text = Vec::new();
    let file =
        std::fs::File::open(path).map_err(|error| fail(format!("cannot be opened: {error}")))?;
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, MAX_BYTES as u64 + 1),
        &mut text,
    )
    .map_err(|error| fail(format!("cannot be read: {error}")))?;
    Ok(Source { name, text, format })
}

/// Reads a file while the proxy runs. Anything else is refused: waiting for the writer of a pipe could take forever.
pub(crate) fn read_regular_file(path: &Path) -> Result<Source, Diagnostics> {
    refuse_irregular(path)
        .map_err(|error| Diagnostics::about(&path.display().to_string(), error))?;
    read_file(path)
}

/// Refuses what is there at `path`, unless it is a regular file or a link to one.
///
/// # Errors
/// What it is, or why that cannot be found out.
pub fn refuse_irregular(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(format!(
        "is {what}: expected a regular file, which can be read again and again"
    ))
}

fn read(source: &Source, index: u8, reader: &mut Reader) -> Result<Message, Problem> {
    let message_type = MessageType::find(BOOTSTRAP)
        .ok_or_else(|| of_whole(index, "the tables have no bootstrap".to_owned()))?;
    if source.format == Format::Protobuf && source.text.len() <= MAX_BYTES {
        let mark = of_whole(index, String::new()).mark;
        return wire::decode(message_type, &source.text, mark)
            .map_err(|text| of_whole(index, text));
    }
    let node = parse(source, index)?.ok_or_else(|| {
        let text = "empty: expected a bootstrap with static_resources or admin";
        of_whole(index, text.to_owned())
    })?;
    Ok(reader.root(message_type, node))
}

/// A problem of a whole source.
fn of_whole(index: u8, message: String) -> Problem {
    Problem {
        mark: SourcePosition {
            source: index,
            line: 0,
            column: 0,
        },
        path: Default::default(),
        message,
    }
}

/// The tree of values in a text; `None` if the text is empty.
pub(crate) fn parse(source: &Source, index: u8) -> Result<Option<Node>, Problem> {
    let problem = |mark, text: String| Problem {
        mark,
        path: Default::default(),
        message: text,
    };
    if source.text.len() > MAX_BYTES {
        return Err(of_whole(
            index,
            format!("larger than {} MiB", MAX_BYTES >> 20),
        ));
    }
    let not_utf8 = |(line, column)| {
        let mark = SourcePosition {
            source: index,
            line,
            column,
        };
        problem(mark, "not UTF-8".to_owned())
    };
    match source.format {
        Format::Json => {
            let decoded = encoding::decode_utf8(&source.text);
            if let Some(place) = decoded.first_broken() {
                return Err(not_utf8(place));
            }
            let node = json::parse(&decoded.text, index).map_err(|error| {
                let hint = hint_for_json(source, &decoded.text);
                problem(error.mark, format!("{}{hint}", error.message))
            })?;
            Ok(Some(node))
        }
        Format::Yaml => {
            let decoded = encoding::decode_yaml(&source.text);
            let node = yaml::parse(&decoded.text, index)
                .map_err(|error| problem(error.mark, error.message))?;
            if let Some(place) = node.as_ref().and_then(|node| decoded.broken_in(node)) {
                return Err(not_utf8(place));
            }
            Ok(node)
        }
        Format::Protobuf => Err(of_whole(index, "expected YAML or JSON".to_owned())),
    }
}

/// Why a configuration cannot be decoded. For a value that is nested too deeply, the decoder names every level; the
/// outermost is enough.
fn undecoded(error: &prost::DecodeError) -> String {
    let text = error.to_string();
    let levels: Vec<&str> = text.split(": ").collect();
    match levels.as_slice() {
        [.., outermost, "recursion limit reached"] => {
            format!("{outermost} holds too many mappings inside one another")
        }
        _ => text,
    }
}

/// A hint for YAML files with another suffix, which Envoy reads as JSON.
fn hint_for_json(source: &Source, text: &str) -> &'static str {
    let is_json =
        source.name.to_ascii_lowercase().ends_with(".json") || text.trim_start().starts_with('{');
    if is_json {
        ""
    } else {
        "; only files named .yaml or .yml are read as YAML, as in Envoy"
    }
}

/// All problems, without missing fields that are missing only because they could not be read.
pub(crate) fn without_consequences(read: Vec<Problem>, checked: Vec<Problem>) -> Vec<Problem> {
    let unread: HashSet<String> = read
        .iter()
        .map(|problem| problem.path.to_string())
        .collect();
    let around: HashSet<String> = read
        .iter()
        .filter_map(|problem| problem.path.parent())
        .map(ToString::to_string)
        .collect();
    let is_echo = |problem: &Problem| {
        let path = problem.path.to_string();
        unread.contains(&path)
            || (around.contains(&path) && problem.message.contains(" is required"))
    };
    let checked: Vec<Problem> = checked
        .into_iter()
        .filter(|problem| !is_echo(problem))
        .collect();
    read.into_iter().chain(checked).collect()
}

/// The problems with their places, in the order of the files.
pub(crate) fn located(mut problems: Vec<Problem>, positions: &Positions) -> Diagnostics {
    problems.sort_by_key(|problem| (problem.mark.source, problem.mark.line, problem.mark.column));
    let diagnostics = problems.into_iter().map(|problem| Diagnostic {
        position: positions.position(problem.mark),
        path: problem.path,
        message: problem.message,
    });
    Diagnostics(diagnostics.collect())
}

//! Messages for the user: `envoy.yaml:14:21: static_resources.clusters[0].nmae: no such field …`.

use std::fmt;

use crate::FieldPath;
use crate::Position;

/// One message about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The place in a file, if the message is about one.
    pub position: Option<Position>,
    /// The field; the root if the message is about a whole file.
    pub path: FieldPath,
    /// The error and what was expected instead.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// All errors of a configuration, in the order of the file. Prints one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// A single message about the file or option `source` as a whole.
    pub(crate) fn about(source: &str, message: impl Into<String>) -> Self {
        let position = Position {
            source: source.into(),
            line: 0,
            column: 0,
        };
        Self(vec![Diagnostic {
            position: Some(position),
            path: FieldPath::root(),
            message: message.into(),
        }])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

//! What is told to the user: `envoy.yaml:14:21: static_resources.clusters[0].nmae: no such field …`.

use std::fmt;

use crate::FieldPath;
use crate::Position;

/// One message about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where, if it is about a place in a file.
    pub position: Option<Position>,
    /// Which field; the root for what concerns a whole file.
    pub path: FieldPath,
    /// What is wrong and what was expected.
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

/// Everything wrong with a configuration, in the order of the file; prints one a line.
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

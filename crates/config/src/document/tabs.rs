//! Tabs where `yaml-cpp` looks for indentation.
//!
//! Our parser skips lines of white space. In such a line, `yaml-cpp` looks for a continuation of the plain text before
//! it, and a tab in its indentation is an error, even if nothing follows.

use saphyr_parser::Marker;

/// The lines of a text that has tabs.
pub(super) struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    /// `None` for a text without tabs, as almost all are.
    pub(super) fn with_tabs(text: &'a str) -> Option<Self> {
        text.contains('\t').then(|| Self(text.lines().collect()))
    }

    /// Whether a list or mapping that starts at `at` is written in brackets.
    pub(super) fn is_flow(&self, at: Marker) -> bool {
        self.rest(at)
            .is_some_and(|rest| rest.starts_with(['{', '[']))
    }

    /// The line, counted from 1, with a tab among its first `indent` columns, if the plain text that ended at `end`
    /// could continue there.
    pub(super) fn tab_after(&self, end: Marker, indent: usize) -> Option<usize> {
        // A comment or a colon ends the plain text on its own line.
        if !self.rest(end)?.trim_matches([' ', '\t']).is_empty() {
            return None;
        }
        for (index, line) in self.0.iter().enumerate().skip(end.line()) {
            let spaces = line.len() - line.trim_start_matches(' ').len();
            if spaces < indent && line[spaces..].starts_with('\t') {
                return Some(index + 1);
            }
            if !line.trim().is_empty() {
                return None;
            }
        }
        None
    }

    fn rest(&self, at: Marker) -> Option<&'a str> {
        let line = self.0.get(at.line().checked_sub(1)?)?;
        let (offset, _) = line
            .char_indices()
            .nth(at.col())
            .unwrap_or((line.len(), ' '));
        line.get(offset..)
    }
}

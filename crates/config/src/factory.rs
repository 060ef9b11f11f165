//! Tables of extensions: a crate lists the extensions that it implements in a `const` slice of [`Factory`], and
//! [`find`](Factory::find) looks up the one that a configuration asks for.

use std::fmt;

use prost_types::Any;

use crate::ConfigError;
use crate::FieldPath;
use crate::type_name;

/// One extension: the message that configures it, and the function that builds it.
pub struct Factory<F: 'static> {
    /// The full name of the message.
    pub message: &'static str,
    /// Builds the extension from its message.
    pub build: F,
}

impl<F> Factory<F> {
    /// The function that builds the extension in `config`, found at `path`; `kind` says what it is, such as
    /// "HTTP filter".
    ///
    /// # Errors
    /// No entry of `factories` has this message. The error lists the entries.
    pub fn find<'f>(
        factories: &'f [Factory<F>],
        kind: &str,
        config: &Any,
        path: &FieldPath,
    ) -> Result<&'f F, ConfigError> {
        let name = type_name(config);
        match factories.iter().find(|factory| factory.message == name) {
            Some(factory) => Ok(&factory.build),
            None => {
                let known: Vec<_> = factories.iter().map(|factory| factory.message).collect();
                Err(ConfigError::new(
                    path,
                    format!(
                        "not supported: {kind} {name}; expected one of: {}",
                        known.join(", ")
                    ),
                ))
            }
        }
    }
}

impl<F> fmt::Debug for Factory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTORIES: &[Factory<u8>] = &[
        Factory {
            message: "test.First",
            build: 1,
        },
        Factory {
            message: "test.Second",
            build: 2,
        },
    ];

    #[test]
    fn finds_an_extension_by_its_message_and_lists_the_known_ones() {
        let any = |name: &str| Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: Vec::new(),
        };
        let path = FieldPath::root().field("typed_config");
        let found = Factory::find(FACTORIES, "test filter", &any("test.Second"), &path);
        assert_eq!(found, Ok(&2));
        let unknown = Factory::find(FACTORIES, "test filter", &any("test.Third"), &path);
        assert_eq!(
            unknown.unwrap_err().to_string(),
            "typed_config: not supported: test filter test.Third; expected one of: test.First, test.Second"
        );
    }
}

//! The parameters of a query, for filters that read or change them.

use std::collections::BTreeMap;

use outrider_codec::Target;

use crate::format::percent_decode;

/// The parameters of a query, decoded: the values of each name in their order. As in Envoy, the names are sorted.
#[derive(Debug)]
pub(crate) struct QueryParameters(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

impl QueryParameters {
    /// The parameters in `query`, the text after the `?`.
    pub(crate) fn parse(query: &str) -> QueryParameters {
        let mut parameters: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters
                .entry(decode(key))
                .or_default()
                .push(decode(value));
        }
        QueryParameters(parameters)
    }

    /// The first value of a parameter.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        Some(self.0.get(name.as_bytes())?.first()?)
    }

    /// Removes all values of a parameter.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name.as_bytes());
    }

    /// Adds a value to a parameter.
    pub(crate) fn append(&mut self, name: &str, value: Vec<u8>) {
        let values = self.0.entry(name.as_bytes().to_vec()).or_default();
        values.push(value);
    }

    /// A target with this path and these parameters; `None` if it is not valid.
    pub(crate) fn target(&self, path: &str) -> Option<Target> {
        let mut target = path.to_owned();
        let pairs = self
            .0
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        for (at, (key, value)) in pairs.enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            encode(key, &mut target);
            target.push('=');
            encode(value, &mut target);
        }
        Target::try_from(target).ok()
    }
}

fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    percent_decode(text.as_bytes(), &mut decoded);
    decoded
}

fn encode(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_encodes_as_envoy() {
        for (query, want) in [
            ("%41+b", "A+b"),
            ("%4", "%254"),
            ("x y&z", "x%20y%26z"),
            ("%zz", "%25zz"),
            ("%+1", "%25+1"),
        ] {
            let mut encoded = String::new();
            encode(&decode(query), &mut encoded);
            assert_eq!(encoded, want, "{query}");
        }
    }
}

//! Header fields in the order received.
//!
//! A message has about a dozen fields, and a proxy looks up more names than that. So, as in Envoy, the fields are a
//! list. Beside it is a set of the well-known names in the list: absent names are known without a search, and the list
//! is short enough that searching it is faster than hashing. A client gains nothing by choosing names whose hashes
//! collide, and the order never changes.

mod joined;
mod known;
mod name;
mod value;

use std::fmt;
use std::ops::Index;
use std::slice;

pub(crate) use joined::BlockKind;
pub use joined::JOINED_IN_REQUESTS;
pub use joined::JOINED_IN_RESPONSES;
pub use joined::JOINED_IN_TRAILERS;
pub(crate) use joined::MAX_JOINED_EXTRA;
pub(crate) use joined::join_values;
pub(crate) use known::Indexing;
pub use known::*;
pub use name::HeaderName;
pub use name::InvalidHeaderName;
pub use name::NameRef;
pub use value::HeaderValue;
pub use value::InvalidHeaderValue;

/// The header fields of a message, or its trailers. Names may repeat.
///
/// A lookup takes time proportional to the number of fields, which the codecs limit.
#[derive(Clone, Default)]
pub struct HeaderMap {
    fields: Vec<(HeaderName, HeaderValue)>,
    names: Names,
}

/// A set of well-known names.
#[derive(Clone, Copy, Debug)]
pub struct NameSet(u128);

impl NameSet {
    /// The set of these names, all of which must be well known.
    ///
    /// # Panics
    ///
    /// If a name is not well known. In a constant this is a compile error.
    #[expect(clippy::indexing_slicing, reason = "the loop ends at the length")]
    #[must_use]
    pub const fn of(names: &[&str]) -> NameSet {
        let mut set = 0;
        let mut at = 0;
        while at < names.len() {
            let index = known::index_of(names[at].as_bytes());
            assert!(index.is_some(), "not known beforehand");
            if let Some(index) = index {
                set |= 1 << index;
            }
            at += 1;
        }
        NameSet(set)
    }

    /// The set of the well-known names that begin with `prefix`.
    #[expect(clippy::indexing_slicing, reason = "the loop ends at the length")]
    #[must_use]
    pub const fn beginning_with(prefix: &str) -> NameSet {
        let mut set = 0;
        let mut index = 0;
        while index < known::KNOWN.len() {
            if let Some((beginning, _)) = known::KNOWN[index]
                .text
                .as_bytes()
                .split_at_checked(prefix.len())
                && known::equal(beginning, prefix.as_bytes())
            {
                set |= 1 << index;
            }
            index += 1;
        }
        NameSet(set)
    }

    /// Whether `name` is in the set.
    #[must_use]
    #[inline]
    pub fn has<'n>(self, name: impl Into<NameRef<'n>>) -> bool {
        match name.into() {
            NameRef::Known(index) => self.0 & 1 << index != 0,
            NameRef::Other(_) => false,
        }
    }
}

/// Which names the fields may have.
#[derive(Clone, Copy, Default)]
struct Names {
    /// One bit for each well-known name.
    known: u128,
    /// Whether a well-known name was added more than once.
    repeated: bool,
    /// Whether any other name was added.
    others: bool,
}

impl Names {
    #[inline]
    fn add(&mut self, name: NameRef<'_>) {
        match name {
            NameRef::Known(index) => {
                self.repeated |= self.known & 1 << index != 0;
                self.known |= 1 << index;
            }
            NameRef::Other(_) => self.others = true,
        }
    }

    #[inline]
    fn may_have(&self, name: NameRef<'_>) -> bool {
        match name {
            NameRef::Known(index) => self.known & 1 << index != 0,
            NameRef::Other(_) => self.others,
        }
    }

    /// Records that no field has this name.
    #[inline]
    fn remove(&mut self, name: NameRef<'_>) {
        if let NameRef::Known(index) = name {
            self.known &= !(1 << index);
        }
    }
}

impl HeaderMap {
    /// An empty map.
    #[must_use]
    pub fn new() -> HeaderMap {
        HeaderMap::default()
    }

    /// An empty map with room for `capacity` fields.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> HeaderMap {
        HeaderMap {
            fields: Vec::with_capacity(capacity),
            names: Names::default(),
        }
    }

    /// The number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    #[inline]
    fn position(&self, name: NameRef<'_>) -> Option<usize> {
        if !self.names.may_have(name) {
            return None;
        }
        self.fields.iter().position(|(found, _)| name.is(found))
    }

    /// Whether a field has this name.
    #[must_use]
    #[inline]
    pub fn contains_key<'n>(&self, name: impl Into<NameRef<'n>>) -> bool {
        let name = name.into();
        match name {
            NameRef::Known(_) => self.names.may_have(name),
            NameRef::Other(_) => self.position(name).is_some(),
        }
    }

    /// The value of the first field of this name.
    #[must_use]
    #[inline]
    pub fn get<'n>(&self, name: impl Into<NameRef<'n>>) -> Option<&HeaderValue> {
        let at = self.position(name.into())?;
        self.fields.get(at).map(|(_, value)| value)
    }

    /// The values of all fields of this name.
    pub fn get_all<'m, 'n: 'm>(
        &'m self,
        name: impl Into<NameRef<'n>>,
    ) -> impl DoubleEndedIterator<Item = &'m HeaderValue> {
        let name = name.into();
        let from = self.position(name).unwrap_or(self.fields.len());
        let fields = self.fields.get(from..).unwrap_or_default().iter();
        fields.filter_map(move |(found, value)| name.is(found).then_some(value))
    }

    /// Adds a field at the end, even if its name is there already.
    #[inline]
    pub fn append(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        let name = name.into();
        self.names.add((&name).into());
        self.fields.push((name, value));
    }

    /// Makes `value` the only value of this name: replaces the first field of this name and removes the others, or adds
    /// a field.
    pub fn insert(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        let name = name.into();
        let Some(at) = self.position((&name).into()) else {
            return self.append(name, value);
        };
        if let Some((_, old)) = self.fields.get_mut(at) {
            *old = value;
        }
        let mut index = 0;
        self.fields.retain(|(found, _)| {
            index += 1;
            index <= at + 1 || *found != name
        });
    }

    /// Adds a field unless its name is there already.
    pub fn insert_if_absent(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        let name = name.into();
        if !self.contains_key(&name) {
            self.append(name, value);
        }
    }

    /// Removes all fields of this name and returns the first one's value.
    pub fn remove<'n>(&mut self, name: impl Into<NameRef<'n>>) -> Option<HeaderValue> {
        let name = name.into();
        let at = self.position(name)?;
        let (_, value) = self.fields.remove(at);
        self.fields.retain(|(found, _)| !name.is(found));
        self.names.remove(name);
        Some(value)
    }

    /// Whether a field has one of these names.
    #[must_use]
    #[inline]
    pub fn contains_any(&self, names: NameSet) -> bool {
        self.names.known & names.0 != 0
    }

    /// Whether there may be a field whose name is not well known.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.names.others
    }

    /// Removes all fields of these names.
    #[inline]
    pub fn remove_any(&mut self, names: NameSet) {
        if self.contains_any(names) {
            self.fields.retain(|(name, _)| !names.has(name));
            self.names.known &= !names.0;
        }
    }

    /// Iterates over the fields in order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.fields.iter())
    }

    /// Iterates over the fields' names.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }
}

/// Iterates over the fields of a [`HeaderMap`] in order.
#[derive(Debug)]
pub struct Iter<'m>(slice::Iter<'m, (HeaderName, HeaderValue)>);

impl<'m> Iterator for Iter<'m> {
    type Item = (&'m HeaderName, &'m HeaderValue);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, value))
    }
}

impl<'m> IntoIterator for &'m HeaderMap {
    type Item = (&'m HeaderName, &'m HeaderValue);
    type IntoIter = Iter<'m>;

    #[inline]
    fn into_iter(self) -> Iter<'m> {
        self.iter()
    }
}

impl IntoIterator for HeaderMap {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

impl<N: Into<HeaderName>> FromIterator<(N, HeaderValue)> for HeaderMap {
    fn from_iter<T: IntoIterator<Item = (N, HeaderValue)>>(fields: T) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    }
}

/// The value of the first field of this name.
///
/// # Panics
///
/// If no field has this name.
impl<'n, N: Into<NameRef<'n>>> Index<N> for HeaderMap {
    type Output = HeaderValue;

    #[expect(clippy::expect_used, reason = "what is indexed must be there")]
    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).expect("no field of this name")
    }
}

/// Equal if the fields are the same, in the same order.
impl PartialEq for HeaderMap {
    fn eq(&self, other: &HeaderMap) -> bool {
        self.fields == other.fields
    }
}

impl Eq for HeaderMap {}

impl fmt::Debug for HeaderMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        fields.collect()
    }

    const MIXED: [(&str, &str); 6] = [
        ("x-own", "1"),
        ("te", "2"),
        ("x-own", "3"),
        ("vary", "4"),
        ("te", "5"),
        ("x-last", "6"),
    ];

    #[test]
    fn fields_are_found_by_name_whether_known_or_not() {
        let map = map(&MIXED);
        assert_eq!(map.len(), 6);
        assert_eq!(map.get("x-own").unwrap(), "1");
        assert_eq!(map.get(&TE).unwrap(), "2");
        assert_eq!(map["vary"], "4");
        assert!(map.get("x-none").is_none() && map.get(&AGE).is_none());
        assert!(map.contains_key("x-last") && map.contains_key(&VARY));
        assert!(!map.contains_key("x-none") && !map.contains_key(&AGE));
        let all = |name| {
            map.get_all(name)
                .map(|v| v.as_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(all("te"), ["2", "5"]);
        assert_eq!(all("x-own"), ["1", "3"]);
        assert_eq!(all("x-none"), [""; 0]);
        assert_eq!(map.get_all("te").next_back().unwrap(), "5");
    }

    #[test]
    fn changes_keep_the_order_of_other_fields() {
        let mut changed = map(&MIXED);
        changed.insert(&TE, HeaderValue::from_static("new"));
        let one = [MIXED[0], ("te", "new"), MIXED[2], MIXED[3], MIXED[5]];
        assert_eq!(changed, map(&one));
        assert_eq!(changed.remove("x-own").unwrap(), "1");
        assert_eq!(changed, map(&[one[1], one[3], one[4]]));
        assert!(changed.remove("x-own").is_none());
        changed.insert(&AGE, HeaderValue::from_static("0"));
        changed.insert_if_absent(&AGE, HeaderValue::from_static("1"));
        assert_eq!(changed, map(&[one[1], one[3], one[4], ("age", "0")]));
        assert!(changed.remove(&VARY).is_some() && !changed.contains_key(&VARY));
        changed.append(&VARY, HeaderValue::from_static("7"));
        changed.remove_any(NameSet::of(&["te"]));
        assert_eq!(changed, map(&[one[4], ("age", "0"), ("vary", "7")]));
        assert!(changed.get(&TE).is_none() && changed.get(&VARY).is_some());
    }
}

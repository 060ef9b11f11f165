//! What filters keep for one stream: values of their own, dynamic metadata, and filter state.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::rc::Rc;

use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_matching::FilterStateView;
use prost_types::Struct;
use prost_types::Value;
use smallvec::SmallVec;

use crate::Stream;

/// One value for each filter of the chain that asked for a slot.
#[derive(Debug, Default)]
pub struct StreamSlots(SmallVec<[Option<Rc<dyn Any>>; 2]>);

/// A filter's place for a value of type `T` in each stream.
pub struct StreamSlot<T> {
    index: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: 'static> StreamSlot<T> {
    /// The slot at this index among all slots of the chain.
    pub(super) fn at(index: usize) -> StreamSlot<T> {
        StreamSlot {
            index,
            kind: PhantomData,
        }
    }

    /// The value of this stream, if it was set.
    pub fn get<'s>(&self, stream: &'s Stream) -> Option<&'s T> {
        let value = stream.slots.0.get(self.index)?.as_ref()?;
        value.downcast_ref()
    }

    /// The value of this stream to be shared with a body.
    pub fn share(&self, stream: &Stream) -> Option<Rc<T>> {
        let value = stream.slots.0.get(self.index)?.as_ref()?;
        value.clone().downcast().ok()
    }

    /// Sets the value of this stream.
    pub fn set(&self, stream: &mut Stream, value: Rc<T>) {
        let slots = &mut stream.slots.0;
        if slots.len() <= self.index {
            slots.resize(self.index + 1, None);
        }
        if let Some(slot) = slots.get_mut(self.index) {
            *slot = Some(value);
        }
    }
}

impl<T> fmt::Debug for StreamSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamSlot").field(&self.index).finish()
    }
}

/// Metadata that filters set for one stream (`%DYNAMIC_METADATA%`).
#[derive(Debug, Default)]
pub struct DynamicMetadata(Option<Box<Metadata>>);

impl DynamicMetadata {
    /// All of it, if any was set.
    #[must_use]
    pub fn get(&self) -> Option<&Metadata> {
        self.0.as_deref()
    }

    /// The fields of a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.0.as_ref()?.filter_metadata.get(namespace)
    }

    /// Sets these fields of a namespace, and keeps its other fields.
    pub fn merge(&mut self, namespace: &str, fields: Struct) {
        let all = &mut self.0.get_or_insert_default().filter_metadata;
        match all.get_mut(namespace) {
            Some(known) => known.fields.extend(fields.fields),
            None => {
                all.insert(namespace.to_owned(), fields);
            }
        }
    }
}

/// Objects that filters share with others for one stream (`%FILTER_STATE%`).
#[derive(Debug, Default)]
pub struct FilterState(Vec<(Box<str>, Rc<dyn FilterStateObject>)>);

/// An object in the filter state.
pub trait FilterStateObject: Any + fmt::Debug {
    /// As text (`PLAIN`).
    fn text(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// As JSON (`TYPED`).
    fn json(&self) -> Option<Value> {
        None
    }

    /// The IP address that it is.
    fn address(&self) -> Option<IpAddr> {
        None
    }

    /// One of its fields (`FIELD`).
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let _ = name;
        None
    }
}

impl FilterState {
    /// The object under this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&dyn FilterStateObject> {
        let (_, object) = self.0.iter().find(|(key, _)| **key == *name)?;
        Some(&**object)
    }

    /// Sets the object under this name.
    pub fn set(&mut self, name: &str, object: Rc<dyn FilterStateObject>) {
        match self.0.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, known)) => *known = object,
            None => self.0.push((name.into(), object)),
        }
    }
}

impl FilterStateView for FilterState {
    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name)?.text()
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        self.get(name)?.address()
    }
}

//! What filters tell each other about a stream or a connection: metadata, and the filter state.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use outrider_config::api::envoy::config::core::v3::Metadata;
use prost_types::Struct;
use prost_types::Value;

/// Metadata that filters set for one stream or connection (`%DYNAMIC_METADATA%`).
#[derive(Clone, Debug, Default)]
pub struct DynamicMetadata {
    all: Option<Box<Metadata>>,
    late: Option<LateMetadata>,
}

/// Sets metadata of a stream from where the stream is out of reach, such as a body. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LateMetadata(Rc<RefCell<Vec<(String, Struct)>>>);

impl LateMetadata {
    /// Sets these fields of a namespace, with the next [`DynamicMetadata::merge_late`].
    pub fn push(&self, namespace: String, fields: Struct) {
        self.0.borrow_mut().push((namespace, fields));
    }
}

impl DynamicMetadata {
    /// All of it, if any was set.
    #[must_use]
    pub fn get(&self) -> Option<&Metadata> {
        self.all.as_deref()
    }

    /// The fields of a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.all.as_ref()?.filter_metadata.get(namespace)
    }

    /// Sets these fields of a namespace, and keeps its other fields.
    pub fn merge(&mut self, namespace: &str, fields: Struct) {
        let all = &mut self.all.get_or_insert_default().filter_metadata;
        match all.get_mut(namespace) {
            Some(known) => known.fields.extend(fields.fields),
            None => {
                all.insert(namespace.to_owned(), fields);
            }
        }
    }

    /// The means to set metadata later.
    pub fn late(&mut self) -> LateMetadata {
        self.late.get_or_insert_default().clone()
    }

    /// Sets what was set by [`LateMetadata`] since the last time.
    pub fn merge_late(&mut self) {
        let Some(late) = &self.late else {
            return;
        };
        let late = late.0.take();
        for (namespace, fields) in late {
            self.merge(&namespace, fields);
        }
    }
}

/// Objects that filters share with others for one stream or connection (`%FILTER_STATE%`).
#[derive(Clone, Debug, Default)]
pub struct FilterState(Vec<(Rc<str>, Rc<dyn FilterStateObject>)>);

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

    /// The object under this name, if it is of this type.
    #[must_use]
    pub fn get_as<T: 'static>(&self, name: &str) -> Option<&T> {
        let object: &dyn Any = self.get(name)?;
        object.downcast_ref()
    }

    /// Sets the object under this name.
    pub fn set(&mut self, name: &str, object: Rc<dyn FilterStateObject>) {
        match self.0.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, known)) => *known = object,
            None => self.0.push((name.into(), object)),
        }
    }
}

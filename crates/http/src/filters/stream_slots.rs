//! The values that filters keep for one stream.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

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

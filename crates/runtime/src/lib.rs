//! Runtime values (`layered_runtime`): settings that operators change while the proxy runs.
//!
//! [`Layers`] live on the main thread. Each change creates a new [`Snapshot`], which [`Runtime`] publishes to all
//! threads. A worker reads it through a [`RuntimeReader`], without a lock.

mod disk;
mod entry;
mod layers;
mod message;
mod snapshot;

pub use entry::Entry;
pub use layers::Layers;
pub use layers::LoadedLayer;
pub use layers::Loading;
pub use layers::RefusedValues;
pub use message::Fraction;
pub use message::RuntimeDouble;
pub use message::RuntimeFraction;
pub use message::RuntimeNumber;
pub use snapshot::LocalSnapshot;
pub use snapshot::Runtime;
pub use snapshot::RuntimeReader;
pub use snapshot::Snapshot;

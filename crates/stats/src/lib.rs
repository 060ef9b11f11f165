//! Counters, gauges and histograms under Envoy's names.
//!
//! A group is a plain struct of atomics; [`group!`] adds what the renderers need to enumerate it. Every worker
//! [registers](Store::register) its own copy under the same [`Scope`], and the store sums the copies when somebody
//! reads them. So using a stat is a field access, workers share no cache lines, and counting needs no atomic
//! read-modify-write. Stats that several threads write use [`SharedCounter`] and [`SharedGauge`].
//!
//! ```
//! use outrider_stats::{Counter, Gauge, Scope, Store};
//!
//! outrider_stats::group! {
//!     /// `cluster.<name>.*`
//!     pub struct ClusterStats { upstream_cx_total: Counter, upstream_rq_active: Gauge }
//! }
//!
//! let store = Store::new();
//! let stats = store.register::<ClusterStats>(Scope::new("cluster").name("backend"));
//! stats.upstream_cx_total.inc();
//! let active = stats.hold(|s| &s.upstream_rq_active); // subtracts one when dropped
//! # drop(active);
//! ```
//!
//! The stats of a group disappear when its last handle, on any worker, is dropped.

mod codes;
mod distribution;
mod ecmascript;
mod group;
mod histogram;
pub mod http;
mod options;
pub mod render;
mod scalar;
mod scope;
mod snapshot;
mod store;
mod tags;

pub use codes::ResponseClasses;
pub use codes::ResponseCodes;
pub use distribution::Bucket;
pub use distribution::Distribution;
pub use distribution::QUANTILES;
pub use group::Group;
pub use group::HeldGauge;
pub use group::Lazy;
pub use group::Metric;
pub use group::Stat;
pub use group::Visitor;
pub use histogram::Histogram;
pub use histogram::SharedHistogram;
pub use options::NameMatcher;
pub use options::StatsOptions;
pub use options::name_matcher;
pub use scalar::Counter;
pub use scalar::CounterLike;
pub use scalar::Gauge;
pub use scalar::SharedCounter;
pub use scalar::SharedGauge;
pub use scalar::TextReadout;
pub use scope::Scope;
pub use snapshot::StatKind;
pub use snapshot::StatRow;
pub use snapshot::StatValue;
pub use snapshot::StatsFilter;
pub use snapshot::StatsSnapshot;
pub use store::RecordedHistogram;
pub use store::Store;
pub use store::WorkerStore;

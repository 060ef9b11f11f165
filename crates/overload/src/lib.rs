//! The overload manager (`Bootstrap.overload_manager`).
//!
//! On the main thread it measures the pressure on some resources at a fixed interval. Triggers turn pressures into the
//! levels of actions and load shed points. Workers read these levels through [`outrider_net::OverloadState`], without
//! locks; only actions on what already waits, such as idle connections, are announced to them.

mod action;
mod manager;
mod monitor;
mod shrink_heap;
mod timers;
mod trigger;

pub use manager::OverloadCx;
pub use manager::OverloadManager;
pub use manager::OverloadWork;

//! Requests through a connection manager, with real sockets on both sides.

#[cfg(test)]
mod allocations;
#[cfg(test)]
mod answers;
#[cfg(test)]
#[path = "../../../../budgets.rs"]
mod budgets;
#[cfg(test)]
mod support;
#[cfg(test)]
mod upstream;

//! Sockets: bind, accept, filter-chain match, connect, and a worker's timer wheel.

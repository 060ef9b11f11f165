//! Sockets and time, as a worker sees them: addresses, byte streams, connecting, and the timer wheel.
//!
//! Nothing here knows HTTP. What a connection carries is decided by a [`ConnectionHandler`].

mod activity;
mod address;
mod alarm;
pub mod clock;
mod connect;
mod connection;
mod drain;
mod filter_chain;
mod listener;
mod shutdown;
mod stats;
mod stream;
mod timers;
mod watch;
mod worker;

pub use activity::Activity;
pub use activity::ActivityCounts;
pub use activity::ConnectionActivity;
pub use address::Address;
pub use address::PipeAddress;
pub use address::parse_ip;
pub use connect::ConnectError;
pub use connect::ConnectOptions;
pub use connect::KeepAlive;
pub use connect::connect;
pub use connection::Connection;
pub use connection::ConnectionHandler;
pub use connection::ConnectionInfo;
pub use drain::Drain;
pub use filter_chain::Facts;
pub use filter_chain::FilterChains;
pub use listener::Acceptor;
pub use listener::BindError;
pub use listener::BoundAddress;
pub use listener::ConnectionLimit;
pub use listener::LimitReached;
pub use listener::Limits;
pub use listener::ListenAddress;
pub use listener::Listener;
pub use listener::ListenerConfig;
pub use listener::ServingChain;
pub use listener::Shares;
pub use listener::SocketOptions;
pub use listener::WorkerSocket;
pub use shutdown::Shutdown;
pub use shutdown::ShutdownStage;
pub use shutdown::ShutdownWatch;
pub use stats::ListenerStats;
pub use stream::Stream;
pub use timers::Timer;
pub use timers::Timers;
pub use watch::FileWatch;
pub use watch::FileWatches;
pub use worker::WorkerCx;

//! Response flags: why a stream ended as it did (`%RESPONSE_FLAGS%`).
//!
//! The flags of one stream print in the order in which they were set, as in Envoy.

use std::fmt;

use smallvec::SmallVec;

macro_rules! response_flags {
    ($($(#[$doc:meta])* $name:ident = $short:literal,)*) => {
        /// One response flag (`envoy.data.accesslog.v3.ResponseFlags`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ResponseFlag {
            $($(#[$doc])* $name,)*
        }

        impl ResponseFlag {
            /// Every flag, in Envoy's order.
            pub const ALL: &'static [ResponseFlag] = &[$(ResponseFlag::$name,)*];

            /// The short form, such as `UH` (`%RESPONSE_FLAGS%`).
            #[must_use]
            pub fn short(self) -> &'static str {
                match self {
                    $(ResponseFlag::$name => $short,)*
                }
            }

            /// The long form, such as `NoHealthyUpstream` (`%RESPONSE_FLAGS_LONG%`).
            #[must_use]
            pub fn long(self) -> &'static str {
                match self {
                    $(ResponseFlag::$name => stringify!($name),)*
                }
            }
        }
    };
}

response_flags! {
    /// The local health check failed.
    FailedLocalHealthCheck = "LH",
    /// The cluster had no healthy host.
    NoHealthyUpstream = "UH",
    /// The route's timeout passed.
    UpstreamRequestTimeout = "UT",
    /// The proxy reset the upstream stream.
    LocalReset = "LR",
    /// The upstream reset the stream.
    UpstreamRemoteReset = "UR",
    /// No connection to the host could be made.
    UpstreamConnectionFailure = "UF",
    /// The upstream closed the connection.
    UpstreamConnectionTermination = "UC",
    /// A circuit breaker refused the request.
    UpstreamOverflow = "UO",
    /// No route matched.
    NoRouteFound = "NR",
    /// A delay was injected.
    DelayInjected = "DI",
    /// A fault was injected.
    FaultInjected = "FI",
    /// Rate limited.
    RateLimited = "RL",
    /// External authorization refused the request.
    UnauthorizedExternalService = "UAEX",
    /// The rate limit service failed.
    RateLimitServiceError = "RLSE",
    /// The client went away.
    DownstreamConnectionTermination = "DC",
    /// The retry limit was reached.
    UpstreamRetryLimitExceeded = "URX",
    /// The stream was idle for its idle timeout.
    StreamIdleTimeout = "SI",
    /// An `x-envoy-*` header held no valid value.
    InvalidEnvoyRequestHeaders = "IH",
    /// The client broke the protocol.
    DownstreamProtocolError = "DPE",
    /// The upstream stream reached its maximum duration.
    UpstreamMaxStreamDurationReached = "UMSDR",
    /// Answered from a cache.
    ResponseFromCacheFilter = "RFCF",
    /// A filter's configuration was missing.
    NoFilterConfigFound = "NFCF",
    /// The stream reached its maximum duration.
    DurationTimeout = "DT",
    /// The upstream broke the protocol.
    UpstreamProtocolError = "UPE",
    /// The route's cluster does not exist.
    NoClusterFound = "NC",
    /// The overload manager refused the request.
    OverloadManager = "OM",
    /// A name did not resolve.
    DnsResolutionFailed = "DF",
    /// Dropped by `drop_overloads`.
    DropOverLoad = "DO",
    /// The client reset the stream.
    DownstreamRemoteReset = "DR",
    /// Dropped by an unconditional `drop_overloads`.
    UnconditionalDropOverload = "UDO",
}

/// The flags of one stream, in the order they were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags(SmallVec<[ResponseFlag; 8]>);

impl ResponseFlags {
    /// Sets `flag`, if it is not set yet.
    pub fn set(&mut self, flag: ResponseFlag) {
        if !self.has(flag) {
            self.0.push(flag);
        }
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(&self, flag: ResponseFlag) -> bool {
        self.0.contains(&flag)
    }

    /// Whether no flag is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The flags, in the order they were set.
    pub fn iter(&self) -> impl Iterator<Item = ResponseFlag> {
        self.0.iter().copied()
    }
}

/// `UF,URX`, or `-` when nothing is set.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (at, flag) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_each_flag_once_in_the_order_of_setting() {
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.to_string(), "-");
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        flags.set(ResponseFlag::UpstreamConnectionFailure);
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        assert_eq!(flags.to_string(), "URX,UF");
    }

    #[test]
    fn names_are_unique() {
        for (at, flag) in ResponseFlag::ALL.iter().enumerate() {
            assert!(
                ResponseFlag::ALL[at + 1..]
                    .iter()
                    .all(|other| other.short() != flag.short())
            );
        }
        assert_eq!(ResponseFlag::NoHealthyUpstream.long(), "NoHealthyUpstream");
    }
}

//! Access log filters: which streams a log writes (`envoy.config.accesslog.v3.AccessLogFilter`).

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::accesslog::v3 as api;
use outrider_config::api::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use outrider_config::api::envoy::config::accesslog::v3::comparison_filter::Op;
use outrider_runtime::Fraction;
use outrider_runtime::RuntimeNumber;
use outrider_runtime::Snapshot;

use crate::Captures;
use crate::ResponseFlag;
use crate::Stream;
use crate::format::capture_grpc_status;
use crate::format::grpc_status;
use outrider_matching::HeaderMatcher;

/// An access log filter.
#[derive(Debug)]
pub(crate) enum AccessLogFilter {
    StatusCode(Comparison),
    /// Compares the duration in milliseconds.
    Duration(Comparison),
    LogType {
        types: Box<[i32]>,
        exclude: bool,
    },
    NotHealthCheck,
    /// Passes requests that are traced because another service asks for it.
    Traceable,
    Runtime {
        /// The default fraction, and the denominator for the runtime's numerator.
        share: Fraction,
        numerator: RuntimeNumber,
        /// Whether each log draws its own random number instead of using the stream's.
        independent: bool,
    },
    And(Box<[AccessLogFilter]>),
    Or(Box<[AccessLogFilter]>),
    Header(HeaderMatcher),
    /// Passes streams with one of these flags; an empty list passes streams with any flag.
    ResponseFlag(Box<[ResponseFlag]>),
    GrpcStatus {
        statuses: Box<[i64]>,
        exclude: bool,
    },
}

/// A comparison with a value that a runtime key may override.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    op: Op,
    value: RuntimeNumber,
}

impl AccessLogFilter {
    pub(crate) fn build(
        config: &api::AccessLogFilter,
        path: &FieldPath,
    ) -> Result<AccessLogFilter, ConfigErrors> {
        Ok(match &config.filter_specifier {
            Some(FilterSpecifier::StatusCodeFilter(filter)) => {
                AccessLogFilter::StatusCode(Comparison::build(filter.comparison.as_ref()))
            }
            Some(FilterSpecifier::DurationFilter(filter)) => {
                AccessLogFilter::Duration(Comparison::build(filter.comparison.as_ref()))
            }
            // No filter here answers health checks.
            Some(FilterSpecifier::NotHealthCheckFilter(_)) => AccessLogFilter::NotHealthCheck,
            Some(FilterSpecifier::TraceableFilter(_)) => AccessLogFilter::Traceable,
            Some(FilterSpecifier::RuntimeFilter(filter)) => {
                let share = Fraction::of(&filter.percent_sampled.unwrap_or_default());
                let default = share.numerator().into();
                AccessLogFilter::Runtime {
                    share,
                    numerator: RuntimeNumber::new(&filter.runtime_key, default),
                    independent: filter.use_independent_randomness,
                }
            }
            Some(FilterSpecifier::AndFilter(filter)) => {
                AccessLogFilter::And(build_all(&filter.filters, &path.field("and_filter"))?)
            }
            Some(FilterSpecifier::OrFilter(filter)) => {
                AccessLogFilter::Or(build_all(&filter.filters, &path.field("or_filter"))?)
            }
            Some(FilterSpecifier::HeaderFilter(filter)) => {
                let path = path.field("header_filter").field("header");
                let header = filter.header.clone().unwrap_or_default();
                AccessLogFilter::Header(HeaderMatcher::build(&header, &path)?)
            }
            Some(FilterSpecifier::ResponseFlagFilter(filter)) => AccessLogFilter::ResponseFlag(
                response_flags(&filter.flags, &path.field("response_flag_filter"))?,
            ),
            Some(FilterSpecifier::GrpcStatusFilter(filter)) => AccessLogFilter::GrpcStatus {
                statuses: filter
                    .statuses
                    .iter()
                    .map(|status| i64::from(*status))
                    .collect(),
                exclude: filter.exclude,
            },
            Some(FilterSpecifier::LogTypeFilter(filter)) => AccessLogFilter::LogType {
                types: filter.types.as_slice().into(),
                exclude: filter.exclude,
            },
            Some(FilterSpecifier::MetadataFilter(_) | FilterSpecifier::ExtensionFilter(_))
            | None => return Err(ConfigErrors::from(ConfigError::new(path, "not supported"))),
        })
    }

    /// Whether `stream` is to be logged.
    pub(crate) fn passes(&self, stream: &Stream) -> bool {
        match self {
            AccessLogFilter::StatusCode(comparison) => {
                comparison.holds(stream.response_code().into(), stream.runtime())
            }
            AccessLogFilter::Duration(comparison) => {
                let milliseconds = u64::try_from(stream.duration().as_millis());
                comparison.holds(milliseconds.unwrap_or(u64::MAX), stream.runtime())
            }
            AccessLogFilter::LogType { types, exclude } => {
                types.contains(&stream.log_type.into()) != *exclude
            }
            AccessLogFilter::NotHealthCheck => !stream.is_health_check,
            AccessLogFilter::Traceable => {
                let trace = stream.trace.as_ref();
                !stream.is_health_check && trace.is_some_and(|trace| trace.is_forced())
            }
            AccessLogFilter::Runtime {
                share,
                numerator,
                independent,
            } => share
                .with_numerator(numerator.value(stream.runtime()))
                .holds(if *independent {
                    fastrand::u64(..)
                } else {
                    stream.id
                }),
            AccessLogFilter::And(filters) => filters.iter().all(|filter| filter.passes(stream)),
            AccessLogFilter::Or(filters) => filters.iter().any(|filter| filter.passes(stream)),
            AccessLogFilter::Header(header) => header.matches(&stream.request),
            AccessLogFilter::ResponseFlag(flags) if flags.is_empty() => !stream.flags.is_empty(),
            AccessLogFilter::ResponseFlag(flags) => {
                flags.iter().any(|flag| stream.flags.has(*flag))
            }
            AccessLogFilter::GrpcStatus { statuses, exclude } => {
                // A stream without a response has the status UNKNOWN.
                let status = grpc_status(stream).unwrap_or(2);
                statuses.contains(&status) != *exclude
            }
        }
    }

    /// Adds the headers that this filter reads.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        match self {
            AccessLogFilter::And(filters) | AccessLogFilter::Or(filters) => {
                for filter in filters {
                    filter.capture(captures);
                }
            }
            AccessLogFilter::GrpcStatus { .. } => capture_grpc_status(captures),
            _ => {}
        }
    }
}

fn build_all(
    config: &[api::AccessLogFilter],
    path: &FieldPath,
) -> Result<Box<[AccessLogFilter]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut filters = Vec::with_capacity(config.len());
    for (at, filter) in config.iter().enumerate() {
        let path = path.field("filters").index(at);
        filters.extend(errors.collect(AccessLogFilter::build(filter, &path)));
    }
    errors.finish(filters.into())
}

fn response_flags(names: &[String], path: &FieldPath) -> Result<Box<[ResponseFlag]>, ConfigError> {
    let flags = names.iter().enumerate().map(|(at, name)| {
        let known = ResponseFlag::ALL.iter().find(|flag| flag.short() == name);
        known.copied().ok_or_else(|| {
            let path = path.field("flags").index(at);
            ConfigError::new(&path, format!("no such response flag: {name}"))
        })
    });
    flags.collect()
}

impl Comparison {
    fn build(config: Option<&api::ComparisonFilter>) -> Comparison {
        let value = config.and_then(|config| config.value.as_ref());
        Comparison {
            op: config.map_or(Op::Eq, api::ComparisonFilter::op),
            value: value.map_or_else(|| RuntimeNumber::new("", 0), RuntimeNumber::of),
        }
    }

    fn holds(&self, value: u64, runtime: Option<&Snapshot>) -> bool {
        let limit = self.value.value(runtime);
        match self.op {
            Op::Eq => value == limit,
            Op::Ge => value >= limit,
            Op::Le => value <= limit,
            Op::Ne => value != limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::GrpcStatusFilter;
    use api::LogTypeFilter;
    use api::ResponseFlagFilter;
    use api::StatusCodeFilter;
    use outrider_config::api::envoy::config::core::v3::RuntimeUInt32;
    use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;

    use super::*;
    use crate::route::tests::head;
    use crate::route::tests::respond;
    use crate::route::tests::stream;

    fn passes(specifier: FilterSpecifier, stream: &Stream) -> bool {
        let config = api::AccessLogFilter {
            filter_specifier: Some(specifier),
        };
        AccessLogFilter::build(&config, &FieldPath::root())
            .unwrap()
            .passes(stream)
    }

    fn status(op: Op, value: u32) -> FilterSpecifier {
        let value = RuntimeUInt32 {
            default_value: value,
            ..Default::default()
        };
        FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(api::ComparisonFilter {
                op: op.into(),
                value: Some(value),
            }),
        })
    }

    fn ended(status: u16, headers: &[(&str, &str)]) -> Stream {
        let mut stream = stream(head("GET", "h", "/", &[("x-a", "v")]));
        respond(&mut stream, status, headers);
        stream
    }

    #[test]
    fn comparisons_are_with_the_status() {
        for (op, value, expected) in [
            (Op::Eq, 404, true),
            (Op::Ge, 400, true),
            (Op::Ge, 405, false),
            (Op::Le, 403, false),
            (Op::Ne, 404, false),
        ] {
            assert_eq!(
                passes(status(op, value), &ended(404, &[])),
                expected,
                "{op:?} {value}"
            );
        }
    }

    /// As Envoy 1.40.0 did with these filters.
    #[test]
    fn every_stream_has_a_grpc_status() {
        let filter = |statuses: &[i32], exclude| {
            FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
                statuses: statuses.to_vec(),
                exclude,
            })
        };
        let ok = ended(200, &[("grpc-status", "0")]);
        let plain = ended(200, &[]);
        let missing = ended(404, &[]);
        let odd = ended(200, &[("grpc-status", "abc")]);
        for (statuses, exclude, expected) in [
            (&[0][..], false, [true, false, false, false]),
            (&[12], false, [false, false, true, false]),
            (&[2], false, [false, true, false, false]),
            (&[0], true, [false, true, true, true]),
            (&[], false, [false, false, false, false]),
        ] {
            let results =
                [&ok, &plain, &missing, &odd].map(|s| passes(filter(statuses, exclude), s));
            assert_eq!(results, expected, "{statuses:?} {exclude}");
        }
    }

    #[test]
    fn flags_types_and_combinations() {
        let flags = |flags: &[&str]| {
            FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
                flags: flags.iter().copied().map(str::to_owned).collect(),
            })
        };
        let mut flagged = ended(404, &[]);
        flagged.flags.set(ResponseFlag::NoRouteFound);
        let plain = ended(200, &[]);
        assert!(passes(flags(&[]), &flagged) && !passes(flags(&[]), &plain));
        assert!(passes(flags(&["UH", "NR"]), &flagged) && !passes(flags(&["UH"]), &flagged));
        let log_type = |types: &[AccessLogType], exclude| {
            FilterSpecifier::LogTypeFilter(LogTypeFilter {
                types: types.iter().map(|kind| (*kind).into()).collect(),
                exclude,
            })
        };
        assert!(passes(
            log_type(&[AccessLogType::DownstreamEnd], false),
            &plain
        ));
        assert!(!passes(
            log_type(&[AccessLogType::DownstreamEnd], true),
            &plain
        ));
        assert!(!passes(log_type(&[], false), &plain));
        let both = [status(Op::Eq, 404), flags(&["UH"])].map(|specifier| api::AccessLogFilter {
            filter_specifier: Some(specifier),
        });
        let and = api::AndFilter {
            filters: both.to_vec(),
        };
        let or = api::OrFilter {
            filters: both.to_vec(),
        };
        assert!(!passes(FilterSpecifier::AndFilter(and), &flagged));
        assert!(passes(FilterSpecifier::OrFilter(or), &flagged));
    }
}

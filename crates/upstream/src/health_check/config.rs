//! The health check settings of a cluster (`envoy.config.core.v3.HealthCheck`).

use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::Target;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::config::core::v3::HealthCheck;
use outrider_config::api::envoy::config::core::v3::ProxyProtocolConfig;
use outrider_config::api::envoy::config::core::v3::RequestMethod;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrider_config::api::envoy::config::core::v3::health_check::GrpcHealthCheck;
use outrider_config::api::envoy::config::core::v3::health_check::HealthChecker;
use outrider_config::api::envoy::config::core::v3::health_check::HttpHealthCheck;
use outrider_config::api::envoy::config::core::v3::health_check::TcpHealthCheck;
pub(super) use outrider_config::api::envoy::config::core::v3::proxy_protocol_config::Version as ProxyVersion;
use outrider_config::api::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use outrider_config::api::envoy::r#type::v3::CodecClientType;
use outrider_config::api::envoy::r#type::v3::Int64Range;
use outrider_config::duration;
use outrider_config::string_matcher::StringMatcher;
use outrider_config::unpack;
use prost_types::Struct;

use super::events::EventFile;
use super::events::EventFiles;
use super::payload;

/// How the hosts of a cluster are checked.
#[derive(Debug)]
pub(crate) struct HealthCheckConfig {
    pub(super) kind: CheckKind,
    /// `timeout`
    pub(super) timeout: Duration,
    /// `interval`
    pub(super) interval: Duration,
    /// `initial_jitter`
    pub(super) initial_jitter: Duration,
    /// `interval_jitter`
    pub(super) interval_jitter: Duration,
    /// `interval_jitter_percent`
    pub(super) interval_jitter_percent: u32,
    /// `no_traffic_interval`
    pub(super) no_traffic_interval: Duration,
    /// `no_traffic_healthy_interval`
    pub(super) no_traffic_healthy_interval: Duration,
    /// `unhealthy_interval`
    pub(super) unhealthy_interval: Duration,
    /// `unhealthy_edge_interval`
    pub(super) unhealthy_edge_interval: Duration,
    /// `healthy_edge_interval`
    pub(super) healthy_edge_interval: Duration,
    /// `unhealthy_threshold`
    pub(super) unhealthy_threshold: u32,
    /// `healthy_threshold`
    pub(super) healthy_threshold: u32,
    /// `reuse_connection`
    pub(super) reuse_connection: bool,
    /// `tls_options.alpn_protocols`
    pub(super) alpn: Vec<String>,
    /// `transport_socket_match_criteria`
    pub(super) transport_socket_match_criteria: Option<Struct>,
    /// `event_log_path` and the file sinks of `event_logger`.
    pub(super) events: Vec<Arc<dyn EventFile>>,
    /// `always_log_health_check_failures`
    pub(super) always_log_failures: bool,
    /// `always_log_health_check_success`
    pub(super) always_log_success: bool,
}

/// The kind of check.
#[derive(Debug)]
pub(super) enum CheckKind {
    Http(Box<HttpCheck>),
    Grpc(GrpcCheck),
    Tcp(TcpCheck),
}

/// `HttpHealthCheck`
#[derive(Debug)]
pub(super) struct HttpCheck {
    /// `host`; empty if it is not set.
    pub(super) host: String,
    /// `path`
    pub(super) path: Target,
    /// `method`
    pub(super) method: Method,
    /// `send`
    pub(super) payload: Bytes,
    /// `receive`
    pub(super) receive: Vec<Vec<u8>>,
    /// `response_buffer_size`, bytes; 0 for no limit.
    pub(super) response_buffer_size: usize,
    /// `request_headers_to_add`, `request_headers_to_remove`
    pub(super) headers: HeaderChanges,
    /// `expected_statuses`
    pub(super) expected: StatusRanges,
    /// `retriable_statuses`
    pub(super) retriable: StatusRanges,
    /// `codec_client_type`
    pub(super) http2: bool,
    /// `service_name_matcher`
    pub(super) service_name: Option<StringMatcher>,
}

/// `GrpcHealthCheck`
#[derive(Debug)]
pub(super) struct GrpcCheck {
    /// `service_name`
    pub(super) service_name: String,
    /// `authority`; empty if it is not set.
    pub(super) authority: String,
    /// `initial_metadata`
    pub(super) initial_metadata: HeaderChanges,
}

/// `TcpHealthCheck`
#[derive(Debug)]
pub(super) struct TcpCheck {
    /// `proxy_protocol_config`
    pub(super) proxy_header: Option<ProxyVersion>,
    /// `send`
    pub(super) send: Vec<u8>,
    /// `receive`
    pub(super) receive: Vec<Vec<u8>>,
}

/// Ranges of statuses, each without its end.
#[derive(Debug)]
pub(super) struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    pub(super) fn contains(&self, status: u16) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|(start, end)| (*start..*end).contains(&status))
    }
}

impl HealthCheckConfig {
    /// The only one of the `checks` of a cluster, found at `path`. `grpc` tells whether the cluster can speak HTTP/2.
    pub(crate) fn build(
        checks: &[HealthCheck],
        path: &FieldPath,
        cluster: &str,
        grpc: bool,
        files: &dyn EventFiles,
    ) -> Result<Option<Arc<HealthCheckConfig>>, ConfigErrors> {
        let message = match checks {
            [] => return Ok(None),
            [only] => only,
            [_, ..] => {
                let message = "more than one health check needs names for them, which are not supported: expected one";
                return Err(ConfigError::new(&path.index(1), message).into());
            }
        };
        let path = path.index(0);
        let mut errors = ConfigErrors::new();
        let kind = errors.collect(kind(message, &path, cluster, grpc));
        let events = errors.collect(events(message, &path, files));
        let times = errors.collect(Times::build(message, &path));
        let (Some(kind), Some(events), Some(times)) = (kind, events, times) else {
            return Err(errors);
        };
        let tls = message.tls_options.as_ref();
        let built = HealthCheckConfig {
            kind,
            timeout: times.timeout,
            interval: times.interval,
            initial_jitter: times.initial_jitter,
            interval_jitter: times.interval_jitter,
            interval_jitter_percent: message.interval_jitter_percent,
            no_traffic_interval: times.no_traffic,
            no_traffic_healthy_interval: times.no_traffic_healthy,
            unhealthy_interval: times.unhealthy,
            unhealthy_edge_interval: times.unhealthy_edge,
            healthy_edge_interval: times.healthy_edge,
            unhealthy_threshold: message.unhealthy_threshold.unwrap_or_default(),
            healthy_threshold: message.healthy_threshold.unwrap_or_default(),
            reuse_connection: message.reuse_connection.unwrap_or(true),
            alpn: tls.map_or_else(Vec::new, |tls| tls.alpn_protocols.clone()),
            transport_socket_match_criteria: message.transport_socket_match_criteria.clone(),
            events,
            always_log_failures: message.always_log_health_check_failures,
            always_log_success: message.always_log_health_check_success,
        };
        errors.finish(Some(Arc::new(built)))
    }
}

impl CheckKind {
    /// `envoy.data.core.v3.HealthCheckerType`
    pub(super) fn checker_type(&self) -> &'static str {
        match self {
            CheckKind::Http(_) => "HTTP",
            CheckKind::Grpc(_) => "GRPC",
            CheckKind::Tcp(_) => "TCP",
        }
    }
}

/// All durations of a check.
struct Times {
    timeout: Duration,
    interval: Duration,
    initial_jitter: Duration,
    interval_jitter: Duration,
    no_traffic: Duration,
    no_traffic_healthy: Duration,
    unhealthy: Duration,
    unhealthy_edge: Duration,
    healthy_edge: Duration,
}

/// `no_traffic_interval` when it is not set.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);

impl Times {
    fn build(message: &HealthCheck, path: &FieldPath) -> Result<Times, ConfigError> {
        let read = |value: &Option<_>, name| duration::optional(value.as_ref(), &path.field(name));
        let timeout = read(&message.timeout, "timeout")?.unwrap_or_default();
        let interval = read(&message.interval, "interval")?.unwrap_or_default();
        let no_traffic = read(&message.no_traffic_interval, "no_traffic_interval")?;
        let no_traffic = no_traffic.unwrap_or(NO_TRAFFIC_INTERVAL);
        let healthy = &message.no_traffic_healthy_interval;
        let no_traffic_healthy = read(healthy, "no_traffic_healthy_interval")?;
        let unhealthy = read(&message.unhealthy_interval, "unhealthy_interval")?;
        let unhealthy = unhealthy.unwrap_or(interval);
        let unhealthy_edge = read(&message.unhealthy_edge_interval, "unhealthy_edge_interval")?;
        let healthy_edge = read(&message.healthy_edge_interval, "healthy_edge_interval")?;
        Ok(Times {
            timeout,
            interval,
            initial_jitter: read(&message.initial_jitter, "initial_jitter")?.unwrap_or_default(),
            interval_jitter: read(&message.interval_jitter, "interval_jitter")?.unwrap_or_default(),
            no_traffic,
            no_traffic_healthy: no_traffic_healthy.unwrap_or(no_traffic),
            unhealthy,
            unhealthy_edge: unhealthy_edge.unwrap_or(unhealthy),
            healthy_edge: healthy_edge.unwrap_or(interval),
        })
    }
}

fn kind(
    message: &HealthCheck,
    path: &FieldPath,
    cluster: &str,
    grpc: bool,
) -> Result<CheckKind, ConfigErrors> {
    match &message.health_checker {
        Some(HealthChecker::HttpHealthCheck(check)) => {
            http(check, &path.field("http_health_check"))
                .map(|check| CheckKind::Http(Box::new(check)))
        }
        Some(HealthChecker::TcpHealthCheck(check)) => {
            Ok(CheckKind::Tcp(tcp(check, &path.field("tcp_health_check"))?))
        }
        Some(HealthChecker::GrpcHealthCheck(check)) => {
            let path = path.field("grpc_health_check");
            if !grpc {
                let message =
                    format!("{cluster} cluster must support HTTP/2 for gRPC healthchecking");
                return Err(ConfigError::new(&path, message).into());
            }
            Ok(CheckKind::Grpc(grpc_check(check, &path)?))
        }
        Some(HealthChecker::CustomHealthCheck(check)) => {
            let message = format!("{} is not supported", check.name);
            Err(ConfigError::new(&path.field("custom_health_check"), message).into())
        }
        None => {
            let message = "expected http_health_check, tcp_health_check or grpc_health_check";
            Err(ConfigError::new(path, message).into())
        }
    }
}

fn http(message: &HttpHealthCheck, path: &FieldPath) -> Result<HttpCheck, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let target = Target::try_from(message.path.as_str())
        .map_err(|_| ConfigError::new(&path.field("path"), "expected a path"));
    let target = errors.collect(target);
    let method = match message.method() {
        RequestMethod::MethodUnspecified | RequestMethod::Get => Method::GET,
        RequestMethod::Head => Method::HEAD,
        RequestMethod::Post => Method::POST,
        RequestMethod::Put => Method::PUT,
        RequestMethod::Delete => Method::DELETE,
        RequestMethod::Connect => Method::CONNECT,
        RequestMethod::Options => Method::OPTIONS,
        RequestMethod::Trace => Method::TRACE,
        RequestMethod::Patch => Method::PATCH,
    };
    let send = errors.collect(http_payload(message, &method, &path.field("send")));
    let receive = errors.collect(payload::all(&message.receive, &path.field("receive")));
    let size = message.response_buffer_size.unwrap_or(1024);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let total = receive.iter().flatten().map(Vec::len).sum::<usize>();
    if size != 0 && total > size {
        let message = format!(
            "The expected response length '{total}' is over than http health response buffer size '{size}'"
        );
        errors.push(&path.field("receive"), message);
    }
    let headers = errors.collect(HeaderChanges::build(
        (
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
        ),
        (
            &path.field("request_headers_to_add"),
            &path.field("request_headers_to_remove"),
        ),
    ));
    let ranges = |ranges: &[Int64Range], name: &'static str, word: &str| {
        status_ranges(ranges, &path.field(name), word)
    };
    let expected = ranges(&message.expected_statuses, "expected_statuses", "expected");
    let expected = errors.collect(expected);
    let retriable = ranges(
        &message.retriable_statuses,
        "retriable_statuses",
        "retriable",
    );
    let retriable = errors.collect(retriable);
    let matcher = message.service_name_matcher.as_ref();
    let matcher = matcher.map(|m| StringMatcher::build(m, &path.field("service_name_matcher")));
    let service_name = errors.collect(matcher.transpose());
    let (Some(path), Some(payload), Some(receive), Some(headers)) =
        (target, send, receive, headers)
    else {
        return Err(errors);
    };
    let (Some(mut expected), Some(retriable), Some(service_name)) =
        (expected, retriable, service_name)
    else {
        return Err(errors);
    };
    if expected.0.is_empty() {
        expected.0.push((200, 201));
    }
    errors.finish(HttpCheck {
        host: message.host.clone(),
        path,
        method,
        payload: payload.into(),
        receive,
        response_buffer_size: size,
        headers,
        expected,
        retriable,
        http2: message.codec_client_type() == CodecClientType::Http2,
        service_name,
    })
}

/// `send`, which only methods with a body may have.
fn http_payload(
    message: &HttpHealthCheck,
    method: &Method,
    path: &FieldPath,
) -> Result<Vec<u8>, ConfigError> {
    let Some(send) = &message.send else {
        return Ok(Vec::new());
    };
    if matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE
    ) {
        let message = format!(
            "HTTP health check cannot specify a request payload with method '{method}'. Only methods that support a \
             request body (POST, PUT, PATCH, OPTIONS) can be used with payload."
        );
        return Err(ConfigError::new(path, message));
    }
    payload::bytes(send, path)
}

fn tcp(message: &TcpHealthCheck, path: &FieldPath) -> Result<TcpCheck, ConfigError> {
    let send = match &message.send {
        Some(send) => payload::bytes(send, &path.field("send"))?,
        None => Vec::new(),
    };
    let proxy = message.proxy_protocol_config.as_ref();
    Ok(TcpCheck {
        proxy_header: proxy.map(ProxyProtocolConfig::version),
        send,
        receive: payload::all(&message.receive, &path.field("receive"))?,
    })
}

fn grpc_check(message: &GrpcHealthCheck, path: &FieldPath) -> Result<GrpcCheck, ConfigErrors> {
    let path = path.field("initial_metadata");
    Ok(GrpcCheck {
        service_name: message.service_name.clone(),
        authority: message.authority.clone(),
        initial_metadata: HeaderChanges::build((&message.initial_metadata, &[]), (&path, &path))?,
    })
}

fn status_ranges(
    ranges: &[Int64Range],
    path: &FieldPath,
    word: &str,
) -> Result<StatusRanges, ConfigError> {
    let mut built = Vec::with_capacity(ranges.len());
    for (index, Int64Range { start, end }) in ranges.iter().enumerate() {
        let wrong = |message| Err(ConfigError::new(&path.index(index), message));
        if start >= end {
            return wrong(format!(
                "Invalid http {word} status range: expecting start < end, but found start={start} and end={end}"
            ));
        }
        if *start < 100 {
            return wrong(format!(
                "Invalid http {word} status range: expecting start >= 100, but found start={start}"
            ));
        }
        match (u16::try_from(*start), u16::try_from(*end)) {
            (Ok(start), Ok(end)) if end <= 600 => built.push((start, end)),
            _ => {
                return wrong(format!(
                    "Invalid http {word} status range: expecting end <= 600, but found end={end}"
                ));
            }
        }
    }
    Ok(StatusRanges(built))
}

/// The files of `event_log_path` and of the sinks of `event_logger`.
fn events(
    message: &HealthCheck,
    path: &FieldPath,
    files: &dyn EventFiles,
) -> Result<Vec<Arc<dyn EventFile>>, ConfigError> {
    #[expect(deprecated, reason = "an old but live field")]
    let old = &message.event_log_path;
    let mut events = Vec::new();
    let mut open = |name: &str, path: &FieldPath| -> Result<(), ConfigError> {
        let file = files.open(name);
        events.push(file.map_err(|error| ConfigError::new(path, error))?);
        Ok(())
    };
    if !old.is_empty() {
        open(old, &path.field("event_log_path"))?;
    }
    for (index, logger) in message.event_logger.iter().enumerate() {
        if let Some(config) = &logger.typed_config {
            let path = path
                .field("event_logger")
                .index(index)
                .field("typed_config");
            let sink: HealthCheckEventFileSink = unpack(config, &path)?;
            open(&sink.event_log_path, &path.field("event_log_path"))?;
        }
    }
    Ok(events)
}

/// Changes of the headers of a check's request.
#[derive(Debug)]
pub(super) struct HeaderChanges {
    remove: Vec<HeaderName>,
    add: Vec<CheckHeader>,
}

#[derive(Debug)]
struct CheckHeader {
    name: HeaderName,
    value: HeaderValue,
    action: HeaderAppendAction,
}

impl HeaderChanges {
    fn build(
        (add, remove): (&[HeaderValueOption], &[String]),
        (add_path, remove_path): (&FieldPath, &FieldPath),
    ) -> Result<HeaderChanges, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut additions = Vec::with_capacity(add.len());
        for (index, option) in add.iter().enumerate() {
            let built = CheckHeader::build(option, &add_path.index(index));
            additions.extend(errors.collect(built).flatten());
        }
        let mut removals = Vec::with_capacity(remove.len());
        for (index, name) in remove.iter().enumerate() {
            let path = remove_path.index(index);
            removals.extend(errors.collect(changeable(name, &path, "removed")));
        }
        errors.finish(HeaderChanges {
            remove: removals,
            add: additions,
        })
    }

    /// Makes the changes: removes first, then overwrites, then appends.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        use HeaderAppendAction::AddIfAbsent;
        use HeaderAppendAction::AppendIfExistsOrAdd;
        use HeaderAppendAction::OverwriteIfExists;
        use HeaderAppendAction::OverwriteIfExistsOrAdd;
        for name in &self.remove {
            headers.remove(name);
        }
        let existed: Vec<bool> = (self.add.iter())
            .map(|addition| headers.contains_key(&addition.name))
            .collect();
        for (addition, existed) in self.add.iter().zip(&existed) {
            match addition.action {
                OverwriteIfExistsOrAdd => {}
                OverwriteIfExists if *existed => {}
                _ => continue,
            }
            headers.remove(&addition.name);
            headers.append(&addition.name, addition.value.clone());
        }
        for (addition, existed) in self.add.iter().zip(existed) {
            match addition.action {
                AppendIfExistsOrAdd => {}
                AddIfAbsent if !existed => {}
                _ => continue,
            }
            headers.append(&addition.name, addition.value.clone());
        }
    }
}

impl CheckHeader {
    /// None for an empty value that is not to be kept.
    fn build(
        option: &HeaderValueOption,
        path: &FieldPath,
    ) -> Result<Option<CheckHeader>, ConfigError> {
        let header = option.header.as_ref();
        let header =
            header.ok_or_else(|| ConfigError::new(&path.field("header"), "value is required"))?;
        let path = path.field("header");
        let value_path = path.field("value");
        let text = header.value.replace("%%", "\0");
        if text.contains('%') {
            let message = "substitution commands are not supported in the headers of health checks";
            return Err(ConfigError::new(&value_path, message));
        }
        let value = HeaderValue::try_from(text.replace('\0', "%"));
        let value = value.map_err(|_| ConfigError::new(&value_path, "not a header value"))?;
        #[expect(deprecated, reason = "Envoy still reads append")]
        let action = match option.append {
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
            _ => option.append_action(),
        };
        let addition = CheckHeader {
            name: changeable(&header.key, &path.field("key"), "modified")?,
            value,
            action,
        };
        Ok((option.keep_empty_value || !header.value.is_empty()).then_some(addition))
    }
}

/// The name of a header that may be changed.
fn changeable(name: &str, path: &FieldPath, verb: &str) -> Result<HeaderName, ConfigError> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        let message = format!(":-prefixed or host headers may not be {verb}");
        return Err(ConfigError::new(path, message));
    }
    name.parse()
        .map_err(|_| ConfigError::new(path, format!("{name:?} is not supported as a header name")))
}

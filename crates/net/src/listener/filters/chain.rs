//! The listener filters of a listener, in their order.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3 as api;
use outrider_config::api::envoy::config::listener::v3::listener_filter::ConfigType;
use outrider_config::duration;

use super::FACTORIES;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use super::disabled::DisablingMatch;
use super::inspected::PeekError;
use super::inspected::PeekedBytes;
use super::tls_inspector;
use crate::NetworkStream;
use crate::WorkerCx;
use crate::stats::ListenerStats;

/// The default of `listener_filters_timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// The listener filters of a listener as configured, shared by all workers.
#[derive(Debug)]
pub(in crate::listener) struct ListenerFilters {
    filters: Vec<ConfiguredFilter>,
    /// `listener_filters_timeout`
    timeout: Option<Duration>,
    /// `continue_on_listener_filters_timeout`
    continues_after_timeout: bool,
}

#[derive(Debug)]
struct ConfiguredFilter {
    config: Arc<dyn ListenerFilterConfig>,
    /// `filter_disabled`
    disabled: Option<Arc<DisablingMatch>>,
}

impl ListenerFilters {
    /// Reads the filters of the listener at `path`.
    pub(in crate::listener) fn build(
        listener: &api::Listener,
        path: &FieldPath,
    ) -> Result<ListenerFilters, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let timeout = duration::optional(
            listener.listener_filters_timeout.as_ref(),
            &path.field("listener_filters_timeout"),
        );
        let timeout = errors.collect(timeout).flatten();
        let mut filters = Vec::new();
        for (index, filter) in listener.listener_filters.iter().enumerate() {
            let path = path.field("listener_filters").index(index);
            filters.extend(errors.collect(ConfiguredFilter::build(filter, &path)));
        }
        // As in Envoy, only where there are no other filters.
        if listener.listener_filters.is_empty() && needs_tls_inspector(listener) {
            log::warn!(
                target: "config",
                "{path}: filter chain match rules require TLS Inspector listener filter, but it isn't configured, trying to inject it"
            );
            filters.push(ConfiguredFilter {
                config: tls_inspector::by_default(),
                disabled: None,
            });
        }
        errors.finish(ListenerFilters {
            filters,
            timeout: Some(timeout.unwrap_or(DEFAULT_TIMEOUT)).filter(|time| !time.is_zero()),
            continues_after_timeout: listener.continue_on_listener_filters_timeout,
        })
    }

    /// The filters on a worker; `None` if there are none.
    pub(in crate::listener) fn worker(&self, cx: &WorkerCx) -> Option<ListenerFilterChain> {
        if self.filters.is_empty() {
            return None;
        }
        let filters = self.filters.iter().map(|filter| WorkerFilter {
            filter: filter.config.clone().worker(cx),
            disabled: filter.disabled.clone(),
        });
        Some(ListenerFilterChain {
            filters: filters.collect(),
            timeout: self.timeout,
            continues_after_timeout: self.continues_after_timeout,
        })
    }
}

impl ConfiguredFilter {
    fn build(
        filter: &api::ListenerFilter,
        path: &FieldPath,
    ) -> Result<ConfiguredFilter, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let config_path = path.field("typed_config");
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            let message = format!("is required for listener filter {}", filter.name);
            errors.push(&config_path, message);
            return Err(errors);
        };
        let disabled = filter.filter_disabled.as_ref();
        let disabled_path = path.field("filter_disabled");
        let disabled = disabled.map(|predicate| DisablingMatch::build(predicate, &disabled_path));
        let disabled = errors.collect(disabled.transpose()).flatten();
        let build = Factory::find(FACTORIES, "listener filter", any, &config_path)?;
        let Some(config) = errors.collect(build(any, &config_path)) else {
            return Err(errors);
        };
        errors.finish(ConfiguredFilter {
            config,
            disabled: disabled.map(Arc::new),
        })
    }
}

/// Whether a filter chain matches on properties that only the TLS inspector finds.
fn needs_tls_inspector(listener: &api::Listener) -> bool {
    let mut matches = (listener.filter_chains.iter()).filter_map(|c| c.filter_chain_match.as_ref());
    matches.any(|criteria| {
        let asks = !criteria.server_names.is_empty() || !criteria.application_protocols.is_empty();
        match criteria.transport_protocol.as_str() {
            "tls" => true,
            "" => asks,
            _ => false,
        }
    })
}

/// The listener filters of a listener, on one worker.
pub(in crate::listener) struct ListenerFilterChain {
    filters: Vec<WorkerFilter>,
    timeout: Option<Duration>,
    continues_after_timeout: bool,
}

struct WorkerFilter {
    filter: Box<dyn ListenerFilter>,
    disabled: Option<Arc<DisablingMatch>>,
}

/// The connection has to be closed. What the listener counts has been counted.
#[derive(Debug)]
pub(in crate::listener) struct InspectionFailure;

impl ListenerFilterChain {
    /// Runs the filters on a connection.
    pub(in crate::listener) async fn inspect(
        &self,
        stream: &mut NetworkStream,
        connection: &mut InspectedConnection,
        (stats, cx): (&ListenerStats, &WorkerCx),
    ) -> Result<(), InspectionFailure> {
        let inspected = {
            let inspecting = self.run(stream, connection, (stats, cx));
            let waiting = async {
                match self.timeout {
                    Some(timeout) => cx.timers.sleep(timeout).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                inspected = inspecting => Some(inspected),
                () = waiting => None,
            }
        };
        if let Some(inspected) = inspected {
            return inspected;
        }
        stats.downstream_pre_cx_timeout.inc();
        match self.continues_after_timeout && stream.reregister().is_ok() {
            true => Ok(()),
            false => Err(InspectionFailure),
        }
    }

    async fn run(
        &self,
        stream: &NetworkStream,
        connection: &mut InspectedConnection,
        (stats, cx): (&ListenerStats, &WorkerCx),
    ) -> Result<(), InspectionFailure> {
        let mut bytes = PeekedBytes::default();
        for WorkerFilter { filter, disabled } in &self.filters {
            if disabled
                .as_ref()
                .is_some_and(|rule| rule.matches(connection))
            {
                continue;
            }
            let mut seen = 0;
            let mut status = filter.on_accept(stream, connection, cx);
            loop {
                match status {
                    ListenerFilterStatus::Continue => break,
                    ListenerFilterStatus::Drain(count) => {
                        bytes.drain(stream, count).map_err(|_| InspectionFailure)?;
                        break;
                    }
                    ListenerFilterStatus::Read(max) => {
                        if let Err(error) = bytes.read_more(stream, seen, max).await {
                            match error {
                                PeekError::Ended => {
                                    stats.downstream_listener_filter_remote_close.inc();
                                }
                                PeekError::Failed => stats.downstream_listener_filter_error.inc(),
                            }
                            return Err(InspectionFailure);
                        }
                        let arrived = bytes.first(max);
                        seen = arrived.len();
                        status = filter.on_data(arrived, connection);
                    }
                    ListenerFilterStatus::Close => return Err(InspectionFailure),
                }
            }
        }
        Ok(())
    }
}

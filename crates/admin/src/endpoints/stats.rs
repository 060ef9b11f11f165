//! `/stats` and related endpoints.

use std::sync::Arc;

use outrider_config::re2;
use outrider_stats::StatKind;
use outrider_stats::StatsFilter;
use outrider_stats::Store;
use outrider_stats::render::HistogramFormat;
use outrider_stats::render::JsonRenderer;
use outrider_stats::render::PrometheusHistogramFormat;
use outrider_stats::render::PrometheusRenderer;
use outrider_stats::render::TextRenderer;

use super::Parameter;
use super::ParameterKind::Flag;
use super::ParameterKind::OneOf;
use super::ParameterKind::Text;
use super::home::escape;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;
use crate::response::HTML;
use crate::response::JSON;

const USED_ONLY: Parameter = Parameter {
    name: "usedonly",
    help: "Only include stats that have been written by system since restart",
    kind: Flag,
};
const FILTER: Parameter = Parameter {
    name: "filter",
    help: "Regular expression (Google re2) for filtering stats",
    kind: Text,
};
const INVERT_FILTER: Parameter = Parameter {
    name: "invert_filter",
    help: "Invert the filter regex",
    kind: Flag,
};

pub(super) const PARAMETERS: &[Parameter] = &[
    USED_ONLY,
    FILTER,
    INVERT_FILTER,
    Parameter {
        name: "format",
        help: "Format to use",
        kind: OneOf(&["html", "active-html", "text", "json"]),
    },
    Parameter {
        name: "type",
        help: "Stat types to include.",
        kind: OneOf(&["All", "Counters", "Histograms", "Gauges", "TextReadouts"]),
    },
    Parameter {
        name: "histogram_buckets",
        help: "Histogram bucket display mode",
        kind: OneOf(&["cumulative", "disjoint", "detailed", "summary"]),
    },
];

pub(super) const PROMETHEUS_PARAMETERS: &[Parameter] = &[
    USED_ONLY,
    Parameter {
        name: "text_readouts",
        help: "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)",
        kind: Flag,
    },
    FILTER,
    INVERT_FILTER,
    Parameter {
        name: "histogram_buckets",
        help: "Histogram bucket display mode",
        kind: OneOf(&["cumulative", "summary"]),
    },
];

pub(super) fn stats(request: &Request, admin: &Admin) -> AdminResponse {
    if request.parameter("format").as_deref() == Some("prometheus") {
        return prometheus(request, admin);
    }
    let filter = match filter(request) {
        Ok(filter) => filter,
        Err(refused) => return refused,
    };
    let histograms = match histogram_buckets(request) {
        Err(refused) => return refused,
        Ok(Buckets::PrometheusNative) => {
            let text = "Invalid histogram_buckets type for non prometheus stats type";
            return AdminResponse::error(400, text);
        }
        Ok(Buckets::Default) => HistogramFormat::Summary,
        Ok(Buckets::Shown(histograms)) => histograms,
    };
    let store = store(admin);
    let is_json = request.parameter("format").as_deref() == Some("json");
    if is_json {
        let json = move || JsonRenderer::new(store.clone(), store.snapshot(&filter), histograms);
        return AdminResponse::pieces(lazily(json)).with_type(JSON);
    }
    let text =
        lazily(move || TextRenderer::new(store.clone(), store.snapshot(&filter), histograms));
    match request.parameter("format").as_deref() {
        Some("html" | "active-html") => page(text),
        _ => AdminResponse::pieces(text),
    }
}

pub(super) fn prometheus(request: &Request, admin: &Admin) -> AdminResponse {
    let filter = match filter(request) {
        // As in Envoy, the type is checked, but all types are shown.
        Ok(filter) => StatsFilter {
            kind: None,
            ..filter
        },
        Err(refused) => return refused,
    };
    let histograms = match histogram_buckets(request) {
        Err(refused) => return refused,
        Ok(Buckets::Default | Buckets::Shown(HistogramFormat::Cumulative)) => {
            PrometheusHistogramFormat::Cumulative
        }
        Ok(Buckets::Shown(HistogramFormat::Summary)) => PrometheusHistogramFormat::Summary,
        Ok(Buckets::Shown(_)) => {
            return AdminResponse::error(400, "unsupported prometheus histogram bucket mode");
        }
        Ok(Buckets::PrometheusNative) => {
            return AdminResponse::error(
                400,
                "unsupported prometheusnative histogram type when not using protobuf exposition format",
            );
        }
    };
    let text_readouts = request.has("text_readouts");
    let store = store(admin);
    AdminResponse::pieces(lazily(move || {
        let snapshot = store.snapshot(&filter);
        PrometheusRenderer::new(store.clone(), snapshot, histograms, text_readouts)
    }))
}

fn store(admin: &Admin) -> Arc<Store> {
    if admin.config.flushes_on_request() {
        admin.store.flush();
    }
    admin.store.clone()
}

/// Takes the snapshot when the first piece is sent, so that it includes the request that asked for it, as in Envoy.
fn lazily<I: Iterator<Item = String>>(make: impl FnOnce() -> I) -> impl Iterator<Item = String> {
    std::iter::once_with(make).flatten()
}

fn filter(request: &Request) -> Result<StatsFilter, AdminResponse> {
    match request.parameter("format").as_deref() {
        None | Some("" | "text" | "json" | "html" | "active-html" | "prometheus") => {}
        Some(_) => {
            let text = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
            return Err(AdminResponse::error(400, text));
        }
    }
    let name = request.parameter("filter").filter(|f| !f.is_empty());
    let name = name.map(|pattern| re2::search(&pattern));
    let name = name
        .transpose()
        .map_err(|error| AdminResponse::error(400, format!("Invalid re2 regex: {error}")))?;
    let kind = match request.parameter("type").as_deref() {
        None | Some("" | "All") => None,
        Some("Counters") => Some(StatKind::Counter),
        Some("Gauges") => Some(StatKind::Gauge),
        Some("Histograms") => Some(StatKind::Histogram),
        Some("TextReadouts") => Some(StatKind::Text),
        Some(_) => return Err(AdminResponse::error(400, "invalid &type= param")),
    };
    match request.parameter("hidden").as_deref() {
        // There are no hidden stats.
        None | Some("" | "include" | "exclude") => {}
        Some("only") => return Err(AdminResponse::text("")),
        Some(_) => {
            let text = "usage: /stats?hidden=(include|only|exclude)\n\n";
            return Err(AdminResponse::error(400, text));
        }
    }
    Ok(StatsFilter {
        used_only: request.has("usedonly"),
        name,
        invert: request.has("invert_filter"),
        kind,
    })
}

/// `histogram_buckets`
enum Buckets {
    Default,
    Shown(HistogramFormat),
    PrometheusNative,
}

fn histogram_buckets(request: &Request) -> Result<Buckets, AdminResponse> {
    Ok(match request.parameter("histogram_buckets").as_deref() {
        None | Some("") => Buckets::Default,
        Some("summary" | "none") => Buckets::Shown(HistogramFormat::Summary),
        Some("cumulative") => Buckets::Shown(HistogramFormat::Cumulative),
        Some("disjoint") => Buckets::Shown(HistogramFormat::Disjoint),
        Some("detailed") => Buckets::Shown(HistogramFormat::Detailed),
        Some("prometheusnative") => Buckets::PrometheusNative,
        Some(_) => {
            return Err(AdminResponse::error(
                400,
                "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n",
            ));
        }
    })
}

/// The text as an HTML page, for browsers. Unlike Envoy's, it does not refresh itself.
fn page(text: impl Iterator<Item = String> + 'static) -> AdminResponse {
    let head = "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Envoy Admin</title></head>\n<body>\n<pre>\n";
    let head = std::iter::once(head.to_owned());
    let tail = std::iter::once("</pre>\n</body>\n</html>\n".to_owned());
    let pieces = head.chain(text.map(|piece| escape(&piece))).chain(tail);
    AdminResponse::pieces(pieces).with_type(HTML)
}

pub(super) fn reset_counters(_: &Request, admin: &Admin) -> AdminResponse {
    admin.store.reset_counters();
    AdminResponse::done()
}

/// Always empty: stats are fields, so no name is ever looked up.
pub(super) fn recent_lookups(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::text(
        "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n",
    )
}

pub(super) fn change_recent_lookups(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::done()
}

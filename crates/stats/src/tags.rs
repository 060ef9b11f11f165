//! Prometheus labels, extracted from the full dotted name as in Envoy.
//!
//! Envoy's built-in rules are a table that is applied by string matching; regular expressions are used only for
//! `stats_tags` entries that have one. A cluster called `a.b` gets the label `a` and leaves `b` in the name of the
//! metric: Envoy does the same, and dashboards rely on it.

use std::ops::Range;

use regex::Regex;

/// A name without its labels, and the labels in Envoy's order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// The dotted name that all stats of one metric share.
    pub(crate) name: String,
    /// Tag (dotted, such as `envoy.cluster_name`) and value.
    pub(crate) labels: Vec<(String, String)>,
}

/// Which labels to extract from names (`stats_config.stats_tags`, `use_all_default_tags`).
#[derive(Debug)]
pub(crate) struct TagRules {
    built_in: Vec<&'static BuiltInRule>,
    custom: Vec<CustomRule>,
    fixed: Vec<(String, String)>,
}

#[derive(Debug)]
struct CustomRule {
    tag: String,
    regex: Regex,
    /// The first word of the names that the expression can match, if it is fixed. Determines only the label's position.
    word: Option<String>,
}

#[derive(Debug)]
struct BuiltInRule {
    tag: &'static str,
    /// The first word of the names that the rule applies to. Labels of rules without one come first.
    word: Option<&'static str>,
    rule: TagRule,
}

enum TagRule {
    /// The words at the beginning of a name: `*` is any word, `$` the one that becomes the label.
    Words(&'static str),
    Special(fn(&str) -> Option<Extraction>),
}

impl std::fmt::Debug for TagRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Special(_) => f.write_str("special"),
        }
    }
}

/// What a rule extracts from a name.
struct Extraction {
    /// The bytes that are removed from the name.
    remove: Range<usize>,
    /// The bytes that become the label's value.
    value: Range<usize>,
}

impl Default for TagRules {
    fn default() -> Self {
        Self {
            built_in: BUILT_IN.iter().collect(),
            custom: Vec::new(),
            fixed: Vec::new(),
        }
    }
}

impl TagRules {
    /// Without built-in rules (`use_all_default_tags: false`).
    pub(crate) fn without_defaults() -> Self {
        Self {
            built_in: Vec::new(),
            ..Self::default()
        }
    }

    /// Whether Envoy has built-in rules for `tag`.
    pub(crate) fn is_built_in(tag: &str) -> bool {
        BUILT_IN.iter().any(|rule| rule.tag == tag) || UNUSED_TAGS.contains(&tag)
    }

    /// Adds the built-in rules for `tag`, if they are not there.
    pub(crate) fn add_built_in(&mut self, tag: &str) {
        if self.built_in.iter().all(|rule| rule.tag != tag) {
            let rules = BUILT_IN.iter().filter(|rule| rule.tag == tag);
            self.built_in.extend(rules);
        }
    }

    /// Removes the built-in rules for `tag` (`allow_default_tag_overrides`).
    pub(crate) fn remove_built_in(&mut self, tag: &str) {
        self.built_in.retain(|rule| rule.tag != tag);
    }

    /// Adds a label that `regex`, made from `pattern`, extracts: its first group is removed from the name, and its second group, or else the
    /// first, is the value.
    pub(crate) fn add_regex(&mut self, tag: &str, pattern: &str, regex: Regex) {
        self.custom.push(CustomRule {
            tag: tag.to_owned(),
            word: first_word(pattern),
            regex,
        });
    }

    /// Adds a label with a fixed value to all stats.
    pub(crate) fn add_fixed(&mut self, tag: &str, value: &str) {
        self.fixed.push((tag.to_owned(), value.to_owned()));
    }

    /// Whether labels depend on regular expressions, and so on more than the words of a name.
    pub(crate) fn has_expressions(&self) -> bool {
        !self.custom.is_empty()
    }

    /// Extracts the labels from `name`.
    pub(crate) fn extract(&self, name: &str) -> Tagged {
        let word = name.split('.').next().unwrap_or_default();
        let mut found = Extractor {
            name,
            labels: Vec::with_capacity(4),
            removals: Vec::with_capacity(4),
        };
        found.built_in(&self.built_in, None);
        let anywhere = self.custom.iter().filter(|rule| rule.word.is_none());
        anywhere.for_each(|rule| found.custom(rule));
        for (tag, value) in &self.fixed {
            if !found.has(tag) {
                found.labels.push((tag.clone(), value.clone()));
            }
        }
        found.built_in(&self.built_in, Some(word));
        let here = |rule: &&CustomRule| rule.word.as_deref() == Some(word);
        let here = self.custom.iter().filter(here);
        here.for_each(|rule| found.custom(rule));
        found.finish()
    }
}

struct Extractor<'n> {
    name: &'n str,
    labels: Vec<(String, String)>,
    removals: Vec<Range<usize>>,
}

impl Extractor<'_> {
    fn built_in(&mut self, rules: &[&'static BuiltInRule], word: Option<&str>) {
        for rule in rules.iter().filter(|rule| rule.word == word) {
            let cut = match rule.rule {
                TagRule::Words(pattern) => words(pattern, self.name),
                TagRule::Special(find) => find(self.name),
            };
            if let Some(cut) = cut {
                self.add(rule.tag, cut);
            }
        }
    }

    fn custom(&mut self, rule: &CustomRule) {
        let Some(groups) = rule.regex.captures(self.name) else {
            return;
        };
        if let Some(remove) = groups.get(1) {
            let value = groups.get(2).unwrap_or(remove).range();
            let remove = remove.range();
            self.add(&rule.tag, Extraction { remove, value });
        }
    }

    fn has(&self, tag: &str) -> bool {
        self.labels.iter().any(|(known, _)| known == tag)
    }

    /// The first rule that finds a tag wins.
    fn add(&mut self, tag: &str, cut: Extraction) {
        if !self.has(tag) {
            let value = self.name[cut.value].to_owned();
            self.labels.push((tag.to_owned(), value));
            self.removals.push(cut.remove);
        }
    }

    fn finish(mut self) -> Tagged {
        self.removals.sort_by_key(|range| range.start);
        let mut name = String::with_capacity(self.name.len());
        let mut at = 0;
        for range in self.removals {
            name.push_str(&self.name[at.min(range.start)..range.start]);
            at = at.max(range.end);
        }
        name.push_str(&self.name[at..]);
        Tagged {
            name,
            labels: self.labels,
        }
    }
}

/// The fixed word that an expression like `^cluster\.…` starts with.
fn first_word(regex: &str) -> Option<String> {
    let rest = regex.strip_prefix('^')?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    (end > 0 && rest[end..].starts_with("\\.")).then(|| rest[..end].to_owned())
}

const fn starting_with(word: &'static str, tag: &'static str, rule: TagRule) -> BuiltInRule {
    BuiltInRule {
        tag,
        word: Some(word),
        rule,
    }
}

const fn anywhere(tag: &'static str, find: fn(&str) -> Option<Extraction>) -> BuiltInRule {
    BuiltInRule {
        tag,
        word: None,
        rule: TagRule::Special(find),
    }
}

use TagRule::Special;
use TagRule::Words;

/// Envoy's default rules, in its order.
const BUILT_IN: &[BuiltInRule] = &[
    anywhere("envoy.response_code", response_code),
    anywhere("envoy.response_code_class", response_code_class),
    starting_with("listener", "envoy.ssl_cipher", Special(ssl_ciphers)),
    anywhere("envoy.ssl_curve", ssl_curves),
    anywhere("envoy.ssl_sigalg", ssl_sigalgs),
    anywhere("envoy.ssl_version", ssl_versions),
    starting_with("cluster", "cipher_suite", Special(ssl_ciphers)),
    starting_with(
        "listener",
        "envoy.http_conn_manager_prefix",
        Special(http_of_listener),
    ),
    anywhere("envoy.worker_id", worker_id),
    starting_with(
        "listener",
        "envoy.listener_address",
        Special(listener_address),
    ),
    starting_with("http", "envoy.rds_route_config", Special(rds_route_config)),
    starting_with(
        "cluster",
        "envoy.grpc_bridge_method",
        Words("cluster.*.grpc.*.$"),
    ),
    starting_with(
        "http",
        "envoy.http_user_agent",
        Words("http.*.user_agent.$"),
    ),
    starting_with(
        "vhost",
        "envoy.virtual_cluster",
        Words("vhost.*.vcluster.$"),
    ),
    starting_with(
        "http",
        "envoy.fault_downstream_cluster",
        Words("http.*.fault.$"),
    ),
    starting_with(
        "cluster",
        "envoy.grpc_bridge_service",
        Words("cluster.*.grpc.$"),
    ),
    starting_with("tcp", "envoy.tcp_prefix", Words("tcp.$")),
    starting_with("udp", "envoy.udp_prefix", Words("udp.$")),
    starting_with("auth", "envoy.clientssl_prefix", Words("auth.clientssl.$")),
    starting_with("ratelimit", "envoy.ratelimit_prefix", Words("ratelimit.$")),
    starting_with("cluster", "envoy.cluster_name", Words("cluster.$")),
    starting_with(
        "cluster",
        "envoy.ext_authz_prefix",
        Words("cluster.*.ext_authz.$"),
    ),
    starting_with(
        "http",
        "envoy.ext_authz_prefix",
        Words("http.*.ext_authz.$"),
    ),
    starting_with("http", "envoy.http_conn_manager_prefix", Words("http.$")),
    starting_with("vhost", "envoy.virtual_host", Words("vhost.$")),
    starting_with("vhost", "envoy.route", Words("vhost.*.route.$")),
    starting_with("thrift", "envoy.thrift_prefix", Words("thrift.$")),
    starting_with("redis", "envoy.redis_prefix", Words("redis.$")),
    anywhere("envoy.local_http_ratelimit_prefix", local_http_ratelimit),
    starting_with(
        "local_rate_limit",
        "envoy.local_network_ratelimit_prefix",
        Words("local_rate_limit.$"),
    ),
    starting_with(
        "listener_local_ratelimit",
        "envoy.local_listener_ratelimit_prefix",
        Words("listener_local_ratelimit.$"),
    ),
    starting_with(
        "dns_filter",
        "envoy.dns_filter_prefix",
        Words("dns_filter.$"),
    ),
];

/// Envoy's tags for stats that do not exist here; `stats_tags` may still name them.
const UNUSED_TAGS: &[&str] = &[
    "envoy.dynamo_operation",
    "envoy.dynamo_table",
    "envoy.dynamo_partition_id",
    "envoy.mongo_prefix",
    "envoy.mongo_cmd",
    "envoy.mongo_collection",
    "envoy.mongo_callsite",
];

/// Matches word by word; at least one more word must follow the pattern. The label is removed with the dot after it.
fn words(pattern: &str, name: &str) -> Option<Extraction> {
    let mut value = None;
    let mut at = 0;
    for want in pattern.split('.') {
        let end = at + name.get(at..)?.find('.')?;
        match want {
            "$" => value = Some(at..end),
            "*" => {}
            _ if name[at..end] == *want => {}
            _ => return None,
        }
        at = end + 1;
    }
    let value = value?;
    Some(Extraction {
        remove: value.start..value.end + 1,
        value,
    })
}

/// `*_rq_(503)`
fn response_code(name: &str) -> Option<Extraction> {
    let start = name.len().checked_sub(3)?;
    let code = name.get(start..)?;
    let found = code.bytes().all(|b| b.is_ascii_digit()) && name[..start].ends_with("_rq_");
    found.then(|| Extraction {
        remove: start - 1..name.len(),
        value: start..name.len(),
    })
}

/// `*_rq_(5)xx`
fn response_code_class(name: &str) -> Option<Extraction> {
    let rest = name.strip_suffix("xx")?;
    let start = rest.len().checked_sub(1)?;
    let found = rest.as_bytes()[start].is_ascii_digit() && rest[..start].ends_with("_rq_");
    let class = start..rest.len();
    found.then(|| Extraction {
        remove: class.clone(),
        value: class,
    })
}

/// `listener.[address].http.(prefix).*`
fn http_of_listener(name: &str) -> Option<Extraction> {
    let start = "listener.".len() + name.get("listener.".len()..)?.find(".http.")? + ".http.".len();
    let end = start + name[start..].find('.')?;
    (end > start).then(|| Extraction {
        remove: start..end + 1,
        value: start..end,
    })
}

/// The end of `<ipv4>_<port>`, `[<ipv6>]_<port>` or of one word, at the start of `rest`.
fn address_or_word(rest: &str) -> Option<usize> {
    let first = rest.find('.').filter(|end| *end > 0)?;
    let port = rest.find('_').map(|underscore| {
        let address = &rest[..underscore];
        let tail = &rest[underscore + 1..];
        (
            address,
            underscore + 1 + tail.find('.').unwrap_or(tail.len()),
        )
    });
    match port {
        Some((address, end))
            if address.parse::<std::net::Ipv4Addr>().is_ok()
                && rest[address.len() + 1..end]
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                && rest[end..].starts_with('.') =>
        {
            Some(end)
        }
        _ => Some(first),
    }
}

/// `listener.(address).*`, but not the admin listener.
fn listener_address(name: &str) -> Option<Extraction> {
    let start = "listener.".len();
    let rest = name.get(start..)?;
    let end = start + address_or_word(rest)?;
    (name[start..end] != *"admin").then(|| Extraction {
        remove: start..end + 1,
        value: start..end,
    })
}

/// `listener.[address].worker_(0).*`, and `worker_(0)` below `server`, `listener_manager` and
/// `thread_local_cluster_manager`.
fn worker_id(name: &str) -> Option<Extraction> {
    let (first, rest) = name.split_once('.')?;
    let rest = match first {
        "listener" => &rest[address_or_word(rest)? + 1..],
        "server" | "listener_manager" | "thread_local_cluster_manager" => rest,
        _ => return None,
    };
    let id = rest.strip_prefix("worker_")?;
    let start = name.len() - id.len();
    let end = start + id.find('.')?;
    let found = end > start && name[start..end].bytes().all(|b| b.is_ascii_digit());
    found.then(|| Extraction {
        remove: start..end + 1,
        value: start..end,
    })
}

/// `http.[prefix].rds.(route_config).stat`, where the name of the route configuration may contain dots.
fn rds_route_config(name: &str) -> Option<Extraction> {
    let rest = name.strip_prefix("http.")?;
    let tail = rest[rest.find('.')?..].strip_prefix(".rds.")?;
    let start = name.len() - tail.len();
    let end = start + tail.rfind('.')?;
    Some(Extraction {
        remove: start..end + 1,
        value: start..end,
    })
}

fn local_http_ratelimit(name: &str) -> Option<Extraction> {
    let end = name.find('.')?;
    name[end..]
        .starts_with(".http_local_rate_limit.")
        .then(|| Extraction {
            remove: 0..end + 1,
            value: 0..end,
        })
}

fn ssl_ciphers(name: &str) -> Option<Extraction> {
    last_below(name, ".ssl.ciphers.")
}

fn ssl_curves(name: &str) -> Option<Extraction> {
    last_below(name, ".ssl.curves.")
}

fn ssl_sigalgs(name: &str) -> Option<Extraction> {
    last_below(name, ".ssl.sigalgs.")
}

fn ssl_versions(name: &str) -> Option<Extraction> {
    let version = last_below(name, ".ssl.versions.");
    // Versions are the only values that contain a dot.
    version.or_else(|| {
        let start = name.find(".ssl.versions.")? + ".ssl.versions.".len();
        name[start..].starts_with("TLSv").then(|| Extraction {
            remove: start - 1..name.len(),
            value: start..name.len(),
        })
    })
}

/// The last word of a name, if `above` comes before it. It is removed with the dot before it.
fn last_below(name: &str, above: &str) -> Option<Extraction> {
    let start = name.find(above)? + above.len();
    let found = start < name.len() && !name[start..].contains('.');
    found.then(|| Extraction {
        remove: start - 1..name.len(),
        value: start..name.len(),
    })
}

#[cfg(test)]
mod tests;

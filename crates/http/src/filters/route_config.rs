//! `typed_per_filter_config`: the configuration of filters for a route table, a virtual host, a route or a weighted
//! cluster.

use std::any::Any as StdAny;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::FilterConfig;
use outrider_config::type_name;
use outrider_config::unpack;
use prost_types::Any;

use crate::route::Route;
use crate::route::RouteCx;

use super::FACTORIES;

/// A filter's configuration of one level, of the type that the filter expects.
pub type RouteFilterConfig = Arc<dyn StdAny + Send + Sync>;

/// Builds the configuration of a filter for some routes.
pub(super) struct RouteFactory {
    /// The full name of the message.
    pub(super) message: &'static str,
    pub(super) build: fn(&Any, &FieldPath, &RouteCx<'_>) -> Result<RouteFilterConfig, ConfigErrors>,
}

/// The filters' configuration of one level, by the name of the filter.
#[derive(Clone, Default)]
pub(crate) struct RouteFilterLevel(BTreeMap<Box<str>, LevelEntry>);

#[derive(Clone)]
struct LevelEntry {
    is_disabled: bool,
    config: Option<RouteFilterConfig>,
}

/// The filters' configuration for one route, of all levels.
#[derive(Default)]
pub(crate) struct RouteFilterConfigs(Box<[RouteFilterEntry]>);

struct RouteFilterEntry {
    name: Box<str>,
    /// Whether the most specific level disables the filter.
    is_disabled: bool,
    /// From the route table's down to the weighted cluster's.
    configs: Box<[RouteFilterConfig]>,
}

impl RouteFilterLevel {
    /// The level that `configs`, found at `path`, configures.
    pub(crate) fn build(
        configs: &HashMap<String, Any>,
        path: &FieldPath,
        cx: &RouteCx<'_>,
    ) -> Result<RouteFilterLevel, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path = path.field("typed_per_filter_config");
        let mut level = BTreeMap::new();
        for (name, config) in configs {
            if let Some(entry) = errors.collect(LevelEntry::build(config, &path.key(name), cx)) {
                level.insert(name.as_str().into(), entry);
            }
        }
        errors.finish(RouteFilterLevel(level))
    }
}

impl LevelEntry {
    fn build(config: &Any, path: &FieldPath, cx: &RouteCx<'_>) -> Result<LevelEntry, ConfigErrors> {
        let enabled = |config| LevelEntry {
            is_disabled: false,
            config,
        };
        if type_name(config) != "envoy.config.route.v3.FilterConfig" {
            return Ok(enabled(Some(build_config(config, path, cx)?)));
        }
        let wrapper: FilterConfig = unpack(config, path)?;
        if wrapper.disabled {
            return Ok(LevelEntry {
                is_disabled: true,
                config: None,
            });
        }
        match &wrapper.config {
            None => Err(ConfigErrors::from(ConfigError::new(
                path,
                "Empty route/virtual host per filter configuration: set config, or disabled",
            ))),
            Some(config) if config.type_url.is_empty() => Ok(enabled(None)),
            Some(config) if wrapper.is_optional && !is_known(config) => Ok(enabled(None)),
            Some(config) => {
                let config = build_config(config, &path.field("config"), cx)?;
                Ok(enabled(Some(config)))
            }
        }
    }
}

fn find(config: &Any) -> Option<&'static RouteFactory> {
    let name = type_name(config);
    let factories = FACTORIES.iter().flat_map(|factory| factory.routes);
    factories
        .into_iter()
        .find(|factory| factory.message == name)
}

fn is_known(config: &Any) -> bool {
    find(config).is_some()
}

fn build_config(
    config: &Any,
    path: &FieldPath,
    cx: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    match find(config) {
        Some(factory) => (factory.build)(config, path, cx),
        None => {
            let name = type_name(config);
            let text = format!(
                "{name} cannot configure a filter for some routes; to disable the filter there, use \
                 envoy.config.route.v3.FilterConfig"
            );
            Err(ConfigErrors::from(ConfigError::new(path, text)))
        }
    }
}

impl RouteFilterConfigs {
    /// Merges the levels, which are in order from the route table's to the weighted cluster's.
    pub(crate) fn merge<'l>(
        levels: impl Iterator<Item = &'l RouteFilterLevel>,
    ) -> RouteFilterConfigs {
        let mut merged: BTreeMap<&str, (bool, Vec<RouteFilterConfig>)> = BTreeMap::new();
        for level in levels {
            for (name, entry) in &level.0 {
                let (is_disabled, configs) = merged.entry(name).or_default();
                *is_disabled = entry.is_disabled;
                configs.extend(entry.config.clone());
            }
        }
        let entries = merged.into_iter();
        let entries = entries.map(|(name, (is_disabled, configs))| RouteFilterEntry {
            name: name.into(),
            is_disabled,
            configs: configs.into(),
        });
        RouteFilterConfigs(entries.collect())
    }

    /// Whether no level configures a filter.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the filter of this name is disabled; `None` if the route does not say.
    pub(super) fn is_disabled(&self, name: &str) -> Option<bool> {
        self.find(name).map(|entry| entry.is_disabled)
    }

    fn find(&self, name: &str) -> Option<&RouteFilterEntry> {
        self.0.iter().find(|entry| *entry.name == *name)
    }
}

/// Finds a filter's configuration in routes; `T` is what the filter's route factory builds. Configuration of
/// another type under the filter's name is ignored, as in Envoy.
pub struct RouteConfig<T> {
    name: Arc<str>,
    kind: PhantomData<fn() -> T>,
}

impl<T: 'static> RouteConfig<T> {
    pub(super) fn new(name: Arc<str>) -> RouteConfig<T> {
        RouteConfig {
            name,
            kind: PhantomData,
        }
    }

    /// The configuration of the most specific level that has one.
    pub fn most_specific<'r>(&self, route: Option<&'r Route>) -> Option<&'r T> {
        self.all(route).next_back()
    }

    /// The configuration of all levels, from the route table's down to the weighted cluster's.
    pub fn all<'r>(&self, route: Option<&'r Route>) -> impl DoubleEndedIterator<Item = &'r T> {
        let entry = route.and_then(|route| route.filter_configs.find(&self.name));
        let configs = entry.map_or(&[][..], |entry| &entry.configs);
        configs.iter().filter_map(|config| config.downcast_ref())
    }
}

impl<T> fmt::Debug for RouteConfig<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteConfig").field(&self.name).finish()
    }
}

impl fmt::Debug for RouteFilterConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|entry| &entry.name);
        f.debug_list().entries(names).finish()
    }
}

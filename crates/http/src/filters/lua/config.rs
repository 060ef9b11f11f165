//! The configuration of the filter and of routes.

use std::collections::HashMap;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::DataSource;
use outrider_config::api::envoy::extensions::filters::http::lua::v3 as api;
use outrider_config::data_source;
use prost_types::Struct;

use super::machine::Machine;

/// A source code that has been checked.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) text: Vec<u8>,
    /// `package_paths`: where `require` looks for modules first.
    pub(super) package_paths: Vec<String>,
}

/// The settings of the filter.
#[derive(Debug)]
pub(super) struct LuaConfig {
    /// `default_source_code` or `inline_code`; `None` if it is empty.
    pub(super) default: Option<Arc<Code>>,
    pub(super) sources: HashMap<String, Arc<Code>>,
    /// Whether a change of the request's headers makes its route be found again.
    pub(super) clears_route_cache: bool,
    /// `filter_context`
    pub(super) context: Option<Arc<Struct>>,
}

/// Which code runs on a route.
#[derive(Debug)]
pub(super) enum RouteCode {
    Default,
    Disabled,
    Named(String),
    Own(Arc<Code>),
}

/// What a route says.
#[derive(Debug)]
pub(super) struct RouteSettings {
    pub(super) code: RouteCode,
    /// `filter_context`
    pub(super) context: Option<Arc<Struct>>,
}

impl LuaConfig {
    pub(super) fn build(message: &api::Lua, path: &FieldPath) -> Result<LuaConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let paths = &message.package_paths;
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let inline = &message.inline_code;
        let default = match &message.default_source_code {
            Some(_) if !inline.is_empty() => {
                let text = "Only one of `inline_code` or `default_source_code` can be set for the Lua filter.";
                errors.push(path, text);
                return Err(errors);
            }
            Some(source) => errors.collect(code(source, paths, &path.field("default_source_code"))),
            None if inline.is_empty() => None,
            None => {
                let path = path.field("inline_code");
                errors.collect(check(inline.clone().into_bytes(), paths, &path))
            }
        };
        let mut sources = HashMap::new();
        let path = path.field("source_codes");
        for (name, source) in &message.source_codes {
            if let Some(code) = errors.collect(code(source, paths, &path.key(name))) {
                sources.insert(name.clone(), code);
            }
        }
        errors.finish(LuaConfig {
            default,
            sources,
            clears_route_cache: message.clear_route_cache.unwrap_or(true),
            context: message.filter_context.clone().map(Arc::new),
        })
    }
}

impl RouteSettings {
    pub(super) fn build(
        message: &api::LuaPerRoute,
        path: &FieldPath,
    ) -> Result<RouteSettings, ConfigErrors> {
        use api::lua_per_route::Override;
        let code = match &message.r#override {
            Some(Override::Disabled(_)) => RouteCode::Disabled,
            Some(Override::Name(name)) => RouteCode::Named(name.clone()),
            Some(Override::SourceCode(source)) => {
                let path = path.field("source_code");
                RouteCode::Own(code(source, &message.package_paths, &path)?)
            }
            None => RouteCode::Default,
        };
        Ok(RouteSettings {
            code,
            context: message.filter_context.clone().map(Arc::new),
        })
    }
}

fn code(
    source: &DataSource,
    package_paths: &[String],
    path: &FieldPath,
) -> Result<Arc<Code>, ConfigErrors> {
    let text = data_source::read(source, None, path).map_err(ConfigErrors::from)?;
    check(text, package_paths, path)
}

/// Runs the code once, as Envoy does, so that a mistake is found when the configuration is loaded.
fn check(
    text: Vec<u8>,
    package_paths: &[String],
    path: &FieldPath,
) -> Result<Arc<Code>, ConfigErrors> {
    let code = Code {
        text,
        package_paths: package_paths.to_vec(),
    };
    match Machine::load(&code) {
        Ok(_) => Ok(Arc::new(code)),
        Err(error) => {
            let text = format!("script load error: {error}");
            Err(ConfigErrors::from(ConfigError::new(path, text)))
        }
    }
}

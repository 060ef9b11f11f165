//! `envoy.resource_monitors.injected_resource`: a file holds the pressure. For tests, and for pressures measured by another program.

use std::path::PathBuf;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::resource_monitors::injected_resource::v3::InjectedResourceConfig;
use outrider_config::unpack;
use outrider_net::FileWatch;
use prost_types::Any;

use super::Build;
use super::ResourceMonitor;
use super::read;
use super::refuse;
use crate::OverloadCx;

pub(super) const FACTORY: Factory<Build> = Factory {
    message: "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
    build,
};

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &OverloadCx<'_>,
) -> Result<Box<dyn ResourceMonitor>, ConfigErrors> {
    let config: InjectedResourceConfig = unpack(config, path)?;
    let file = PathBuf::from(config.filename);
    let watch = cx.files.watch(&file);
    let watch = watch.map_err(|error| {
        let file = file.display();
        refuse(
            &path.field("filename"),
            format!("cannot watch '{file}': {error}"),
        )
    })?;
    Ok(Box::new(InjectedResource {
        file,
        watch,
        last: None,
    }))
}

#[derive(Debug)]
struct InjectedResource {
    file: PathBuf,
    watch: FileWatch,
    /// What the file held when it was last read.
    last: Option<Result<f64, String>>,
}

impl ResourceMonitor for InjectedResource {
    /// As in Envoy, the file is read again only after it was replaced by a rename.
    fn pressure(&mut self) -> Result<f64, String> {
        let replaced = self.watch.take_replaced();
        if replaced || self.last.is_none() {
            self.last = Some(read(&self.file).and_then(|text| parse(&text)));
        }
        self.last.clone().unwrap_or(Ok(0.0))
    }
}

fn parse(text: &str) -> Result<f64, String> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(pressure) if (0.0..=1.0).contains(&pressure) => Ok(pressure),
        Ok(_) => Err(format!("pressure out of range: {text}")),
        Err(_) => Err(format!(
            "failed to parse injected resource pressure {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pressure_is_a_number_from_0_to_1() {
        assert_eq!(parse("0.5\n"), Ok(0.5));
        assert_eq!(parse("1"), Ok(1.0));
        for text in ["", "x", "1.1", "-0.1", "nan", "inf"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

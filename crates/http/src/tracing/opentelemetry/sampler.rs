//! Samplers: they decide in place of the connection manager.

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::extensions::tracers::opentelemetry::samplers::v3::AlwaysOnSamplerConfig;
use outrider_config::api::envoy::extensions::tracers::opentelemetry::samplers::v3::ParentBasedSamplerConfig;
use outrider_config::api::envoy::extensions::tracers::opentelemetry::samplers::v3::TraceIdRatioBasedSamplerConfig;
use outrider_config::unpack;
use outrider_runtime::Fraction;
use prost_types::Any;

use super::refused;
use crate::tracing::span::SpanContext;

/// How it is decided which spans are reported.
#[derive(Debug)]
pub(super) enum SpanSampler {
    /// All of them.
    AlwaysOn,
    /// As the parent was; those without a parent by another sampler.
    ParentBased(Box<SpanSampler>),
    /// This share, by the upper half of the trace's id.
    TraceIdRatio(Fraction),
}

type BuildSampler = fn(&Any, &FieldPath) -> Result<SpanSampler, ConfigErrors>;

const SAMPLERS: &[Factory<BuildSampler>] = &[
    Factory {
        message: "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig",
        build: always_on,
    },
    Factory {
        message: "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig",
        build: parent_based,
    },
    Factory {
        message: "envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig",
        build: trace_id_ratio,
    },
];

impl SpanSampler {
    /// The sampler found at `path`.
    pub(super) fn build(
        message: &TypedExtensionConfig,
        path: &FieldPath,
    ) -> Result<SpanSampler, ConfigErrors> {
        let path = path.field("typed_config");
        let config = message.typed_config.as_ref();
        let config =
            config.ok_or_else(|| refused(&path, "expected the configuration of a sampler"))?;
        Factory::find(SAMPLERS, "sampler", config, &path)?(config, &path)
    }

    /// Whether a span is reported. `trace` is the upper half of its trace's id.
    pub(super) fn samples(&self, parent: Option<&SpanContext>, trace: u64) -> bool {
        match (self, parent) {
            (SpanSampler::AlwaysOn, _) => true,
            (SpanSampler::ParentBased(_), Some(parent)) => parent.sampled,
            (SpanSampler::ParentBased(root), None) => root.samples(None, trace),
            // Envoy reads the bytes as a number of its machine, whose lowest byte is the first.
            (SpanSampler::TraceIdRatio(share), _) => share.holds(trace.swap_bytes()),
        }
    }
}

fn always_on(config: &Any, path: &FieldPath) -> Result<SpanSampler, ConfigErrors> {
    let _: AlwaysOnSamplerConfig = unpack(config, path)?;
    Ok(SpanSampler::AlwaysOn)
}

fn parent_based(config: &Any, path: &FieldPath) -> Result<SpanSampler, ConfigErrors> {
    let message: ParentBasedSamplerConfig = unpack(config, path)?;
    let path = path.field("wrapped_sampler");
    let wrapped = message.wrapped_sampler.as_ref();
    let wrapped = wrapped.ok_or_else(|| refused(&path, "expected a sampler"))?;
    let wrapped = SpanSampler::build(wrapped, &path)?;
    Ok(SpanSampler::ParentBased(Box::new(wrapped)))
}

fn trace_id_ratio(config: &Any, path: &FieldPath) -> Result<SpanSampler, ConfigErrors> {
    let message: TraceIdRatioBasedSamplerConfig = unpack(config, path)?;
    let share = message.sampling_percentage.unwrap_or_default();
    Ok(SpanSampler::TraceIdRatio(Fraction::of(&share)))
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::r#type::v3::FractionalPercent;

    use super::*;

    #[test]
    fn a_parent_decides_and_roots_are_sampled_by_their_trace() {
        let half = FractionalPercent {
            numerator: 50,
            ..FractionalPercent::default()
        };
        let ratio = SpanSampler::TraceIdRatio(Fraction::of(&half));
        let sampler = SpanSampler::ParentBased(Box::new(ratio));
        let parent = |sampled| SpanContext {
            sampled,
            ..SpanContext::default()
        };
        assert!(sampler.samples(Some(&parent(true)), 99));
        assert!(!sampler.samples(Some(&parent(false)), 0));
        // The numbers 49 and 50, their lowest byte first.
        assert!(sampler.samples(None, 49 << 56));
        assert!(!sampler.samples(None, 50 << 56));
        assert!(SpanSampler::AlwaysOn.samples(Some(&parent(false)), 0));
    }
}

//! Triggers: how the pressure on a resource becomes the level of an action or load shed point.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::overload::v3 as api;
use outrider_config::api::envoy::config::overload::v3::trigger::TriggerOneof;

/// The triggers of one action or load shed point, at most one for each resource.
#[derive(Debug)]
pub(crate) struct Triggers(Vec<Trigger>);

#[derive(Debug)]
struct Trigger {
    /// The name of the resource.
    resource: Box<str>,
    kind: TriggerKind,
    level: f32,
}

/// `Trigger.trigger_oneof`
#[derive(Clone, Copy, Debug, PartialEq)]
enum TriggerKind {
    /// `threshold`
    Threshold(f64),
    /// `scaled`
    Scaled { scaling: f64, saturation: f64 },
}

impl Triggers {
    /// The triggers of `messages`, found at `path`. `is_resource` tells which names of resources are known, and `resources`
    /// lists those for error messages.
    ///
    /// # Errors
    /// All triggers that are wrong.
    pub(crate) fn build(
        messages: &[api::Trigger],
        path: &FieldPath,
        resources: &[&str],
    ) -> Result<Triggers, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut triggers: Vec<Trigger> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            let name = message.name.as_str();
            if !resources.contains(&name) {
                let known = resources.join(", ");
                errors.push(
                    &path.field("name"),
                    format!(
                        "unknown resource '{name}': expected a name of resource_monitors: {known}"
                    ),
                );
            } else if triggers.iter().any(|trigger| *trigger.resource == *name) {
                errors.push(
                    &path.field("name"),
                    format!("a second trigger for resource '{name}': expected at most one"),
                );
            }
            if let Some(kind) = errors.collect(TriggerKind::build(message, &path)) {
                triggers.push(Trigger {
                    resource: name.into(),
                    kind,
                    level: 0.0,
                });
            }
        }
        errors.finish(Triggers(triggers))
    }

    /// Notes the pressure on a resource. Returns the new level of the trigger for this resource, if it has changed.
    pub(crate) fn update(&mut self, resource: &str, pressure: f64) -> Option<f32> {
        let mut triggers = self.0.iter_mut();
        let trigger = triggers.find(|trigger| *trigger.resource == *resource)?;
        let level = trigger.kind.level(pressure);
        (std::mem::replace(&mut trigger.level, level) != level).then_some(level)
    }

    /// The highest level of all triggers.
    pub(crate) fn level(&self) -> f32 {
        let levels = self.0.iter().map(|trigger| trigger.level);
        levels.fold(0.0, f32::max)
    }
}

impl TriggerKind {
    fn build(message: &api::Trigger, path: &FieldPath) -> Result<TriggerKind, ConfigErrors> {
        match &message.trigger_oneof {
            Some(TriggerOneof::Threshold(threshold)) => Ok(TriggerKind::Threshold(threshold.value)),
            Some(TriggerOneof::Scaled(scaled)) => {
                let (scaling, saturation) = (scaled.scaling_threshold, scaled.saturation_threshold);
                if scaling < saturation {
                    return Ok(TriggerKind::Scaled {
                        scaling,
                        saturation,
                    });
                }
                let mut errors = ConfigErrors::new();
                errors.push(
                    &path.field("scaled"),
                    "scaling_threshold must be less than saturation_threshold",
                );
                Err(errors)
            }
            None => {
                let mut errors = ConfigErrors::new();
                errors.push(path, "expected threshold or scaled");
                Err(errors)
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "levels are single-precision, as in Envoy"
    )]
    fn level(self, pressure: f64) -> f32 {
        match self {
            TriggerKind::Threshold(value) => f32::from(u8::from(pressure >= value)),
            TriggerKind::Scaled { scaling, .. } if pressure <= scaling => 0.0,
            TriggerKind::Scaled { saturation, .. } if pressure >= saturation => 1.0,
            TriggerKind::Scaled {
                scaling,
                saturation,
            } => ((pressure - scaling) / (saturation - scaling)) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(resource: &str, value: f64) -> api::Trigger {
        api::Trigger {
            name: resource.to_owned(),
            trigger_oneof: Some(TriggerOneof::Threshold(api::ThresholdTrigger { value })),
        }
    }

    fn scaled(resource: &str, scaling: f64, saturation: f64) -> api::Trigger {
        api::Trigger {
            name: resource.to_owned(),
            trigger_oneof: Some(TriggerOneof::Scaled(api::ScaledTrigger {
                scaling_threshold: scaling,
                saturation_threshold: saturation,
            })),
        }
    }

    fn build(messages: &[api::Trigger]) -> Result<Triggers, ConfigErrors> {
        Triggers::build(messages, &FieldPath::root(), &["heap", "cpu"])
    }

    #[test]
    fn the_highest_trigger_counts() {
        let mut triggers = build(&[threshold("heap", 0.9), scaled("cpu", 0.5, 1.0)]).unwrap();
        assert_eq!(triggers.update("cpu", 0.75), Some(0.5));
        assert_eq!(triggers.update("cpu", 0.75), None);
        assert_eq!(triggers.level(), 0.5);
        assert_eq!(triggers.update("heap", 0.9), Some(1.0));
        assert_eq!(triggers.level(), 1.0);
        assert_eq!(triggers.update("heap", 0.89), Some(0.0));
        assert_eq!(triggers.update("cpu", 0.5), Some(0.0));
        assert_eq!(triggers.level(), 0.0);
        assert_eq!(triggers.update("disk", 1.0), None);
    }

    #[test]
    fn refuses_unknown_and_repeated_resources() {
        for (messages, want) in [
            (vec![threshold("disk", 0.5)], "unknown resource 'disk'"),
            (
                vec![threshold("cpu", 0.5), threshold("cpu", 0.6)],
                "a second trigger for resource 'cpu'",
            ),
            (vec![scaled("cpu", 0.5, 0.5)], "must be less than"),
        ] {
            let errors = build(&messages).unwrap_err().to_string();
            assert!(errors.contains(want), "{errors}");
        }
    }
}

//! Changes to the headers of requests before anything else looks at them
//! (`HttpConnectionManager.early_header_mutation_extensions`).

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as Message;
use outrider_config::unpack;
use prost_types::Any;

use crate::filters::HeaderMutation;

type BuildMutations = fn(&Any, &FieldPath) -> Result<Vec<HeaderMutation>, ConfigErrors>;

/// The extensions.
const FACTORIES: &[Factory<BuildMutations>] = &[Factory {
    message: "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    build: build_mutations,
}];

/// The mutations of all extensions of the list at `path`, in order.
pub(crate) fn build_all(
    extensions: &[TypedExtensionConfig],
    path: &FieldPath,
) -> Result<Box<[HeaderMutation]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut mutations = Vec::new();
    for (at, extension) in extensions.iter().enumerate() {
        let path = path.index(at).field("typed_config");
        let typed = extension.typed_config.clone().unwrap_or_default();
        let build = Factory::find(FACTORIES, "early header mutation", &typed, &path);
        if let Some(build) = errors.collect(build) {
            mutations.extend(errors.collect(build(&typed, &path)).unwrap_or_default());
        }
    }
    errors.finish(mutations.into())
}

fn build_mutations(config: &Any, path: &FieldPath) -> Result<Vec<HeaderMutation>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let path = path.field("mutations");
    let mut errors = ConfigErrors::new();
    let mutations = message.mutations.iter().enumerate();
    let mutations = mutations
        .filter_map(|(at, mutation)| {
            errors.collect(HeaderMutation::build(mutation, &path.index(at)))
        })
        .collect();
    errors.finish(mutations)
}

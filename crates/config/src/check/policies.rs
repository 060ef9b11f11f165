//! Which load balancing settings have an effect. If `load_balancing_policy` is set, one policy of its list does, and
//! the older fields do not.

use super::extension;
use crate::schema::FieldRow;
use crate::schema::MessageType;
use crate::value::Item;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LIST: &str = "envoy.config.cluster.v3.LoadBalancingPolicy";
const CATEGORY: &str = "envoy.load_balancing_policies";

/// The older fields of a cluster that `load_balancing_policy` replaces.
const OVERRIDDEN: [&str; 6] = [
    "lb_policy",
    "round_robin_lb_config",
    "least_request_lb_config",
    "ring_hash_lb_config",
    "maglev_lb_config",
    "original_dst_lb_config",
];

/// Whether a field of `message` has no effect because of `load_balancing_policy`.
pub(super) fn is_overridden(message: &Message, field: &FieldRow) -> bool {
    OVERRIDDEN.contains(&field.name())
        && message.message_type.name() == CLUSTER
        && message.get("load_balancing_policy").is_some()
}

/// Whether `field` of a message of this type is a list of policies of which only one has an effect.
pub(super) fn is_policy_list(message_type: MessageType, field: &FieldRow) -> bool {
    field.name() == "policies" && message_type.name() == LIST
}

/// The policy that has an effect: the first whose type Envoy knows, or whose type does not exist in any Envoy. A
/// `TypedStruct` of an unknown type is skipped.
pub(super) fn find_selected(policies: &[Item]) -> Option<usize> {
    policies.iter().position(|policy| {
        let Value::Message(policy) = &policy.value else {
            return false;
        };
        let extension = policy.get("typed_extension_config");
        let Some(Value::Message(extension)) = extension.map(|field| &field.value) else {
            return false;
        };
        let config = extension.get("typed_config");
        match config.map(|field| &field.value) {
            Some(Value::Any(any)) => {
                let is_unknown = matches!(any.payload, Payload::Opaque(_)) && !any.is_typed_struct;
                extension::belongs(any, CATEGORY) || is_unknown
            }
            _ => false,
        }
    })
}

//! STATIC: the hosts are in the config.

use std::pin::Pin;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_net::Address;

use super::Discovery;
use crate::HostsPublisher;
use crate::LocalityHosts;
use crate::PriorityHosts;
use crate::endpoints;
use crate::endpoints::LocalityEndpoints;

#[derive(Debug)]
struct Fixed {
    localities: Vec<LocalityEndpoints<Vec<Address>>>,
}

pub(super) fn build(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let localities = match &cluster.load_assignment {
        Some(assignment) => {
            let path = path.field("load_assignment");
            endpoints::build(assignment, &path, endpoints::static_addresses)?
        }
        None => Vec::new(),
    };
    Ok(Box::new(Fixed { localities }))
}

impl Discovery for Fixed {
    fn run(self: Box<Self>, hosts: HostsPublisher) -> Pin<Box<dyn Future<Output = ()>>> {
        let mut priorities: Vec<PriorityHosts> = Vec::new();
        for locality in self.localities {
            let priority = locality.priority as usize;
            if priorities.len() <= priority {
                priorities.resize_with(priority + 1, PriorityHosts::default);
            }
            let made = locality
                .endpoints
                .into_iter()
                .map(|endpoint| hosts.host(endpoint.target, &endpoint.description));
            priorities[priority].localities.push(LocalityHosts {
                weight: locality.weight,
                hosts: made.collect(),
            });
        }
        let filled = priorities.iter().filter(|p| p.iter().next().is_some());
        let changes = filled.count() as u64;
        hosts.publish(priorities, changes);
        hosts.initialized();
        Box::pin(std::future::ready(()))
    }
}

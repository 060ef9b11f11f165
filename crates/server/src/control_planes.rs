//! The calls of the main thread to control planes.

use std::rc::Rc;
use std::sync::Arc;

use outrider_client::InternalClient;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_xds::ApiSource;
use outrider_xds::ControlPlanes;
use tokio::sync::oneshot;

use crate::cli::IpVersion;
use crate::control::Control;

/// Serves the subscriptions of the whole process. The stream of `aggregated` (`ads_config`) is opened once the returned
/// sender is used: when the clusters that need no control plane are there.
pub(crate) fn start(
    control: &Rc<Control>,
    aggregated: Option<Arc<ApiSource>>,
) -> oneshot::Sender<()> {
    // The threads' numbers tell their stats apart.
    let cx = WorkerCx::new(
        control.options.concurrency,
        &control.store,
        fastrand::u64(..),
    );
    let cx = Rc::new(cx.with_runtime(control.runtime.runtime()));
    tokio::task::spawn_local(cx.timers.clone().run_exactly());
    let clusters = control.clusters.main_thread(&cx);
    let ip_version = control.options.local_address_ip_version;
    let address = outrider_net::local_address(ip_version == IpVersion::V6);
    let client = InternalClient::new(&clusters, address);
    let sources = control.clusters.sources();
    let planes = ControlPlanes::new(sources, Rc::new(client), control.xds_node.clone());
    let aggregated = aggregated.map(|source| {
        let scope = Scope::new("control_plane");
        (source, control.store.register(scope))
    });
    let (primary, ready) = oneshot::channel();
    planes.start(aggregated, async {
        // The sender is dropped only when the process ends.
        let _ = ready.await;
    });
    primary
}

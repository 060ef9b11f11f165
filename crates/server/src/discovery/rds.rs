//! RDS: the routes of connection managers from files of resources and control planes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::RouteConfiguration;
use outrider_http::ConnectionManagerConfig;
use outrider_http::RdsConfig;
use outrider_http::route::RouteCx;
use outrider_http::route::RouteTable;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use outrider_xds::ConfigSource;
use outrider_xds::Removed;
use outrider_xds::ResourceType;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::background;
use crate::discovery::now_ms;
use crate::dump::DynamicResource;
use crate::listener_plan::ListenerPlan;
use crate::retired::Retired;

outrider_stats::group! {
    /// `http.<stat_prefix>.rds.<route_config_name>.*`, in addition to the stats of every subscription.
    pub(crate) struct RouteUpdateStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
        update_empty: Counter,
    }
}

/// All routes that come from sources. Connection managers with the same source and route name share a subscription.
pub(crate) struct RouteDiscovery {
    store: Arc<Store>,
    clusters: Arc<ClusterManager>,
    retired: Retired,
    followed: RefCell<HashMap<(ConfigSource, String), Rc<FollowedRoutes>>>,
}

/// The routes of one name in one source.
struct FollowedRoutes {
    name: String,
    store: Arc<Store>,
    clusters: Arc<ClusterManager>,
    retired: Retired,
    stats: Arc<RouteUpdateStats>,
    table: RefCell<Option<Arc<RouteTable>>>,
    dumped: RefCell<Option<DynamicResource>>,
    /// The connection managers that use these routes. Weak, so that they can end.
    users: RefCell<Vec<std::sync::Weak<ConnectionManagerConfig>>>,
    task: RefCell<Option<AbortHandle>>,
    /// Whether the source was read once, valid or not.
    was_read: watch::Sender<bool>,
}

impl RouteDiscovery {
    pub(crate) fn new(
        store: Arc<Store>,
        clusters: Arc<ClusterManager>,
        retired: Retired,
    ) -> RouteDiscovery {
        RouteDiscovery {
            store,
            clusters,
            retired,
            followed: RefCell::default(),
        }
    }

    /// Gives the connection managers of `plans` the routes of their sources, now and on each update. Waits until each source
    /// was read once.
    pub(crate) async fn connect_all(&self, plans: &[Arc<ListenerPlan>]) {
        self.forget_unused();
        let managers = plans.iter().flat_map(|plan| plan.connection_managers());
        let connected = managers.filter_map(|manager| self.connect(manager, manager.rds()?));
        let reading: Vec<_> = connected.collect();
        for mut was_read in reading {
            // The sender is dropped if no connection manager uses the routes now.
            let _read = was_read.wait_for(|was_read| *was_read).await;
        }
    }

    /// Returns what tells when the source was read once.
    fn connect(
        &self,
        manager: &Arc<ConnectionManagerConfig>,
        rds: &RdsConfig,
    ) -> Option<watch::Receiver<bool>> {
        let key = (rds.source.clone(), rds.route_config_name.clone());
        let known = self.followed.borrow().get(&key).cloned();
        let followed = match known {
            Some(followed) => followed,
            None => {
                let followed = self.follow(rds)?;
                self.followed.borrow_mut().insert(key, followed.clone());
                followed
            }
        };
        let mut users = followed.users.borrow_mut();
        let is_user = |user: &std::sync::Weak<_>| user.as_ptr() == Arc::as_ptr(manager);
        if !users.iter().any(is_user) {
            users.push(Arc::downgrade(manager));
        }
        drop(users);
        if let Some(table) = &*followed.table.borrow() {
            self.retired.keep(manager.set_routes(table.clone()));
        }
        Some(followed.was_read.subscribe())
    }

    /// Reads routes now and whenever they change.
    fn follow(&self, rds: &RdsConfig) -> Option<Rc<FollowedRoutes>> {
        let scope = rds.scope.clone().name("rds").name(&rds.route_config_name);
        let subject = SubscriptionTarget {
            kind: &ResourceType::ROUTES,
            name: Some(&rds.route_config_name),
            scope: scope.clone(),
        };
        let sources = self.clusters.sources();
        let subscription = sources.subscribe(&rds.source, subject, &self.store);
        let mut subscription = match subscription {
            Ok(subscription) => subscription,
            Err(error) => {
                log::error!(target: "config", "routes '{}' cannot be followed: {error}", rds.route_config_name);
                return None;
            }
        };
        let followed = Rc::new(FollowedRoutes {
            name: rds.route_config_name.clone(),
            store: self.store.clone(),
            clusters: self.clusters.clone(),
            retired: self.retired.clone(),
            stats: self.store.register(scope),
            table: RefCell::default(),
            dumped: RefCell::default(),
            users: RefCell::default(),
            task: RefCell::default(),
            was_read: watch::Sender::new(false),
        });
        let routes = Rc::downgrade(&followed);
        let task = tokio::task::spawn_local(async move {
            loop {
                subscription.changed().await;
                let Some(followed) = Weak::upgrade(&routes) else {
                    return;
                };
                subscription
                    .update(async |update| followed.take(update).await)
                    .await;
                followed.was_read.send_replace(true);
            }
        });
        followed.task.replace(Some(task.abort_handle()));
        Some(followed)
    }

    /// Drops the routes that no connection manager uses now.
    pub(crate) fn forget_unused(&self) {
        self.followed.borrow_mut().retain(|_, followed| {
            let mut users = followed.users.borrow_mut();
            users.retain(|user| user.strong_count() > 0);
            !users.is_empty()
        });
    }

    /// The entries of `/config_dump`, by name.
    pub(crate) fn dump(&self) -> Vec<DynamicResource> {
        let followed = self.followed.borrow();
        let mut all: Vec<&Rc<FollowedRoutes>> = followed.values().collect();
        all.sort_by_key(|followed| &followed.name);
        let dumped = all
            .into_iter()
            .filter_map(|one| one.dumped.borrow().clone());
        dumped.collect()
    }
}

impl FollowedRoutes {
    /// Applies the routes in `update`, or returns why they are refused.
    async fn take(&self, update: Update) -> Result<(), String> {
        let mut resources = update.resources.into_iter();
        let Some(resource) = resources.next() else {
            if let Removed::Names(_) = update.removed {
                // As in Envoy, the routes stay.
                log::error!(target: "router", "the control plane has removed the routes '{}': ignored", self.name);
                return Ok(());
            }
            self.stats.update_empty.inc();
            return Ok(());
        };
        if let more @ 1.. = resources.len() {
            return Err(format!("Unexpected RDS resource length: {}", more + 1));
        }
        if resource.name != self.name {
            let (expected, name) = (&self.name, &resource.name);
            return Err(format!(
                "Unexpected RDS configuration (expecting {expected}): {name}"
            ));
        }
        let same = |known: &DynamicResource| known.wire == resource.wire;
        if self.dumped.borrow().as_ref().is_some_and(same) {
            return Ok(());
        }
        let (names, store) = (self.clusters.names(), self.store.clone());
        let built = background::run("rds", move || {
            let message = RouteConfiguration::decode(resource.wire.as_slice())
                .map_err(|error| error.to_string())?;
            let cx = RouteCx {
                has_cluster: &|name| names.has(name),
                nearest_cluster: &|name| names.nearest(name).map(str::to_owned),
                validates_clusters: false,
                store: &store,
            };
            let table = RouteTable::build(&message, &FieldPath::root(), &cx);
            let table = table.map_err(|errors| resource.positions.diagnose(errors).to_string())?;
            Ok::<_, String>((table, resource))
        });
        let (table, resource) = built.await.map_err(|error| error.to_string())??;
        let users = self.users.borrow();
        for user in users.iter().filter_map(std::sync::Weak::upgrade) {
            self.retired.keep(user.set_routes(table.clone()));
        }
        drop(users);
        if let Some(previous) = self.table.replace(Some(table)) {
            self.retired.keep(previous);
        }
        self.dumped
            .replace(Some(DynamicResource::new(resource.wire, &resource.version)));
        self.stats.config_reload.inc();
        self.stats.config_reload_time_ms.set(now_ms());
        Ok(())
    }
}

impl Drop for FollowedRoutes {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

//! A subscription to resources, wherever they are.

use std::io;
use std::sync::Arc;

use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ConfigSource;
use crate::FileSubscription;
use crate::Origin;
use crate::ResourceType;
use crate::Sources;
use crate::Update;
use crate::UpdateStats;
use crate::control_plane::Command;
use crate::control_plane::Event;
use crate::control_plane::NewMux;
use crate::control_plane::Watcher;

/// What is subscribed to.
#[derive(Debug)]
pub struct SubscriptionTarget<'a> {
    /// The type of the resources.
    pub kind: &'static ResourceType,
    /// The one resource; `None` for all of the type.
    pub name: Option<&'a str>,
    /// Where the updates are counted.
    pub scope: Scope,
}

/// A subscription to the resources of one type. It ends when it is dropped.
#[derive(Debug)]
pub struct Subscription(Kind);

#[derive(Debug)]
enum Kind {
    File(FileSubscription),
    ControlPlane(Watch),
}

impl Sources {
    /// Subscribes to `subject` at `source`. Nothing is read yet. Must be called on the main thread.
    ///
    /// # Errors
    /// The file, or the directory to watch, does not exist.
    pub fn subscribe(
        &self,
        source: &ConfigSource,
        subject: SubscriptionTarget<'_>,
        store: &Arc<Store>,
    ) -> io::Result<Subscription> {
        let stats = store.register(subject.scope.clone());
        let kind = match &source.origin {
            Origin::File(file) => {
                let name = subject.kind.name;
                Kind::File(FileSubscription::new(file.clone(), name, self, stats)?)
            }
            Origin::Aggregated => {
                let commands = self.aggregated().clone();
                Kind::ControlPlane(self.watch(source, &subject, stats, commands))
            }
            Origin::Api(api) => {
                let (commands, received) = mpsc::unbounded_channel();
                // The control planes are gone only when the process ends.
                let _ = self.muxes().send(NewMux {
                    source: api.clone(),
                    kind: subject.kind,
                    commands: received,
                    stats: store.register(subject.scope.clone().name("control_plane")),
                });
                Kind::ControlPlane(self.watch(source, &subject, stats, commands))
            }
        };
        Ok(Subscription(kind))
    }

    fn watch(
        &self,
        source: &ConfigSource,
        subject: &SubscriptionTarget<'_>,
        stats: Arc<UpdateStats>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Watch {
        // One update at a time, and a few notices that the next one was refused.
        let (events, received) = mpsc::channel(4);
        let id = self.next_subscription();
        stats.update_attempt.inc();
        let watcher = Watcher {
            id,
            kind: subject.kind,
            name: subject.name.map(str::to_owned),
            stats: stats.clone(),
            events,
        };
        // The control planes are gone only when the process ends.
        let _ = commands.send(Command::Subscribe(watcher));
        Watch {
            id,
            kind: subject.kind,
            commands,
            events: received,
            arrived: None,
            deadline: (source.initial_fetch_timeout).map(|timeout| Instant::now() + timeout),
            stats,
        }
    }
}

impl Subscription {
    /// Waits until there is something to take over with [`update`](Self::update). Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Kind::File(file) => file.changed().await,
            Kind::ControlPlane(watch) => watch.changed().await,
        }
    }

    /// Passes the newest resources to `apply`, which returns an error if it refuses them. Counts the outcome. `apply` is not
    /// called if the source failed, or had nothing in time.
    pub async fn update(&mut self, apply: impl AsyncFnOnce(Update) -> Result<(), String>) {
        match &mut self.0 {
            Kind::File(file) => file.update(apply).await,
            Kind::ControlPlane(watch) => watch.update(apply).await,
        }
    }
}

/// Holds back the acknowledgements of one type: the aggregated control plane is to know when updates have taken effect.
#[derive(Debug)]
pub struct Acknowledgements(Option<(mpsc::UnboundedSender<Command>, &'static ResourceType)>);

impl Acknowledgements {
    /// Those of this type at `source`.
    #[must_use]
    pub fn new(source: &ConfigSource, kind: &'static ResourceType, sources: &Sources) -> Self {
        let is_aggregated = source.origin == Origin::Aggregated;
        Acknowledgements(is_aggregated.then(|| (sources.aggregated().clone(), kind)))
    }

    /// Sends none from now on, or does so again.
    pub fn hold(&self, hold: bool) {
        let Some((commands, kind)) = &self.0 else {
            return;
        };
        // The control plane may be gone: then nothing has to be held back.
        let _ = commands.send(match hold {
            true => Command::Pause(kind),
            false => Command::Resume(kind),
        });
    }
}

/// A subscription at a control plane.
#[derive(Debug)]
struct Watch {
    id: u64,
    kind: &'static ResourceType,
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::Receiver<Event>,
    /// What was received and not taken over yet.
    arrived: Option<Arrived>,
    /// When the first response must be there.
    deadline: Option<Instant>,
    stats: Arc<UpdateStats>,
}

#[derive(Debug)]
enum Arrived {
    Update(Update, oneshot::Sender<Result<(), String>>),
    /// A response was refused, or nothing came in time.
    Nothing,
}

impl Watch {
    async fn changed(&mut self) {
        if self.arrived.is_some() {
            return;
        }
        let deadline = self.deadline;
        let late = async || match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        };
        self.arrived = Some(tokio::select! {
            biased;
            event = self.events.recv() => match event {
                Some(Event::Update(update, done)) => Arrived::Update(update, done),
                Some(Event::Rejected) => Arrived::Nothing,
                // There is no such control plane. As in Envoy, only the timeout ends the wait for the first response.
                None => {
                    late().await;
                    self.time_out();
                    Arrived::Nothing
                }
            },
            () = late() => {
                self.time_out();
                Arrived::Nothing
            }
        });
        self.deadline = None;
    }

    fn time_out(&self) {
        self.stats.init_fetch_timeout.inc();
        self.stats.update_attempt.inc();
        log::warn!(target: "config", "gRPC config: initial fetch timed out for {}", self.kind.url());
    }

    async fn update(&mut self, apply: impl AsyncFnOnce(Update) -> Result<(), String>) {
        self.changed().await;
        let Some(Arrived::Update(update, done)) = self.arrived.take() else {
            return;
        };
        let version = update.version.clone();
        let applied = apply(update).await;
        if applied.is_ok() {
            self.stats.update_attempt.inc();
            self.stats.accept(&version);
        }
        // The control plane's side is gone only when the process ends.
        let _ = done.send(applied);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (kind, id) = (self.kind, self.id);
        // The control planes are gone only when the process ends.
        let _ = self.commands.send(Command::Unsubscribe { kind, id });
    }
}

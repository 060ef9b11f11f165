//! One stream and the subscriptions that share it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Node;
use outrider_net::BackOff;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio::time::sleep_until;

use super::Command;
use super::Event;
use super::NewMux;
use super::Watcher;
use super::client::ControlPlaneClient;
use super::client::DiscoveryStream;
use super::client::LocalFuture;
use super::client::XdsResponse;
use super::protocol::Known;
use super::protocol::Outcome;
use super::protocol::Protocol;
use super::protocol::known;
use super::rate::Bucket;
use super::received::Read;
use super::received::Received;
use super::received::read_all;
use super::ttl::Expiries;
use crate::ApiSource;
use crate::Removed;
use crate::ResourceType;
use crate::Sources;
use crate::Update;
use crate::api_source;
use crate::stats::ControlPlaneStats;

/// How often other tasks are polled before a response is acknowledged. An update that warms a cluster ends in the next
/// subscription after a few.
const SETTLING_POLLS: u32 = 8;

/// The subscriptions of a stream, by the name of their type.
type Watchers = Rc<RefCell<HashMap<&'static str, Vec<Watcher>>>>;

/// One stream, which is opened again whenever it ends.
pub(super) struct Mux {
    source: Arc<ApiSource>,
    sources: Sources,
    client: Rc<dyn ControlPlaneClient>,
    method: &'static str,
    commands: UnboundedReceiver<Command>,
    stats: Arc<ControlPlaneStats>,
    watchers: Watchers,
    protocol: Protocol,
    expiries: Expiries,
    back_off: BackOff,
    bucket: Option<Bucket>,
    /// Why the last stream has ended, if there was no response since.
    logged: Option<String>,
}

/// A response that is being handled.
type Handling = LocalFuture<'static, Handled>;

/// A response that was handled.
struct Handled {
    kind: &'static ResourceType,
    version: String,
    nonce: String,
    /// The names of the resources that are gone; `None`: all that the response does not have.
    removed: Option<Vec<String>>,
    result: Result<Vec<Read>, String>,
}

/// No subscription is left.
struct Unused;

impl Mux {
    pub(super) fn new(
        new: NewMux,
        sources: Sources,
        client: Rc<dyn ControlPlaneClient>,
        node: Arc<Node>,
    ) -> Mux {
        Mux {
            method: match new.source.protocol {
                api_source::Protocol::StateOfTheWorld => new.kind.whole,
                api_source::Protocol::Incremental => new.kind.incremental,
            },
            protocol: Protocol::new(&new.source, node),
            back_off: new.source.back_off,
            bucket: new.source.rate_limit.map(Bucket::new),
            source: new.source,
            sources,
            client,
            commands: new.commands,
            stats: new.stats,
            watchers: Watchers::default(),
            expiries: Expiries::default(),
            logged: None,
        }
    }

    /// Serves the subscriptions until none is left.
    pub(super) async fn run(mut self) {
        // That no subscription is left ends the task.
        let Err(Unused) = self.reconnect().await;
    }

    async fn reconnect(&mut self) -> Result<std::convert::Infallible, Unused> {
        loop {
            self.stats.connected_state.set(1);
            let (client, source) = (self.client.clone(), self.source.clone());
            let opening = client.open(&source, self.method);
            let why = match self.attend(opening).await? {
                Ok(mut stream) => self.converse(&mut *stream).await?,
                Err(error) => error,
            };
            self.log_end(why);
            self.stats.connected_state.set(0);
            self.count_failure();
            let at = Instant::now() + self.back_off.next_wait();
            self.attend(sleep_until(at)).await?;
        }
    }

    /// Logs why the stream has ended, once for each reason until the control plane responds.
    fn log_end(&mut self, why: String) {
        let is_known = self.logged.as_ref() == Some(&why);
        let level = if is_known {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(target: "config", level, "{} gRPC config stream to {} closed: {why}", self.name(), self.source.cluster);
        self.logged = Some(why);
    }

    fn name(&self) -> &'static str {
        self.method.rsplit('/').next().unwrap_or(self.method)
    }

    /// Waits for `future` and follows commands meanwhile.
    async fn attend<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Unused> {
        let mut future = pin!(future);
        loop {
            let expiry = until(self.expiries.next());
            tokio::select! {
                biased;
                command = self.commands.recv() => self.follow(command.ok_or(Unused)?),
                output = &mut future => return Ok(output),
                () = expiry => self.expire().await,
            }
        }
    }

    /// Sends requests and handles responses until the stream ends. Returns why it has ended.
    async fn converse(&mut self, stream: &mut dyn DiscoveryStream) -> Result<String, Unused> {
        self.protocol.opened();
        let mut handling: Option<Handling> = None;
        let mut next: Option<XdsResponse> = None;
        let ended = loop {
            while let Ok(command) = self.commands.try_recv() {
                self.follow(command);
            }
            // While a response is handled, requests wait, so that one can name all that it leads to.
            let send_at = match handling {
                Some(_) => None,
                None => match self.send(stream) {
                    Ok(at) => at,
                    Err(why) => break why,
                },
            };
            if handling.is_none()
                && let Some(response) = next.take()
            {
                handling = self.handle(response);
            }
            let (has_next, expiry) = (next.is_some(), until(self.expiries.next()));
            tokio::select! {
                biased;
                command = self.commands.recv() => self.follow(command.ok_or(Unused)?),
                handled = done(&mut handling) => {
                    handling = None;
                    // What the subscriptions asked for while they applied the response goes first.
                    while let Ok(command) = self.commands.try_recv() {
                        self.follow(command);
                    }
                    if let Err(why) = self.send(stream) {
                        break why;
                    }
                    self.finish(handled);
                }
                response = stream.next(), if !has_next => match response {
                    Ok(Some(response)) => next = Some(response),
                    Ok(None) => break "the control plane has ended it".to_owned(),
                    Err(why) => break why,
                },
                () = until(send_at) => {}
                () = expiry => self.expire().await,
            }
        };
        if let Some(handling) = handling {
            let handled = self.attend(handling).await?;
            self.finish(handled);
        }
        Ok(ended)
    }

    /// Sends what is due. Returns when more may be sent, if the rate is limited.
    ///
    /// # Errors
    /// The control plane does not read.
    fn send(&mut self, stream: &dyn DiscoveryStream) -> Result<Option<Instant>, String> {
        let mut allowed_at = None;
        while self.protocol.has_request() {
            if let Some(Err(at)) = self.bucket.as_mut().map(Bucket::take) {
                self.stats.rate_limit_enforced.inc();
                allowed_at = Some(at);
                break;
            }
            if let Some(request) = self.protocol.next() {
                let sent = stream.send(&request);
                sent.map_err(|_| "the control plane does not read its requests".to_owned())?;
            }
        }
        let waiting = self.protocol.waiting() as u64;
        if waiting > 0 || self.stats.pending_requests.value() > 0 {
            self.stats.pending_requests.set(waiting);
        }
        Ok(allowed_at)
    }

    fn follow(&mut self, command: Command) {
        match command {
            Command::Subscribe(watcher) => {
                (self.protocol).subscribe(watcher.kind, watcher.name.as_deref());
                let mut watchers = self.watchers.borrow_mut();
                watchers.entry(watcher.kind.name).or_default().push(watcher);
            }
            Command::Unsubscribe { kind, id } => {
                let mut watchers = self.watchers.borrow_mut();
                let of_kind = watchers.entry(kind.name).or_default();
                if let Some(at) = of_kind.iter().position(|watcher| watcher.id == id) {
                    let watcher = of_kind.remove(at);
                    self.protocol.unsubscribe(kind, watcher.name.as_deref());
                    if let Some(name) = &watcher.name
                        && !of_kind.iter().any(|other| other.name == watcher.name)
                    {
                        self.expiries.set(kind, name, None);
                    }
                }
            }
            Command::Pause(kind) => self.protocol.pause(kind, true),
            Command::Resume(kind) => self.protocol.pause(kind, false),
        }
    }

    /// The stream has ended, or could not be opened.
    fn count_failure(&self) {
        for watcher in self.watchers.borrow().values().flatten() {
            watcher.stats.update_failure.inc();
            watcher.stats.update_attempt.inc();
        }
    }

    /// The type of this name, if there are subscriptions to it.
    fn watched(&self, name: &str) -> Option<&'static ResourceType> {
        let watchers = self.watchers.borrow();
        watchers.get(name)?.first().map(|watcher| watcher.kind)
    }

    /// Begins to handle a response.
    fn handle(&mut self, response: XdsResponse) -> Option<Handling> {
        self.back_off.reset();
        self.logged = None;
        let (mut received, checked) = Received::new(response);
        if let Some(identifier) = &received.identifier {
            self.stats.identifier.set(identifier);
        }
        let of_type = received.type_url.strip_prefix("type.googleapis.com/");
        let Some(kind) = of_type.and_then(|name| self.watched(name)) else {
            log::warn!(target: "config", "Ignoring unwatched type URL {}", received.type_url);
            return None;
        };
        // What only confirms a resource must be about the version that the proxy has.
        let protocol = &self.protocol;
        received.entries.retain(|entry| {
            let name = entry.name.as_deref().unwrap_or_default();
            !entry.is_heartbeat() || protocol.has(kind, name, &entry.version) || {
                log::warn!(target: "config", "'{name}' is confirmed in version {}, but the proxy has another version", entry.version);
                false
            }
        });
        // Requests that arise while the response is handled are sent with its acknowledgement.
        self.protocol.pause(kind, true);
        let work = ResponseWork {
            kind,
            sources: self.sources.clone(),
            watchers: self.watchers.clone(),
        };
        Some(Box::pin(work.apply(received, checked)))
    }

    /// A response was handled: notes and acknowledges it.
    fn finish(&mut self, handled: Handled) {
        let Handled {
            kind,
            version,
            nonce,
            removed,
            result,
        } = handled;
        let (resources, error): (Vec<Known>, _) = match result {
            Ok(read) => {
                self.note_expiries(kind, &read, removed.as_deref());
                (known(&read), None)
            }
            Err(error) => {
                log::warn!(target: "config", "gRPC config for {} rejected: {error}", kind.url());
                self.reject(kind);
                (Vec::new(), Some(error))
            }
        };
        self.protocol.finish(Outcome {
            kind,
            version: &version,
            nonce: &nonce,
            resources: &resources,
            removed: removed.as_deref().unwrap_or_default(),
            error,
        });
        self.protocol.pause(kind, false);
    }

    /// Notes when the resources of a response expire; only those that are subscribed to.
    fn note_expiries(
        &mut self,
        kind: &'static ResourceType,
        read: &[Read],
        removed: Option<&[String]>,
    ) {
        let watchers = self.watchers.borrow();
        let of_kind = watchers.get(kind.name).map_or(&[][..], Vec::as_slice);
        let wants_all = of_kind.iter().any(|watcher| watcher.name.is_none());
        let names = of_kind.iter().filter_map(|watcher| watcher.name.as_deref());
        let names: HashSet<&str> = names.collect();
        match removed {
            Some(names) => {
                for name in names {
                    self.expiries.set(kind, name, None);
                }
            }
            None if wants_all => self.expiries.clear(kind),
            None => {}
        }
        for one in read {
            if wants_all || names.contains(one.name.as_str()) {
                self.expiries.set(kind, &one.name, one.ttl);
            }
        }
    }

    /// As in Envoy, a response counts as refused for all subscriptions of its type.
    fn reject(&self, kind: &ResourceType) {
        let watchers = self.watchers.borrow();
        for watcher in watchers.get(kind.name).into_iter().flatten() {
            watcher.stats.update_rejected.inc();
            watcher.stats.update_attempt.inc();
            // Without room, there is something newer to read.
            let _ = watcher.events.try_send(Event::Rejected);
        }
    }

    /// Removes the resources that were not confirmed in time.
    async fn expire(&mut self) {
        let Some((kind, names)) = self.expiries.take() else {
            return;
        };
        log::warn!(target: "config", "{kind}: not confirmed in time: {}", names.join(", "));
        let Some(kind) = self.watched(kind) else {
            return;
        };
        self.protocol.forget(kind, &names);
        let removed = Removed::Names(names);
        let delivered = deliver(&self.watchers, kind, String::new(), &[], &removed);
        if let Err(error) = replies(delivered.await).await {
            log::warn!(target: "config", "{error}");
        }
    }
}

/// The work on one response.
struct ResponseWork {
    kind: &'static ResourceType,
    sources: Sources,
    watchers: Watchers,
}

impl ResponseWork {
    async fn apply(self, received: Received, checked: Result<(), String>) -> Handled {
        let removed = received.removed.clone();
        let (version, nonce) = (received.version, received.nonce);
        let result = match checked {
            Ok(()) => read_all(received.entries, self.kind, &self.sources).await,
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(read) => {
                let gone = removed.clone().map_or(Removed::AllOthers, Removed::Names);
                let delivered =
                    deliver(&self.watchers, self.kind, version.clone(), &read, &gone).await;
                replies(delivered).await.map(|()| read)
            }
            Err(error) => Err(error),
        };
        // Lets the effects of the update subscribe and unsubscribe first.
        for _ in 0..SETTLING_POLLS {
            yield_now().await;
        }
        Handled {
            kind: self.kind,
            version,
            nonce,
            removed,
            result,
        }
    }
}

/// The replies of subscriptions, which say whether they have applied an update.
type Replies = Vec<oneshot::Receiver<Result<(), String>>>;

/// Gives each subscription its part of an update.
async fn deliver(
    watchers: &Watchers,
    kind: &ResourceType,
    version: String,
    read: &[Read],
    removed: &Removed,
) -> Replies {
    let mut by_name: HashMap<&str, &Read> = HashMap::new();
    for one in read {
        by_name.entry(&one.name).or_insert(one);
    }
    let gone: HashSet<&str> = match removed {
        Removed::Names(names) => names.iter().map(String::as_str).collect(),
        Removed::AllOthers => HashSet::new(),
    };
    let mut sending = Vec::new();
    for watcher in watchers.borrow().get(kind.name).into_iter().flatten() {
        let (resources, removed) = match &watcher.name {
            None => {
                let all = read.iter().filter_map(|one| one.resource.clone());
                (all.collect(), removed.clone())
            }
            Some(name) => {
                let one = by_name.get(name.as_str());
                let one = one.and_then(|one| one.resource.clone());
                let is_gone = gone.contains(name.as_str());
                if one.is_none() && !is_gone {
                    continue;
                }
                let gone = is_gone.then(|| name.clone());
                (
                    one.into_iter().collect(),
                    Removed::Names(gone.into_iter().collect()),
                )
            }
        };
        let update = Update {
            version: version.clone(),
            resources,
            removed,
        };
        sending.push((watcher.events.clone(), update));
    }
    let mut replies = Vec::with_capacity(sending.len());
    for (events, update) in sending {
        let (reply, replied) = oneshot::channel();
        // A subscription that has ended needs no update.
        if events.send(Event::Update(update, reply)).await.is_ok() {
            replies.push(replied);
        }
    }
    replies
}

/// Waits until all subscriptions have applied an update.
///
/// # Errors
/// Why those that refuse it do so.
async fn replies(replies: Replies) -> Result<(), String> {
    let mut errors = Vec::new();
    for reply in replies {
        // Without a reply, the subscription has ended.
        if let Ok(Err(error)) = reply.await {
            errors.push(error);
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.join("; ")),
    }
}

async fn done(handling: &mut Option<Handling>) -> Handled {
    match handling {
        Some(handling) => handling.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

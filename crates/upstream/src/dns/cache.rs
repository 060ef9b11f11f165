//! Caches answers (`qcache_max_ttl`).

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::message::Reply;
use super::resolver::Answer;

/// The answers of one resolver. Names in the config and search domains limit their number.
#[derive(Debug)]
pub(super) struct Cache {
    /// How long answers are kept at most; zero disables the cache.
    longest: Duration,
    entries: HashMap<(Name, RecordType), CachedAnswer>,
}

#[derive(Debug)]
struct CachedAnswer {
    answer: Answer,
    since: Instant,
    lifetime: Duration,
}

impl Cache {
    pub(super) fn new(longest: Duration) -> Cache {
        Cache {
            longest,
            entries: HashMap::new(),
        }
    }

    /// The cached answer to a question. Its TTL is reduced by its age.
    pub(super) fn get(&mut self, name: &Name, kind: RecordType) -> Option<Answer> {
        if self.longest.is_zero() {
            return None;
        }
        self.entries.retain(|_, e| e.since.elapsed() < e.lifetime);
        let entry = self.entries.get(&(name.to_lowercase(), kind))?;
        let mut answer = entry.answer.clone();
        let age = Duration::from_secs(entry.since.elapsed().as_secs());
        answer.ttl = answer.ttl.saturating_sub(age);
        Some(answer)
    }

    pub(super) fn insert(&mut self, name: &Name, kind: RecordType, reply: &Reply) {
        let lifetime = Duration::from_secs(reply.keep.unwrap_or(0).into()).min(self.longest);
        if !lifetime.is_zero() {
            let entry = CachedAnswer {
                answer: reply.answer.clone(),
                since: Instant::now(),
                lifetime,
            };
            self.entries.insert((name.to_lowercase(), kind), entry);
        }
    }
}

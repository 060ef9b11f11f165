//! Tokens whose signature was found good, so that it need not be checked again (`jwt_cache_config`).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;

use super::token::Token;

/// The tokens that were used last, on one worker.
#[derive(Debug)]
pub(super) struct TokenCache {
    /// How many tokens it holds at most.
    size: usize,
    /// Longer tokens are not kept.
    max_length: usize,
    tokens: HashMap<Rc<[u8]>, CachedToken>,
    /// The tokens in the order of their last use.
    order: BTreeMap<u64, Rc<[u8]>>,
    uses: u64,
}

#[derive(Debug)]
struct CachedToken {
    token: Rc<Token>,
    last_use: u64,
}

impl TokenCache {
    pub(super) fn new(size: usize, max_length: usize) -> TokenCache {
        TokenCache {
            size,
            max_length,
            tokens: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }

    /// The token with this text.
    pub(super) fn get(&mut self, text: &[u8]) -> Option<Rc<Token>> {
        let cached = self.tokens.get_mut(text)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&cached.last_use) {
            self.order.insert(self.uses, key);
        }
        cached.last_use = self.uses;
        Some(cached.token.clone())
    }

    /// Forgets a token that has expired.
    pub(super) fn remove(&mut self, text: &[u8]) {
        if let Some(cached) = self.tokens.remove(text) {
            self.order.remove(&cached.last_use);
        }
    }

    /// Keeps a token. Evicts the least recently used one if the cache is full.
    pub(super) fn insert(&mut self, text: &[u8], token: Rc<Token>) {
        if text.len() > self.max_length || self.tokens.contains_key(text) {
            return;
        }
        if self.tokens.len() >= self.size
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.tokens.remove(&oldest);
        }
        self.uses += 1;
        let key: Rc<[u8]> = text.into();
        self.order.insert(self.uses, key.clone());
        let last_use = self.uses;
        self.tokens.insert(key, CachedToken { token, last_use });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_was_not_used_for_longest_goes() {
        let token = Rc::new(Token::parse(b"eyJhbGciOiJIUzI1NiJ9.e30.AAAA").unwrap());
        let mut cache = TokenCache::new(2, 3);
        let mut keep = |text: &[u8]| cache.insert(text, token.clone());
        keep(b"a");
        keep(b"b");
        keep(b"long");
        assert!(cache.get(b"a").is_some());
        cache.insert(b"c", token.clone());
        let known = [&b"a"[..], b"b", b"c", b"long"].map(|text| cache.get(text).is_some());
        assert_eq!(known, [true, false, true, false]);
        cache.remove(b"a");
        assert!(cache.get(b"a").is_none());
        assert_eq!(cache.order.len(), 1);
    }
}

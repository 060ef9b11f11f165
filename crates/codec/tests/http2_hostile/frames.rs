//! Generates the frames that a hostile peer sends, most of them valid.

use std::collections::HashMap;

use fastrand::Rng;

/// Which part of a message comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessagePart {
    Head,
    Body,
}

/// Generates the frames of one connection, most of which follow the rules.
pub(crate) struct HostileFrames {
    pub(crate) rng: Rng,
    is_client: bool,
    /// The number of the next stream.
    pub(crate) next: u32,
    /// Streams whose message is incomplete: the next part is its body, or on servers its head.
    pub(crate) open: Vec<(u32, MessagePart)>,
    /// The number of dynamic table entries that can be referred to.
    indexed: u8,
    /// How many frames out of a thousand break the rules.
    pub(crate) invalid_per_mille: u16,
    /// The number of bytes sent in DATA frames.
    pub(crate) sent: u64,
    /// How many bytes the codec may send: in total, initially on a stream, and additionally on each stream after
    /// updates.
    pub(crate) granted: u64,
    pub(crate) initial: u64,
    pub(crate) updates: HashMap<u32, u64>,
    pub(crate) out: Vec<u8>,
}

impl HostileFrames {
    pub(crate) fn new(mut rng: Rng, is_client: bool) -> HostileFrames {
        HostileFrames {
            is_client,
            next: 1,
            open: Vec::new(),
            indexed: 0,
            invalid_per_mille: [0, 0, 2, 20][rng.usize(..4)],
            sent: 0,
            granted: 65_535,
            initial: 65_535,
            updates: HashMap::new(),
            out: Vec::new(),
            rng,
        }
    }

    pub(crate) fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.out.extend_from_slice(&length[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    pub(crate) fn breaks_rules(&mut self) -> bool {
        self.rng.u16(..1000) < self.invalid_per_mille
    }

    /// A random stream that was opened.
    fn stream(&mut self) -> u32 {
        if self.breaks_rules() {
            return self.rng.u32(..) >> self.rng.u8(1..=32).min(31);
        }
        match self.next / 2 {
            0 => 0,
            count => 1 + 2 * self.rng.u32(count.saturating_sub(8)..count),
        }
    }

    /// A random stream whose message is at `part`, and whether to end its message.
    fn part(&mut self, part: MessagePart) -> Option<(u32, bool)> {
        let end = self.rng.u8(..4) == 0;
        if self.breaks_rules() {
            return Some((self.stream(), end));
        }
        let list = self.open.iter().filter(|(_, at)| *at == part);
        let list: Vec<u32> = list.map(|(id, _)| *id).collect();
        let found = self.rng.choice(list)?;
        if end {
            self.open.retain(|(id, _)| *id != found);
        }
        Some((found, end))
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let indexed = self.rng.u8(..4) == 0;
        self.indexed += u8::from(indexed && self.indexed < 20);
        block.push(if indexed { 0x40 } else { 0 });
        block.push(u8::try_from(name.len()).unwrap());
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value);
    }

    fn block(&mut self, start: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        if self.rng.u8(..30) == 0 {
            block.extend([0x20, 0x3f, 0xe1, 0x1f]); // table size updates: 0, then 4096
            self.indexed = 0;
        }
        block.extend_from_slice(start);
        for _ in 0..self.rng.u8(..4) {
            match self.rng.u16(..300) {
                0 => self.field(&mut block, b"content-length", b"7"),
                1 => self.field(&mut block, b"Bad Name", b"x"),
                2 => self.field(&mut block, b"connection", b"close"),
                3 => self.field(&mut block, b"content-length", b"0"),
                4..100 => self.field(&mut block, b"cookie", b"a=b"),
                100..200 if self.indexed > 0 => {
                    block.push(0x80 | (62 + self.rng.u8(..self.indexed)))
                }
                _ => {
                    let value = vec![b'v'; self.rng.usize(..120)];
                    self.field(&mut block, b"x-some", &value);
                }
            }
        }
        block
    }

    fn head(&mut self) -> Vec<u8> {
        if self.is_client {
            let method = if self.rng.bool() { 0x82 } else { 0x83 };
            self.block(&[method, 0x86, 0x84, 0x41, 1, b'a'])
        } else {
            let status = if self.rng.u8(..8) == 0 { 0x89 } else { 0x88 };
            self.block(&[status])
        }
    }

    /// Sends a header block in one or several frames, possibly with padding or a priority.
    fn headers(&mut self, stream: u32, block: &[u8], end: bool) {
        let mut flags = u8::from(end);
        let mut payload = Vec::new();
        let padding = self.rng.u8(..9);
        if padding == 0 {
            flags |= 0x8;
            payload.push(3);
        }
        if self.rng.u8(..9) == 0 {
            flags |= 0x20;
            payload.extend([0, 0, 0, 0, 7]);
        }
        let cut = match self.rng.u8(..6) {
            0 => self.rng.usize(..=block.len()),
            _ => block.len(),
        };
        payload.extend_from_slice(&block[..cut]);
        if padding == 0 {
            payload.extend([0; 3]);
        }
        if cut == block.len() {
            return self.push(1, flags | 4, stream, &payload);
        }
        self.push(1, flags, stream, &payload);
        for _ in 0..self.rng.u8(..3) {
            self.push(9, 0, stream, &[]);
        }
        if !self.breaks_rules() {
            self.push(9, 4, stream, &block[cut..]);
        }
    }

    fn data(&mut self) {
        let Some((stream, end)) = self.part(MessagePart::Body) else {
            return;
        };
        let size = match self.rng.u8(..8) {
            0 => self.rng.usize(..=16_384),
            1 => 7,
            _ => self.rng.usize(1..100),
        };
        let mut payload = vec![b'd'; size];
        let mut flags = u8::from(end);
        if size > 0 && self.rng.u8(..5) == 0 {
            flags |= 0x8;
            payload[0] = u8::try_from(size.min(200)).unwrap() - u8::from(!self.breaks_rules());
        }
        self.sent += size as u64;
        self.push(0, flags, stream, &payload);
    }

    fn settings(&mut self) {
        let (id, value) = match self.rng.u8(..8) {
            0 => (1, self.rng.u32(..5000)),
            1 => (3, self.rng.u32(..20)),
            2 => (5, 16_384 + self.rng.u32(..100)),
            3 if self.breaks_rules() => (4, 0x7fff_ffff - self.rng.u32(..10)),
            4 | 5 => (4, self.rng.u32(..100)),
            _ => (4, self.rng.u32(..200_000)),
        };
        if id == 4 {
            self.initial = self.initial.max(value.into());
        }
        let mut payload = Vec::new();
        payload.extend(u16::to_be_bytes(id));
        payload.extend(u32::to_be_bytes(value));
        self.push(4, 0, 0, &payload);
    }

    fn window_update(&mut self) {
        let stream = if self.rng.bool() { 0 } else { self.stream() };
        let increment = match self.rng.u8(..100) {
            0 if self.breaks_rules() => 0x7fff_ffff,
            1 if self.breaks_rules() => 0,
            2..50 => self.rng.u32(1..200),
            _ => self.rng.u32(1..100_000),
        };
        match stream {
            0 => self.granted += u64::from(increment),
            _ => *self.updates.entry(stream).or_default() += u64::from(increment),
        }
        self.push(8, 0, stream, &increment.to_be_bytes());
    }

    /// Sends the head of a request or response.
    fn begin(&mut self) {
        if self.is_client {
            let (id, end) = (self.next, self.rng.bool());
            self.next += 2;
            let block = self.head();
            self.headers(id, &block, end);
            if !end {
                self.open.push((id, MessagePart::Body));
            }
            return;
        }
        let Some((id, end)) = self.part(MessagePart::Head) else {
            return;
        };
        let interim = !end && self.rng.u8(..4) == 0;
        let block = if interim {
            self.block(&[0x08, 3, b'1', b'0', b'3'])
        } else {
            self.head()
        };
        self.headers(id, &block, end);
        if !interim && let Some(place) = self.open.iter_mut().find(|(open, _)| *open == id) {
            place.1 = MessagePart::Body;
        }
    }

    /// Sends one more random frame or message part.
    pub(crate) fn next(&mut self) {
        match self.rng.u8(..100) {
            0..30 => self.begin(),
            30..62 => self.data(),
            62..66 => {
                if let Some((stream, _)) = self.part(MessagePart::Body) {
                    self.open.retain(|(id, _)| *id != stream);
                    let (block, end) = (self.block(&[]), !self.breaks_rules());
                    self.headers(stream, &block, end);
                }
            }
            66..74 if self.next > 1 => {
                let stream = self.stream();
                self.open.retain(|(id, _)| *id != stream);
                let code = u32::from(self.rng.u8(..14));
                self.push(3, 0, stream, &code.to_be_bytes());
            }
            74..80 => self.settings(),
            80..90 => self.window_update(),
            90..94 => {
                let flags = self.rng.u8(..2);
                self.push(6, flags, 0, b"12345678");
            }
            94 => {
                let stream = self.stream();
                self.push(2, 0, stream, &[0, 0, 0, 0, 9]);
            }
            95 => {
                let (kind, flags) = (self.rng.u8(10..), self.rng.u8(..));
                let stream = self.rng.u32(..);
                self.push(kind, flags, stream, b"what");
            }
            96 if self.breaks_rules() => self.push(4, 1, 0, &[]),
            97 if self.rng.u8(..8) == 0 => {
                let last = u32::to_be_bytes(self.stream());
                self.push(7, 0, 0, &[&last[..], &[0; 4]].concat());
            }
            98 if self.breaks_rules() => {
                let (kind, flags, stream) = (self.rng.u8(..10), self.rng.u8(..), self.stream());
                let payload = vec![self.rng.u8(..); self.rng.usize(..40)];
                self.push(kind, flags, stream, &payload);
            }
            _ => {}
        }
    }

    /// Changes or removes a random byte.
    pub(crate) fn mutate(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.out.len());
        if self.rng.u8(..4) == 0 {
            self.out.remove(at);
        } else {
            self.out[at] ^= 1 << self.rng.u8(..8);
        }
    }
}

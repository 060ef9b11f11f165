//! Encodes questions and decodes replies.

use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::Query;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::cookie;
use super::resolver::Answer;

/// One question. It has the same id each time it is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    id: u16,
    query: Query,
    /// The UDP payload size that the EDNS record offers; `None` without the record.
    pub(super) edns: Option<u16>,
}

/// A server's reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    /// The reply is truncated: the whole reply can be fetched by TCP.
    pub(super) truncated: bool,
    /// Whether the reply has an EDNS record.
    pub(super) edns: bool,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) answer: Answer,
    /// How long it may be cached, in seconds; `None` if it must not be cached.
    pub(super) keep: Option<u32>,
}

/// How a received packet relates to a question.
#[derive(Debug)]
pub(super) enum Packet {
    Reply(Box<Reply>),
    /// The reply to another question.
    Other,
    Malformed(String),
}

impl Question {
    pub(super) fn new(name: Name, kind: RecordType, edns: Option<u16>) -> Question {
        let [high, low, ..] = cookie::random().to_be_bytes();
        Question {
            id: u16::from_be_bytes([high, low]),
            query: Query::query(name, kind),
            edns,
        }
    }

    pub(super) fn encode(&self, cookie: Option<&[u8]>) -> Result<Vec<u8>, ProtoError> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        if let Some(payload) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            if let Some(cookie) = cookie {
                let cookie = EdnsOption::Unknown(EdnsCode::Cookie.into(), cookie.to_vec());
                edns.options_mut().insert(cookie);
            }
            message.set_edns(edns);
        }
        message.to_vec()
    }

    pub(super) fn read(&self, packet: &[u8]) -> Packet {
        if packet.is_empty()
            || packet
                .get(..2)
                .is_some_and(|id| id != self.id.to_be_bytes())
        {
            return Packet::Other;
        }
        let message = match Message::from_vec(packet) {
            Ok(message) => message,
            Err(error) => return Packet::Malformed(error.to_string()),
        };
        match message.queries.as_slice() {
            [query] if *query == self.query => Packet::Reply(Box::new(Reply::of(&message))),
            [_] => Packet::Other,
            _ => Packet::Malformed("a reply must have one question".to_owned()),
        }
    }
}

impl Reply {
    fn of(message: &Message) -> Reply {
        let code = match message.metadata.response_code {
            ResponseCode::Unknown(_) => ResponseCode::ServFail,
            code => code,
        };
        let option = |edns: &Edns| match edns.option(EdnsCode::Cookie) {
            Some(EdnsOption::Unknown(_, cookie)) => Some(cookie.clone()),
            _ => None,
        };
        let truncated = message.metadata.truncation;
        let mut answer = Answer::default();
        match code {
            ResponseCode::NXDomain => answer.no_such_name = true,
            _ => answer.take(&message.answers),
        }
        Reply {
            code,
            truncated,
            edns: message.edns.is_some(),
            cookie: message.edns.as_ref().and_then(option),
            answer,
            keep: match code {
                _ if truncated => None,
                ResponseCode::NoError => Some(shortest_ttl(message)),
                ResponseCode::NXDomain => negative_ttl(message),
                _ => None,
            },
        }
    }
}

impl Answer {
    /// Takes all addresses regardless of owner and type: if AAAA was asked for and A was returned, the address is
    /// usable.
    fn take(&mut self, records: &[Record]) {
        let mut least = None;
        for record in records.iter().filter(|r| r.dns_class == DNSClass::IN) {
            match &record.data {
                RData::CNAME(_) => {}
                data => match data.ip_addr() {
                    Some(ip) => self.addresses.push(ip),
                    None => continue,
                },
            }
            least = Some(ttl(record).min(least.unwrap_or(u32::MAX)));
        }
        self.ttl = Duration::from_secs(least.unwrap_or(0).into());
    }
}

/// A record's time to live. Values of 2^31 and above count as zero (RFC 2181 §8).
fn ttl(record: &Record) -> u32 {
    Some(record.ttl)
        .filter(|ttl| i32::try_from(*ttl).is_ok())
        .unwrap_or(0)
}

/// How long a positive reply may be cached; unlimited if it has no records.
fn shortest_ttl(message: &Message) -> u32 {
    let counts = |record: &&Record| {
        !matches!(
            record.record_type(),
            RecordType::SOA | RecordType::OPT | RecordType::SIG
        )
    };
    let records = message.all_sections().filter(counts);
    records.map(ttl).min().unwrap_or(u32::MAX)
}

/// How long "no such name" may be cached (RFC 2308 §5).
fn negative_ttl(message: &Message) -> Option<u32> {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(ttl(record).min(soa.minimum)),
            _ => None,
        })
}

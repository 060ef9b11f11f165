//! A scripted DNS server.

use std::cell::RefCell;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::UdpSocket;

/// One answer of the script.
#[derive(Clone, Debug)]
pub(crate) enum ScriptedReply {
    /// These addresses, filtered by the family that was asked for, with a TTL in seconds.
    Addresses(&'static [&'static str], u32),
    /// An error code.
    Code(ResponseCode),
    /// A truncated answer; over TCP, these addresses.
    Truncated(&'static [&'static str]),
    /// No answer.
    Nothing,
}

/// The server. It answers each question with the first matching entry of the script, and then removes that entry unless
/// it is the last for the question. Names without an entry do not exist. An entry matches a name (`a.test`), or a name
/// and record type (`AAAA a.test`).
#[derive(Clone)]
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    script: Rc<RefCell<Vec<(String, ScriptedReply)>>>,
    asked: Rc<RefCell<Vec<String>>>,
}

impl DnsServer {
    pub(crate) async fn start(script: &[(&str, ScriptedReply)]) -> DnsServer {
        // A port that is free for both UDP and TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = DnsServer {
            address: udp.local_addr().unwrap(),
            script: Rc::default(),
            asked: Rc::default(),
        };
        server.say(script);
        tokio::task::spawn_local(server.clone().serve_udp(udp));
        tokio::task::spawn_local(server.clone().serve_tcp(tcp));
        server
    }

    /// Replaces the script.
    pub(crate) fn say(&self, script: &[(&str, ScriptedReply)]) {
        let entries = script
            .iter()
            .map(|(name, reply)| (name.to_string(), reply.clone()));
        self.script.replace(entries.collect());
    }

    /// The questions so far, such as `A name`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    async fn serve_udp(self, socket: UdpSocket) {
        let mut buffer = [0; 1500];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = self.answer(&buffer[..length], false) {
                socket.send_to(&answer, peer).await.unwrap();
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let server = self.clone();
            tokio::task::spawn_local(async move {
                while let Ok(length) = socket.read_u16().await {
                    let mut question = vec![0; length.into()];
                    socket.read_exact(&mut question).await.unwrap();
                    if let Some(answer) = server.answer(&question, true) {
                        socket.write_u16(answer.len() as u16).await.unwrap();
                        socket.write_all(&answer).await.unwrap();
                    }
                }
            });
        }
    }

    fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let name = query.name().to_ascii();
        let transport = if tcp { "TCP " } else { "" };
        let asked = format!("{transport}{} {name}", query.query_type());
        self.asked.borrow_mut().push(asked);
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        let mut add = |addresses: &[&str], ttl| {
            for address in addresses {
                let data = match (address.parse().unwrap(), query.query_type()) {
                    (IpAddr::V4(ip), RecordType::A) => RData::A(ip.into()),
                    (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(ip.into()),
                    _ => continue,
                };
                answer
                    .answers
                    .push(Record::from_rdata(query.name().clone(), ttl, data));
            }
        };
        match self.reply(query.query_type(), name.trim_end_matches('.')) {
            ScriptedReply::Addresses(addresses, ttl) => add(addresses, ttl),
            ScriptedReply::Truncated(addresses) if tcp => add(addresses, 60),
            ScriptedReply::Truncated(_) => answer.metadata.truncation = true,
            ScriptedReply::Code(code) => answer.metadata.response_code = code,
            ScriptedReply::Nothing => return None,
        }
        Some(answer.to_vec().unwrap())
    }

    fn reply(&self, kind: RecordType, name: &str) -> ScriptedReply {
        let of_kind = format!("{kind} {name}");
        let mut script = self.script.borrow_mut();
        let mut fitting = script
            .iter()
            .enumerate()
            .filter(|(_, (of, _))| *of == name || *of == of_kind)
            .map(|(index, _)| index);
        match (fitting.next(), fitting.next()) {
            (None, _) => ScriptedReply::Code(ResponseCode::NXDomain),
            (Some(last), None) => script[last].1.clone(),
            (Some(first), Some(_)) => script.remove(first).1,
        }
    }
}

//! A DNS server on loopback that knows one name.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use tokio::net::UdpSocket;

use crate::Error;

/// The server; it answers until the process ends.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    records: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Dns {
    /// Starts a server that answers `name` with `records`.
    pub(crate) async fn start(name: &str, records: &[Ipv4Addr]) -> Result<Dns, Error> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let dns = Dns {
            address: socket.local_addr()?,
            records: Arc::new(Mutex::new(records.to_vec())),
        };
        let mut name = Name::from_ascii(name)?;
        name.set_fqdn(true);
        tokio::spawn(serve(socket, name, dns.records.clone()));
        Ok(dns)
    }

    /// From now on these are the name's A records.
    pub(crate) fn set(&self, records: &[Ipv4Addr]) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records.to_vec();
    }
}

async fn serve(socket: UdpSocket, name: Name, records: Arc<Mutex<Vec<Ipv4Addr>>>) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let Ok(request) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let records = records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Ok(answer) = answer(&request, &name, &records).to_vec() {
            // A client that has gone needs no answer.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

fn answer(request: &Message, name: &Name, records: &[Ipv4Addr]) -> Message {
    let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.authoritative = true;
    answer.metadata.recursion_available = true;
    for query in &request.queries {
        answer.add_query(query.clone());
        if query.name() != name {
            answer.metadata.response_code = ResponseCode::NXDomain;
        } else if query.query_type() == RecordType::A {
            for record in records {
                answer.add_answer(Record::from_rdata(name.clone(), 1, RData::A(A(*record))));
            }
        }
    }
    answer
}

//! Sends packets to a name server and receives packets from it.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;

/// A socket to one server. A UDP socket is connected, so that a closed port causes an error and other senders are
/// ignored.
#[derive(Debug)]
pub(super) enum NameServerConnection {
    Udp(UdpSocket, Vec<u8>),
    /// The stream, and the bytes of the next packet received so far.
    Tcp(TcpStream, Vec<u8>),
}

impl NameServerConnection {
    pub(super) async fn open(server: SocketAddr, tcp: bool) -> io::Result<NameServerConnection> {
        if tcp {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            return Ok(NameServerConnection::Tcp(stream, Vec::new()));
        }
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        Ok(NameServerConnection::Udp(
            socket,
            vec![0; usize::from(u16::MAX)],
        ))
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, NameServerConnection::Tcp(..))
    }

    pub(super) async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self {
            NameServerConnection::Udp(socket, _) => socket.send(packet).await.map(drop),
            NameServerConnection::Tcp(stream, _) => {
                let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
                let whole = [&length.to_be_bytes()[..], packet].concat();
                stream.write_all(&whole).await
            }
        }
    }

    /// Receives the next packet. Cancelling the future loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self {
            NameServerConnection::Udp(socket, buffer) => {
                let length = socket.recv(buffer).await?;
                Ok(buffer.get(..length).unwrap_or_default().to_vec())
            }
            NameServerConnection::Tcp(stream, received) => loop {
                if let Some((length, rest)) = received.split_first_chunk() {
                    let length = usize::from(u16::from_be_bytes(*length));
                    if let Some((packet, rest)) = rest.split_at_checked(length) {
                        let (packet, rest) = (packet.to_vec(), rest.to_vec());
                        *received = rest;
                        return Ok(packet);
                    }
                }
                if stream.read_buf(received).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            },
        }
    }
}

//! Sends and receives raw HTTP/2 frames, as client or server.

use std::rc::Rc;

use outrider_codec::Client;
use outrider_codec::ConnectionEnd;
use outrider_codec::ServerOptions;
use outrider_net::Timers;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::task::spawn_local;

use super::PathHandler;
use super::client_options;
use super::sockets;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

/// One end of a connection that sends and receives raw frames.
pub(crate) struct RawPeer(pub(crate) UnixStream);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Reads a frame; `None` at the end.
pub(crate) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<RawFrame> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    from.read_exact(&mut payload).await.ok()?;
    Some(RawFrame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream),
        payload,
    })
}

impl RawPeer {
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = frame(kind, flags, stream, payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next frame other than `SETTINGS` and `WINDOW_UPDATE`; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<RawFrame> {
        loop {
            let frame = self.any().await?;
            if frame.kind != SETTINGS && frame.kind != WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    pub(crate) async fn any(&mut self) -> Option<RawFrame> {
        read_frame(&mut self.0).await
    }

    /// Sends `frames`, and meanwhile reads until the codec closes, has sent a GOAWAY, or has sent what `is_last` accepts.
    /// Returns all frames that were read.
    pub(crate) async fn exchange(
        &mut self,
        frames: &[u8],
        mut is_last: impl FnMut(&RawFrame) -> bool,
    ) -> Vec<RawFrame> {
        let (mut reader, mut writer) = self.0.split();
        let write = async {
            // The codec may have closed before.
            drop(writer.write_all(frames).await);
            std::future::pending().await
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(frame) = read_frame(&mut reader).await {
                let ends = is_last(&frame) || frame.kind == GOAWAY;
                all.push(frame);
                if ends {
                    break;
                }
            }
            all
        };
        tokio::select! {
            all = read => all,
            () = write => Vec::new(),
        }
    }
}

/// Encodes a header block with indexed fields and literal fields without indexing.
pub(crate) fn head(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x41, 1, b'a']; // GET, http, authority a
    block.extend([0x04, u8::try_from(path.len()).unwrap()]);
    block.extend_from_slice(path.as_bytes());
    for (name, value) in fields {
        block.extend([0x00, u8::try_from(name.len()).unwrap()]);
        block.extend_from_slice(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

pub(crate) fn serve(
    options: ServerOptions,
) -> (UnixStream, Rc<PathHandler>, JoinHandle<ConnectionEnd>) {
    let (ours, theirs) = sockets();
    let script = Rc::new(PathHandler::default());
    let served = outrider_codec::serve(ours, Rc::new(options), script.clone());
    (theirs, script, spawn_local(served))
}

pub(crate) async fn raw_client(
    options: ServerOptions,
) -> (RawPeer, Rc<PathHandler>, JoinHandle<ConnectionEnd>) {
    let (socket, script, served) = serve(options);
    let mut raw = RawPeer(socket);
    raw.0.write_all(PREFACE).await.unwrap();
    raw.send(SETTINGS, 0, 0, &[]).await;
    (raw, script, served)
}

pub(crate) async fn connected(
    timers: &Timers,
    options: ServerOptions,
) -> (Client, Rc<PathHandler>) {
    let (theirs, script, _served) = serve(options);
    let options = Rc::new(client_options(timers));
    let (client, run) = outrider_codec::connect_http2(
        outrider_net::NetworkStream::Unix(theirs),
        options,
        Rc::new(|| {}),
    );
    spawn_local(run);
    (client, script)
}

pub(crate) async fn raw_server(timers: &Timers) -> (Client, RawPeer, JoinHandle<ConnectionEnd>) {
    let (ours, theirs) = sockets();
    let options = Rc::new(client_options(timers));
    let (client, run) = outrider_codec::connect_http2(ours, options, Rc::new(|| {}));
    let driven = spawn_local(run);
    let mut raw = RawPeer(theirs);
    raw.0.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    raw.send(SETTINGS, 0, 0, &[]).await;
    (client, raw, driven)
}

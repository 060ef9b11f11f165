//! Protobuf's wire format, by the tables.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use decode::decode_known;
pub(crate) use encode::encode;

/// How a value is delimited on the wire.
mod wire_type {
    pub(super) const VARINT: u32 = 0;
    pub(super) const FIXED64: u32 = 1;
    pub(super) const LENGTH: u32 = 2;
    pub(super) const FIXED32: u32 = 5;
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::envoy::config::cluster::v3::Cluster;
    use crate::api::envoy::config::core::v3::Node;
    use crate::position::SourcePosition;
    use crate::schema::MessageType;

    #[test]
    fn writes_what_prost_reads_and_back() {
        let number = prost_types::Value {
            kind: Some(prost_types::value::Kind::NumberValue(1.5)),
        };
        let node = Node {
            id: "a".to_owned(),
            metadata: Some(prost_types::Struct {
                fields: [("k".to_owned(), number.clone())].into(),
            }),
            extensions: vec![Default::default(), Default::default()],
            ..Default::default()
        };
        let cluster = Cluster {
            name: "c".to_owned(),
            connect_timeout: Some(prost_types::Duration {
                seconds: -1,
                nanos: -5,
            }),
            per_connection_buffer_limit_bytes: Some(u32::MAX),
            typed_extension_protocol_options: [(
                "x".to_owned(),
                prost_types::Any {
                    type_url: "t/envoy.config.core.v3.Node".to_owned(),
                    value: node.encode_to_vec(),
                },
            )]
            .into(),
            ..Default::default()
        };
        let bytes = cluster.encode_to_vec();
        let message_type = MessageType::find("envoy.config.cluster.v3.Cluster").unwrap();
        let message = decode(message_type, &bytes, SourcePosition::default()).unwrap();
        assert_eq!(Cluster::decode(encode(&message).as_slice()), Ok(cluster));
    }

    #[test]
    fn refuses_malformed_bytes() {
        let message_type = MessageType::find("envoy.config.core.v3.Node").unwrap();
        for bytes in [
            &[0x0a][..],
            &[0x0a, 5, b'x'],
            &[0xff; 11],
            &[0x0a, 1, 0xff],
            &[0x0b],
            &[0x08, 1],
            &[0x00],
        ] {
            assert!(
                decode(message_type, bytes, SourcePosition::default()).is_err(),
                "{bytes:?}"
            );
        }
        // A Struct in a Value in a Struct …, deep enough to overflow the stack.
        let value = MessageType::find("google.protobuf.Value").unwrap();
        let mut bytes = Vec::new();
        for _ in 0..2_000 {
            let mut outer = vec![0x32];
            let mut inner = vec![0x0a];
            prost::encoding::encode_varint(bytes.len() as u64, &mut inner);
            inner.append(&mut bytes);
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.append(&mut inner);
            bytes = outer;
        }
        assert!(decode(value, &bytes, SourcePosition::default()).is_err());
    }
}

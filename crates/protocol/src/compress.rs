//! The payloads that a client gets: one compression byte, then the message (v3: messages), compressed or not.

use brotli::enc::BrotliEncoderParams;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::GzEncoder;
use std::io::Write as _;

/// Payloads up to this length, in bytes, are never compressed: SpacetimeDB's own threshold.
pub const UNCOMPRESSED_BYTES_MAX: usize = 1024;

const NONE: u8 = 0;
const BROTLI: u8 = 1;
const GZIP: u8 = 2;

/// SpacetimeDB's own choice: speed before ratio.
const BROTLI_QUALITY: i32 = 1;

/// What a client wants: the query parameter `compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// Never.
    None,
    /// The default, when the parameter is absent.
    #[default]
    Brotli,
    /// As it says.
    Gzip,
}

impl Compression {
    /// Reads the parameter's value. `None` is answered with 400.
    pub fn from_query(value: &str) -> Option<Self> {
        match value {
            "None" => Some(Self::None),
            "Brotli" => Some(Self::Brotli),
            "Gzip" => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// What stands before a message that is not compressed.
pub fn uncompressed() -> Bytes {
    Bytes::from_static(&[NONE])
}

/// The payload of one message.
pub fn encode(compression: Compression, message: &[u8]) -> Bytes {
    encode_all(compression, [message])
}

/// The payload of several messages, for v3 clients. The threshold counts all of them together, as SpacetimeDB does.
pub fn encode_all<'a>(
    compression: Compression,
    messages: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
) -> Bytes {
    let messages = messages.into_iter();
    let length = messages.clone().map(<[u8]>::len).sum::<usize>();
    if length > UNCOMPRESSED_BYTES_MAX
        && let Some(payload) = compressed(compression, messages.clone(), length)
    {
        return payload;
    }
    let mut payload = BytesMut::with_capacity(1 + length);
    payload.put_u8(NONE);
    messages.for_each(|message| payload.put_slice(message));
    payload.freeze()
}

/// `None` where nothing is to be compressed. Compressing into memory does not fail; if it did, the payload would go
/// uncompressed, which every client understands.
fn compressed<'a>(
    compression: Compression,
    messages: impl Iterator<Item = &'a [u8]>,
    length: usize,
) -> Option<Bytes> {
    let mut payload = Vec::with_capacity(1 + length / 4);
    match compression {
        Compression::None => return None,
        Compression::Brotli => {
            payload.push(BROTLI);
            let params = BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                size_hint: length,
                ..Default::default()
            };
            let mut encoder = brotli::CompressorWriter::with_params(&mut payload, 4096, &params);
            for message in messages {
                encoder.write_all(message).ok()?;
            }
            encoder.into_inner();
        }
        Compression::Gzip => {
            payload.push(GZIP);
            let mut encoder = GzEncoder::new(&mut payload, flate2::Compression::fast());
            for message in messages {
                encoder.write_all(message).ok()?;
            }
            encoder.finish().ok()?;
        }
    }
    Some(payload.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn decode(payload: &[u8]) -> Vec<u8> {
        let (&scheme, body) = payload.split_first().unwrap();
        let mut message = Vec::new();
        match scheme {
            NONE => message.extend_from_slice(body),
            BROTLI => drop(
                brotli::Decompressor::new(body, 4096)
                    .read_to_end(&mut message)
                    .unwrap(),
            ),
            GZIP => drop(
                flate2::read::GzDecoder::new(body)
                    .read_to_end(&mut message)
                    .unwrap(),
            ),
            _ => panic!("unknown scheme {scheme}"),
        }
        message
    }

    #[test]
    fn only_payloads_above_the_threshold_are_compressed() {
        for (name, scheme) in [("None", NONE), ("Brotli", BROTLI), ("Gzip", GZIP)] {
            let compression = Compression::from_query(name).unwrap();
            for length in [0, 1, UNCOMPRESSED_BYTES_MAX, UNCOMPRESSED_BYTES_MAX + 1, 100_000] {
                let message: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
                let payload = encode(compression, &message);
                assert_eq!(
                    payload[0],
                    if length > UNCOMPRESSED_BYTES_MAX {
                        scheme
                    } else {
                        NONE
                    }
                );
                assert_eq!(decode(&payload), message);
                let halves = message.split_at(length / 2);
                assert_eq!(decode(&encode_all(compression, [halves.0, halves.1])), message);
            }
        }
        assert_eq!(Compression::from_query("brotli"), None);
    }
}

//! Answers: a value in the encoding of the question, raw bytes, text, or an error with its status.

use bytes::Bytes;
use everhold_proto::rpc::{HEADER_FORMAT, JSON, POSTCARD};
use everhold_proto::{Error, Kind, codec};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::{Serialize, de::DeserializeOwned};

/// An answer; all bodies are in memory when they are sent.
pub(crate) type Reply = Response<Full<Bytes>>;

/// How bodies of a call are encoded, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Between our own programs.
    Postcard,
    /// For everyone else.
    Json,
}

impl Encoding {
    /// From the content type of a request. Raw bodies and requests without one come from our own
    /// programs when they name their format; anything else is taken for JSON, which curl sends under
    /// various names.
    pub(crate) fn of(headers: &http::HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(value) if value == POSTCARD.as_bytes() => Encoding::Postcard,
            Some(value) if value == JSON.as_bytes() => Encoding::Json,
            _ if headers.contains_key(HEADER_FORMAT) => Encoding::Postcard,
            _ => Encoding::Json,
        }
    }

    /// Decodes a request. An empty JSON body stands for `{}`.
    pub(crate) fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, Error> {
        match self {
            Encoding::Postcard => codec::decode(body).map_err(|e| e.to_string()),
            Encoding::Json if body.is_empty() => {
                serde_json::from_slice(b"{}").map_err(|e| e.to_string())
            }
            Encoding::Json => serde_json::from_slice(body).map_err(|e| e.to_string()),
        }
        .map_err(|reason| Error::new(Kind::Invalid, format!("request does not decode: {reason}")))
    }

    pub(crate) fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, Error> {
        match self {
            Encoding::Postcard => Ok(codec::encode(value)),
            Encoding::Json => serde_json::to_vec(value)
                .map_err(|e| Error::new(Kind::Internal, format!("answer has no JSON form: {e}"))),
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Encoding::Postcard => POSTCARD,
            Encoding::Json => JSON,
        })
    }
}

/// A value, in the encoding of the question.
pub(crate) fn value_reply<T: Serialize>(encoding: Encoding, value: &T) -> Reply {
    match encoding.encode(value) {
        Ok(body) => reply(StatusCode::OK, encoding.content_type(), body.into()),
        Err(error) => error_reply(encoding, &error),
    }
}

/// An error under the status of its kind.
pub(crate) fn error_reply(encoding: Encoding, error: &Error) -> Reply {
    let status =
        StatusCode::from_u16(error.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = encoding.encode(error).unwrap_or_default();
    reply(status, encoding.content_type(), body.into())
}

/// Raw bytes.
pub(crate) fn bytes_reply(status: StatusCode, body: Bytes) -> Reply {
    reply(status, HeaderValue::from_static("application/octet-stream"), body)
}

/// Text for people and scrapers.
pub(crate) fn text_reply(body: String) -> Reply {
    reply(StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), body.into())
}

fn reply(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    /// Our own programs get errors that they can decode, whatever kind of body they sent.
    #[test]
    fn the_encoding_follows_the_caller() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            Encoding::of(&headers)
        };
        assert_eq!(of(&[("content-type", POSTCARD)]), Encoding::Postcard);
        assert_eq!(of(&[(HEADER_FORMAT, "1")]), Encoding::Postcard);
        let raw = [("content-type", "application/octet-stream"), (HEADER_FORMAT, "1")];
        assert_eq!(of(&raw), Encoding::Postcard);
        assert_eq!(of(&[("content-type", JSON), (HEADER_FORMAT, "1")]), Encoding::Json);
        assert_eq!(of(&[("content-type", "text/plain")]), Encoding::Json);
        assert_eq!(of(&[]), Encoding::Json);
    }
}

//! What fuzz targets and their tests on stable share: types that are decoded from foreign bytes, as
//! data ([`Form`]), and valid encodings of them that are found instead of written down.
//!
//! **Invariant:** no function here panics unless a decoder is wrong.

use crate::codec;
use serde::{Serialize, de::DeserializeOwned};

mod forms;

pub use forms::{decode_answer, decode_row, decode_text, samples_of_answers, samples_of_rows};

/// One type that is decoded from foreign bytes.
#[derive(Clone, Copy)]
pub struct Form {
    /// Decodes, and checks what came out.
    pub check: fn(&[u8]),
    /// A valid encoding, by a seed.
    pub sample: fn(u64) -> Option<Vec<u8>>,
}

impl Form {
    /// A message in postcard.
    pub const fn message<T: Serialize + DeserializeOwned>() -> Self {
        Form { check: check_message::<T>, sample: sample::<T> }
    }

    /// A stored row: a version, then postcard.
    pub const fn row<T: Serialize + DeserializeOwned>() -> Self {
        Form { check: check_row::<T>, sample: sample_row::<T> }
    }

    /// A message in JSON.
    pub const fn json<T: Serialize + DeserializeOwned>() -> Self {
        Form { check: check_json::<T>, sample: sample_json::<T> }
    }
}

/// The first byte chooses the form, the others are what it decodes.
pub fn decode_one_of(forms: &[Form], bytes: &[u8]) {
    if let Some((choice, body)) = bytes.split_first() {
        (forms[usize::from(*choice) % forms.len()].check)(body);
    }
}

/// `each` valid encodings of every form, with the byte that chooses it.
pub fn samples(forms: &[Form], each: u64) -> Vec<Vec<u8>> {
    assert!(forms.len() <= 256, "one byte chooses the form");
    let of = |(choice, form): (usize, &Form)| {
        let bodies: Vec<_> = (0..each).filter_map(form.sample).collect();
        bodies.into_iter().map(move |body| [vec![choice as u8], body].concat())
    };
    forms.iter().enumerate().flat_map(of).collect()
}

/// What was decoded encodes, in no more bytes than it came in, and decodes to the same again. The
/// bytes themselves may differ: a number has one shortest form, and a map one order.
pub fn check_message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        let encoded = codec::encode(&value);
        assert!(encoded.len() <= bytes.len(), "decoding makes nothing up");
        assert_eq!(codec::encode(&decoded::<T>(&encoded)), encoded);
    }
}

fn check_row<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = codec::decode_row::<T>(bytes) {
        let encoded = codec::encode_row(&value);
        let again: T = codec::decode_row(&encoded).expect("an encoded row decodes");
        assert_eq!(codec::encode_row(&again), encoded);
    }
}

fn check_json<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let text = serde_json::to_vec(&value).expect("what came as JSON has a JSON form");
        let again: T = serde_json::from_slice(&text).expect("our JSON decodes");
        assert_eq!(codec::encode(&again), codec::encode(&value));
    }
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> T {
    codec::decode(bytes).expect("an encoded message decodes")
}

fn sample<T: Serialize + DeserializeOwned>(seed: u64) -> Option<Vec<u8>> {
    found(seed).map(|value: T| codec::encode(&value))
}

fn sample_row<T: Serialize + DeserializeOwned>(seed: u64) -> Option<Vec<u8>> {
    found(seed).map(|value: T| codec::encode_row(&value))
}

fn sample_json<T: Serialize + DeserializeOwned>(seed: u64) -> Option<Vec<u8>> {
    serde_json::to_vec(&found::<T>(seed)?).ok()
}

/// A value of `T`: small numbers, read as one. Postcard writes variants, lengths and ids as numbers,
/// so most attempts succeed, and every part of a type turns up.
pub fn found<T: DeserializeOwned>(seed: u64) -> Option<T> {
    let attempt = |attempt| {
        let mut random = Random(seed << 8 | attempt);
        let below = 2 + (seed + attempt) % 5;
        let bytes: Vec<u8> = (0..4096).map(|_| (random.next() % below) as u8).collect();
        postcard::take_from_bytes(&bytes).ok().map(|(value, _)| value)
    };
    (0..64).find_map(attempt)
}

/// The values that follow each other in `bytes`; a byte that begins none is skipped.
pub fn sequence<T: DeserializeOwned>(mut bytes: &[u8], values_max: usize) -> Vec<T> {
    let mut values = Vec::new();
    while !bytes.is_empty() && values.len() < values_max {
        bytes = match postcard::take_from_bytes(bytes) {
            Ok((value, rest)) if rest.len() < bytes.len() => {
                values.push(value);
                rest
            }
            _ => &bytes[1..],
        };
    }
    values
}

/// Damaged forms of a valid encoding: cut short, a bit flipped, a byte replaced, bytes inserted.
pub fn damaged(valid: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = valid.to_vec();
    for _ in 0..=random.next() % 3 {
        let at = random.below(bytes.len());
        match random.next() % 4 {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << (random.next() % 8),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            _ => bytes.insert(at, random.next() as u8),
        }
    }
    bytes
}

/// Feeds `decode` with each of `valid`, damaged forms of them, and random bytes.
pub fn exercise(decode: fn(&[u8]), valid: &[Vec<u8>], rounds: u64) {
    valid.iter().for_each(|bytes| decode(bytes));
    let mut random = Random(rounds);
    for round in 0..rounds {
        if let Some(bytes) = valid.get(random.below(valid.len())) {
            decode(&damaged(bytes, round));
        }
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        decode(&bytes);
    }
}

/// The generator SplitMix64: tests need variety that follows from a seed, nothing more.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to `bound`, which is left out unless it is 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a row, an answer or a text is made of: a value or an error, never a panic.
    #[test]
    fn foreign_bytes_are_values_or_errors() {
        exercise(decode_row, &samples_of_rows(8), 4000);
        exercise(decode_answer, &samples_of_answers(8), 4000);
        let texts = ["b7-9", "pg17", "n4294967295", "64MiB", "1.5 GiB", "0123456789abcdef"];
        exercise(decode_text, &texts.map(|text| text.as_bytes().to_vec()), 4000);
    }

    /// Samples exist for every form: an empty corpus would test nothing.
    #[test]
    fn every_form_has_samples() {
        for (number, form) in forms::ROWS.iter().chain(forms::ANSWERS).enumerate() {
            assert!((form.sample)(1).is_some(), "form {number}");
        }
    }
}

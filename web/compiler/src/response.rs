//! Responses: a JSON header and binary blobs in one block of bytes. The layout is in the crate's comment.

use serde_json::{Value, json};
use tinygpt_runtime::{Error, Result};

/// Blobs start at multiples of this, so that a typed array of any element can view them.
const ALIGN: usize = 8;

/// What a request came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub result: Value,
    /// Names and bytes.
    pub blobs: Vec<(String, Vec<u8>)>,
}

impl From<Value> for Response {
    fn from(result: Value) -> Response {
        Response { result, blobs: Vec::new() }
    }
}

/// The bytes of a response.
pub(crate) fn encode(outcome: Result<Response>) -> Vec<u8> {
    let response = match outcome {
        Ok(response) => response,
        Err(error) => return refusal(&error.to_string()),
    };
    let listed = |from: usize| {
        let mut at = from;
        let list = response.blobs.iter().map(|(name, bytes)| {
            let entry = json!({"name": name, "offset": at, "bytes": bytes.len()});
            at = (at + bytes.len()).next_multiple_of(ALIGN);
            entry
        });
        let header = json!({"ok": true, "blobs": list.collect::<Vec<_>>(), "result": response.result});
        header.to_string().into_bytes()
    };
    // Offsets depend on the header's length and it on their digits: room is made for the largest ones.
    let digits = 10 * response.blobs.len();
    let header_len = (8 + listed(0).len() + digits).next_multiple_of(ALIGN) - 8;
    let mut header = listed(8 + header_len);
    header.resize(header_len, b' ');
    let mut bytes = block(&header);
    for (_, blob) in &response.blobs {
        bytes.extend_from_slice(blob);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    }
    sealed(bytes)
}

/// The response that only says what went wrong.
pub(crate) fn refusal(error: &str) -> Vec<u8> {
    sealed(block(json!({"ok": false, "error": error}).to_string().as_bytes()))
}

/// A response of a header, its total length yet to come.
fn block(header: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(header);
    bytes
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let total = bytes.len() as u32;
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    bytes
}

/// Reads a response, as the page does.
///
/// Errors: the sentence of a refused request; bytes that are no response.
pub fn read(bytes: &[u8]) -> Result<Response> {
    let damaged = || Error::failed("these bytes are no response of the compiler: give all that it returned");
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| u32::from_le_bytes(b) as usize);
    let (total, header) = word(0).zip(word(4)).ok_or_else(damaged)?;
    let header = bytes.get(8..8 + header).filter(|_| total == bytes.len()).ok_or_else(damaged)?;
    let mut header: Value = serde_json::from_slice(header).map_err(|_| damaged())?;
    if header["ok"] != true {
        return Err(Error::input(header["error"].as_str().unwrap_or_default()));
    }
    let blob = |entry: &Value| {
        let at = entry["offset"].as_u64()? as usize;
        let blob = bytes.get(at..at.checked_add(entry["bytes"].as_u64()? as usize)?)?;
        Some((entry["name"].as_str()?.to_owned(), blob.to_vec()))
    };
    let blobs = header["blobs"].as_array().and_then(|list| list.iter().map(blob).collect()).ok_or_else(damaged)?;
    Ok(Response { result: header["result"].take(), blobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_read_back_and_blobs_are_aligned() {
        for sizes in [vec![], vec![0], vec![1, 8, 9], vec![100_000, 3, 99_999]] {
            let blobs: Vec<_> =
                sizes.iter().enumerate().map(|(i, n)| (format!("b{i}"), vec![i as u8 + 1; *n])).collect();
            let response = Response { result: json!({"x": [1, "ä"]}), blobs };
            let bytes = encode(Ok(response.clone()));
            assert_eq!(read(&bytes).unwrap(), response);
            let header: Value =
                serde_json::from_slice(&bytes[8..8 + u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize])
                    .unwrap();
            for blob in header["blobs"].as_array().unwrap() {
                assert_eq!(blob["offset"].as_u64().unwrap() % 8, 0, "{header}");
            }
        }
    }

    #[test]
    fn refusals_are_errors_and_damage_is_named() {
        let bytes = encode(Err(Error::input("no \"such\" preset")));
        assert_eq!(read(&bytes).unwrap_err().to_string(), "no \"such\" preset");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).unwrap_err().to_string().contains("no response"), "{cut}");
        }
    }
}

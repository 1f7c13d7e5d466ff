//! Requests and responses as bytes: a JSON header and binary blobs in one block. The layout is in the crate's comment.

use serde_json::{Value, json};
use tinygpt_runtime::architecture::GRAPH_FILE;
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

/// Why a request is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub sentence: String,
    /// In the text of a graph that the request brought.
    pub place: Option<Place>,
}

/// A place in a text, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub line: usize,
    pub column: usize,
}

impl From<Error> for Refusal {
    /// An error that names a place in the graph's text (`model.gir:LINE:COLUMN`) keeps it.
    fn from(error: Error) -> Refusal {
        let sentence = error.to_string();
        let place = sentence.split_once(GRAPH_FILE).and_then(|(_, rest)| {
            let mut numbers = rest.strip_prefix(':')?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
            Some(Place { line: numbers.next()?.ok()?, column: numbers.next()?.ok()? })
        });
        Refusal { sentence, place }
    }
}

/// Blobs by name.
pub(crate) type Blobs = Vec<(String, Vec<u8>)>;

/// A request's JSON and its blobs: text alone, or a block as a response is.
pub(crate) fn read_request(bytes: &[u8]) -> Result<(Value, Blobs)> {
    let not_understood = |e: serde_json::Error| Error::input(format!("the request is not understood: {e}"));
    if bytes.first_chunk().is_none_or(|total| u32::from_le_bytes(*total) as usize != bytes.len()) {
        return Ok((serde_json::from_slice(bytes).map_err(not_understood)?, Vec::new()));
    }
    let (mut header, blobs) = read_block(bytes).ok_or_else(|| {
        Error::input("the request's blobs lie outside of it: give header and blobs as a response has them")
    })?;
    let Some(header) = header.as_object_mut() else {
        return Err(Error::input("the request is not understood: expected an object"));
    };
    header.remove("blobs");
    Ok((Value::Object(std::mem::take(header)), blobs))
}

/// The bytes of a request with blobs, as a page makes them.
pub fn write_request(request: &Value, blobs: &[(String, Vec<u8>)]) -> Vec<u8> {
    write_block(blobs, |list| {
        let mut header = request.clone();
        header["blobs"] = list;
        header
    })
}

/// The bytes of a response.
pub(crate) fn encode(outcome: Result<Response, Refusal>) -> Vec<u8> {
    match outcome {
        Ok(Response { result, blobs }) => {
            write_block(&blobs, |list| json!({"ok": true, "blobs": list, "result": result}))
        }
        Err(refusal) => refuse(&refusal),
    }
}

/// A block of `blobs` under the header that is made from their list.
fn write_block(blobs: &[(String, Vec<u8>)], header: impl Fn(Value) -> Value) -> Vec<u8> {
    let listed = |from: usize| {
        let mut at = from;
        let list = blobs.iter().map(|(name, bytes)| {
            let entry = json!({"name": name, "offset": at, "bytes": bytes.len()});
            at = (at + bytes.len()).next_multiple_of(ALIGN);
            entry
        });
        header(list.collect()).to_string().into_bytes()
    };
    // Offsets depend on the header's length and it on their digits: room is made for the largest ones.
    let digits = 10 * blobs.len();
    let header_len = (8 + listed(0).len() + digits).next_multiple_of(ALIGN) - 8;
    let mut text = listed(8 + header_len);
    text.resize(header_len, b' ');
    let mut bytes = block(&text);
    for (_, blob) in blobs {
        bytes.extend_from_slice(blob);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    }
    sealed(bytes)
}

/// The response that only says what went wrong.
#[cfg(any(target_arch = "wasm32", test))]
pub(crate) fn refusal(error: &str) -> Vec<u8> {
    refuse(&Refusal { sentence: error.to_owned(), place: None })
}

fn refuse(Refusal { sentence, place }: &Refusal) -> Vec<u8> {
    let mut header = json!({"ok": false, "error": sentence});
    if let Some(Place { line, column }) = place {
        (header["line"], header["column"]) = ((*line).into(), (*column).into());
    }
    sealed(block(header.to_string().as_bytes()))
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
    let (mut header, blobs) = read_block(bytes).ok_or_else(damaged)?;
    if header["ok"] != true {
        return Err(Error::input(header["error"].as_str().unwrap_or_default()));
    }
    Ok(Response { result: header["result"].take(), blobs })
}

/// Header and blobs of a block; None of what is none.
fn read_block(bytes: &[u8]) -> Option<(Value, Blobs)> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| u32::from_le_bytes(b) as usize);
    let (total, length) = word(0).zip(word(4))?;
    let text = bytes.get(8..8usize.checked_add(length)?).filter(|_| total == bytes.len())?;
    let header: Value = serde_json::from_slice(text).ok()?;
    let blob = |entry: &Value| {
        let at = usize::try_from(entry["offset"].as_u64()?).ok()?;
        let end = at.checked_add(usize::try_from(entry["bytes"].as_u64()?).ok()?)?;
        Some((entry["name"].as_str()?.to_owned(), bytes.get(at..end)?.to_vec()))
    };
    let none = Vec::new();
    let blobs = header["blobs"].as_array().unwrap_or(&none).iter().map(blob).collect::<Option<_>>()?;
    Some((header, blobs))
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
        let bytes = encode(Err(Error::input("no \"such\" preset").into()));
        assert_eq!(read(&bytes).unwrap_err().to_string(), "no \"such\" preset");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).unwrap_err().to_string().contains("no response"), "{cut}");
        }
    }

    #[test]
    fn requests_bring_blobs_or_none() {
        let request = json!({"request": "decode", "name": "é"});
        assert_eq!(read_request(request.to_string().as_bytes()).unwrap(), (request.clone(), vec![]));
        let blobs = vec![("a".to_owned(), vec![1, 2, 3]), ("b".to_owned(), vec![])];
        let bytes = write_request(&request, &blobs);
        assert_eq!(read_request(&bytes).unwrap(), (request, blobs));
        let mut lying = bytes.clone();
        let at = String::from_utf8_lossy(&lying).find("\"bytes\":3").unwrap();
        lying[at + 8] = b'9';
        let error = |bytes: &[u8]| read_request(bytes).unwrap_err().to_string();
        assert!(error(&lying).contains("lie outside of it"), "{}", error(&lying));
        for cut in 0..bytes.len() {
            assert!(error(&bytes[..cut]).starts_with("the request is not understood"), "{cut}");
        }
    }

    #[test]
    fn errors_keep_their_place_in_the_text() {
        let place = |sentence: &str| Refusal::from(Error::input(sentence)).place;
        assert_eq!(place("model.gir:12:3: add: no"), Some(Place { line: 12, column: 3 }));
        assert_eq!(place("the graph model.gir cannot be trained"), None);
        let bytes = encode(Err(Error::input("model.gir:2:5: no").into()));
        assert!(String::from_utf8_lossy(&bytes).contains("\"line\":2"));
    }
}

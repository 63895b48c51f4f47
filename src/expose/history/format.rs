//! The bytes of a segment file. Pure: no file is touched here.
//!
//! ```text
//! header   magic, version, when it was written, checksum
//! frame…   mark, length, checksum, payload: a source's times and some columns
//! footer   an entry a frame: where it is, what times and keys it has
//! trailer  where the footer is, its length and checksum, mark
//! ```
//!
//! Columns are in order of their keys, so an entry with its first and last key
//! says whether a frame can have a series. A frame stands for itself: when the
//! rest of the file is damaged, it can still be found and read. Reading trusts
//! nothing, not even what its checksum confirms.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::series::column::{self, ROW_LIMIT};
use crate::engine::series::key::TEXT_LIMIT;
use crate::engine::series::wire::{Reader, put_unsigned};
use crate::engine::series::{Block, BlockBuilder, Key, Millis};

/// The version that is written here; others are not read.
pub const VERSION: u8 = 1;

/// Lengths of the fixed parts, in bytes.
pub const HEADER: usize = 20;
pub const TRAILER: usize = 20;
const FRAME_HEAD: usize = 12;

const MAGIC: &[u8; 7] = b"snowseg";
const FRAME_MARK: &[u8; 4] = b"FRME";
const END_MARK: &[u8; 4] = b"DONE";

/// Columns of a frame. Its times stand in each, some 600 bytes, which is little
/// beside 256 columns; and one series is read without the other thousands.
const FRAME_COLUMNS: usize = 256;

/// Longest payload that is believed: 256 columns of [`ROW_LIMIT`] values that do
/// not pack at all need 2 MiB, and their keys as much again.
const PAYLOAD_LIMIT: usize = 8 * 1024 * 1024;

/// Longest name of a source.
const SOURCE_LIMIT: usize = 4096;

/// Frames of a file, and the longest footer that goes with them.
const FRAME_LIMIT: u64 = 100_000;
pub const FOOTER_LIMIT: usize = 64 * 1024 * 1024;

/// Keys are text that repeats itself: a high level costs a millisecond a frame.
const NAME_LEVEL: i32 = 9;

/// Why bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it is too short to be a segment")]
    Short,
    #[error("it does not begin like a segment")]
    Magic,
    #[error("its header does not match its checksum")]
    Header,
    #[error("it does not end like a segment: it was not written to its end, or cut")]
    End,
    #[error("its footer does not match its checksum")]
    Footer,
    #[error("the frame at byte {0} does not match its checksum")]
    Frame(u64),
    #[error("what is in it contradicts itself, although the checksums match")]
    Contents,
}

/// What stands at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub version: u8,
    /// By the clock of the machine.
    pub written_at: Millis,
}

/// What the footer says of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the frame's mark is.
    pub offset: u64,
    /// Of the payload, in bytes.
    pub length: u32,
    pub source: Arc<str>,
    pub start: Millis,
    pub end: Millis,
    pub first: Box<str>,
    pub last: Box<str>,
}

impl Entry {
    /// The bytes of the whole frame in the file.
    pub fn range(&self) -> (u64, usize) {
        (self.offset, FRAME_HEAD + self.length as usize)
    }

    /// It has rows in the window, and its keys can begin with `prefix`.
    pub fn may_have(&self, prefix: &str, from: Millis, to: Millis) -> bool {
        let begins_before = *self.first <= *prefix || self.first.starts_with(prefix);
        self.start <= to && self.end >= from && begins_before && *self.last >= *prefix
    }
}

/// Keys that are shared by everything that is read together.
#[derive(Debug, Default)]
pub struct Interner(HashMap<Box<str>, Arc<Key>>);

impl Interner {
    fn key(&mut self, text: &str) -> Option<Arc<Key>> {
        if let Some(key) = self.0.get(text) {
            return Some(Arc::clone(key));
        }
        let key = Arc::new(Key::parse(text)?);
        self.0.insert(text.into(), Arc::clone(&key));
        Some(key)
    }
}

/// The bytes of a segment with these blocks, and what its footer says.
pub fn encode(blocks: &[Arc<Block>], written_at: Millis) -> (Vec<u8>, Vec<Entry>) {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&written_at.to_le_bytes());
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    let mut entries = Vec::new();
    for block in blocks {
        for begin in (0..block.keys().len()).step_by(FRAME_COLUMNS) {
            let end = (begin + FRAME_COLUMNS).min(block.keys().len());
            entries.extend(put_frame(&mut out, block, begin, end));
        }
    }
    let offset = out.len() as u64;
    let footer = footer(&entries);
    out.extend_from_slice(&footer);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&(footer.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
    out.extend_from_slice(END_MARK);
    (out, entries)
}

fn put_frame(out: &mut Vec<u8>, block: &Block, begin: usize, end: usize) -> Option<Entry> {
    let payload = payload(block, begin, end)?;
    let entry = Entry {
        offset: out.len() as u64,
        length: u32::try_from(payload.len()).ok()?,
        source: Arc::clone(block.source()),
        start: block.start(),
        end: block.end(),
        first: block.keys().get(begin)?.as_str().into(),
        last: block.keys().get(end - 1)?.as_str().into(),
    };
    out.extend_from_slice(FRAME_MARK);
    out.extend_from_slice(&entry.length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    out.extend_from_slice(&payload);
    Some(entry)
}

fn payload(block: &Block, begin: usize, end: usize) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    let mut last = "";
    for key in &block.keys()[begin..end] {
        let text = key.as_str();
        let shared = shared_prefix(last, text);
        put_unsigned(&mut names, shared as u64);
        put_chunk(&mut names, &text.as_bytes()[shared..]);
        last = text;
    }
    let packed_names = zstd::bulk::compress(&names, NAME_LEVEL).ok()?;
    let times: Vec<f64> = block.times().iter().map(|&t| t as f64).collect();
    let mut packed_times = Vec::new();
    column::pack(&times, &mut packed_times);

    let mut out = Vec::new();
    put_chunk(&mut out, block.source().as_bytes());
    put_unsigned(&mut out, times.len() as u64);
    put_chunk(&mut out, &packed_times);
    put_unsigned(&mut out, (end - begin) as u64);
    put_unsigned(&mut out, names.len() as u64);
    put_chunk(&mut out, &packed_names);
    for column in begin..end {
        put_chunk(&mut out, block.packed(column)?);
    }
    Some(out)
}

/// Bytes that two texts begin with, whole characters only.
fn shared_prefix(a: &str, b: &str) -> usize {
    let mut shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    while !b.is_char_boundary(shared) {
        shared -= 1;
    }
    shared
}

fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn footer(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    put_unsigned(&mut out, entries.len() as u64);
    for entry in entries {
        put_unsigned(&mut out, entry.offset);
        put_unsigned(&mut out, u64::from(entry.length));
        put_unsigned(&mut out, entry.start.cast_unsigned());
        put_unsigned(&mut out, entry.end.cast_unsigned());
        for text in [&*entry.source, &*entry.first, &*entry.last] {
            put_chunk(&mut out, text.as_bytes());
        }
    }
    out
}

/// Reads the first [`HEADER`] bytes.
pub fn decode_header(bytes: &[u8]) -> Result<Header, Damage> {
    let (fields, checksum) = bytes.split_at_checked(HEADER - 4).ok_or(Damage::Short)?;
    let rest = fields.strip_prefix(MAGIC).ok_or(Damage::Magic)?;
    let checksum = checksum.first_chunk::<4>().ok_or(Damage::Short)?;
    if crc32fast::hash(fields) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Header);
    }
    let (version, written_at) = rest.split_first().ok_or(Damage::Short)?;
    let written_at = written_at.first_chunk::<8>().ok_or(Damage::Short)?;
    Ok(Header {
        version: *version,
        written_at: Millis::from_le_bytes(*written_at),
    })
}

/// Where the footer of a file of `length` bytes is, from the last [`TRAILER`]
/// bytes: offset, length, checksum.
pub fn decode_trailer(bytes: &[u8], length: u64) -> Result<(u64, usize, u32), Damage> {
    let bytes: &[u8; TRAILER] = bytes.try_into().map_err(|_| Damage::Short)?;
    let number = |at: usize| {
        let field = bytes[at..].first_chunk::<4>().copied();
        u32::from_le_bytes(field.unwrap_or_default())
    };
    if &bytes[16..] != END_MARK {
        return Err(Damage::End);
    }
    let offset = u64::from(number(0)) | u64::from(number(4)) << 32;
    let footer = number(8) as usize;
    let ends = offset.checked_add(footer as u64 + TRAILER as u64);
    if ends != Some(length) || footer > FOOTER_LIMIT || offset < HEADER as u64 {
        return Err(Damage::End);
    }
    Ok((offset, footer, number(12)))
}

/// Reads the footer of a file whose frames end at `frames_end`.
pub fn decode_footer(bytes: &[u8], checksum: u32, frames_end: u64) -> Result<Vec<Entry>, Damage> {
    if crc32fast::hash(bytes) != checksum {
        return Err(Damage::Footer);
    }
    entries(&mut Reader::new(bytes), frames_end).ok_or(Damage::Contents)
}

fn entries(reader: &mut Reader<'_>, frames_end: u64) -> Option<Vec<Entry>> {
    let count = reader.unsigned().filter(|&count| count <= FRAME_LIMIT)?;
    let mut entries = Vec::new();
    let mut sources: HashMap<&str, Arc<str>> = HashMap::new();
    for _ in 0..count {
        let offset = reader.unsigned()?;
        let length = u32::try_from(reader.unsigned()?).ok()?;
        let start = reader.unsigned()?.cast_signed();
        let end = reader.unsigned()?.cast_signed();
        let mut text = || std::str::from_utf8(reader.chunk()?).ok();
        let (source, first, last) = (text()?, text()?, text()?);
        let fits = offset.checked_add(FRAME_HEAD as u64 + u64::from(length))? <= frames_end;
        if !fits || length as usize > PAYLOAD_LIMIT || start > end {
            return None;
        }
        let source = sources.entry(source).or_insert_with(|| source.into());
        entries.push(Entry {
            offset,
            length,
            source: Arc::clone(source),
            start,
            end,
            first: first.into(),
            last: last.into(),
        });
    }
    reader.is_empty().then_some(entries)
}

/// Reads a whole frame that began at `offset`.
pub fn decode_frame(bytes: &[u8], offset: u64, keys: &mut Interner) -> Result<Block, Damage> {
    let payload = framed(bytes).ok_or(Damage::Frame(offset))?;
    decode_payload(payload, keys).ok_or(Damage::Contents)
}

/// The payload of the frame that the bytes begin with, when its checksum fits.
fn framed(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(FRAME_MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let payload = rest.get(..length).filter(|_| length <= PAYLOAD_LIMIT)?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*checksum)).then_some(payload)
}

/// Reads what is in a frame.
pub fn decode_payload(payload: &[u8], keys: &mut Interner) -> Option<Block> {
    let mut reader = Reader::new(payload);
    let source = std::str::from_utf8(reader.chunk()?).ok()?;
    let rows = usize::try_from(reader.unsigned()?).ok()?;
    if rows > ROW_LIMIT || source.len() > SOURCE_LIMIT {
        return None;
    }
    let mut times = vec![0.0; rows];
    column::unpack(reader.chunk()?, &mut times).ok()?;
    // What is no time is refused by the builder.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let times = times.into_iter().map(|t| t as Millis).collect();
    let mut builder = BlockBuilder::new(source.into(), times)?;

    let columns = reader.unsigned().filter(|&n| n <= FRAME_COLUMNS as u64)?;
    let names_length = usize::try_from(reader.unsigned()?).ok()?;
    if names_length > FRAME_COLUMNS * TEXT_LIMIT {
        return None;
    }
    let names = zstd::bulk::decompress(reader.chunk()?, names_length).ok()?;
    let mut names = Reader::new(&names);
    let mut text = String::new();
    for _ in 0..columns {
        let shared = usize::try_from(names.unsigned()?).ok()?;
        if !text.is_char_boundary(shared) {
            return None;
        }
        text.truncate(shared);
        text.push_str(std::str::from_utf8(names.chunk()?).ok()?);
        if text.len() > TEXT_LIMIT || !builder.push_packed(keys.key(&text)?, reader.chunk()?) {
            return None;
        }
    }
    (reader.is_empty() && names.is_empty()).then(|| builder.finish())
}

/// Every frame that can still be read in a damaged file.
pub fn salvage(bytes: &[u8]) -> Vec<Block> {
    let mut keys = Interner::default();
    let mut blocks = Vec::new();
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], FRAME_MARK) {
        at += found;
        match framed(&bytes[at..]) {
            Some(payload) => {
                blocks.extend(decode_payload(payload, &mut keys));
                at += FRAME_HEAD + payload.len();
            }
            None => at += 1,
        }
    }
    blocks
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

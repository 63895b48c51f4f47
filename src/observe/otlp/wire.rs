//! The wire format of protocol buffers, read in place.
//!
//! Generated types would make an object of every field of every span, most of
//! which nobody asks for, and two bytes of a hostile body would become hundreds
//! of bytes of memory. Here nothing is copied and nothing allocated: what is
//! not wanted is stepped over. Invariants: never a panic, whatever the bytes;
//! after an error an iterator is at its end.

/// Why a message could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("not valid protobuf")]
    Malformed,
    /// Of numbers in a list: more than anybody needs.
    #[error("a list is too long")]
    TooMany,
}

use Fault::Malformed;

/// One field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, bytes, an embedded message, or packed numbers.
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of one message, in the order of the wire.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Fault> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        // 29 bits are the format's own limit; 0 is no field.
        if number == 0 || number >= 1 << 29 {
            return Err(Malformed);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            // 3 and 4 are groups, which OTLP never had.
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Fault> {
        let (value, rest) = varint(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*array)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Fault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[inline]
fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        // The tenth byte has room for one bit only.
        if index == 9 && *byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(Malformed)
}

/// Whether every field of the message, without looking into embedded ones, is
/// whole: a body that was cut off is not.
pub fn is_whole(message: &[u8]) -> bool {
    Fields::new(message).all(|field| field.is_ok())
}

impl<'a> Value<'a> {
    pub fn bytes(self) -> Result<&'a [u8], Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    pub fn text(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub fn varint(self) -> Result<u64, Fault> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// An enumeration or a small unsigned number; what does not fit is nothing
    /// that is known.
    pub fn small(self) -> Result<u32, Fault> {
        Ok(u32::try_from(self.varint()?).unwrap_or(u32::MAX))
    }

    /// A number in zigzag coding.
    pub fn sint32(self) -> Result<i32, Fault> {
        let raw = self.varint()?;
        let half = i64::try_from(raw >> 1).map_err(|_| Malformed)?;
        let value = if raw & 1 == 1 { -half - 1 } else { half };
        i32::try_from(value).map_err(|_| Malformed)
    }

    pub fn fixed64(self) -> Result<u64, Fault> {
        match self {
            Self::Fixed64(value) => Ok(value),
            _ => Err(Malformed),
        }
    }

    pub fn double(self) -> Result<f64, Fault> {
        self.fixed64().map(f64::from_bits)
    }

    /// Adds the numbers of a repeated fixed64, packed or single.
    pub fn push_fixed64<T>(
        self,
        limit: usize,
        into: &mut Vec<T>,
        read: impl Fn(u64) -> T,
    ) -> Result<(), Fault> {
        match self {
            Self::Fixed64(value) => push(into, limit, read(value)),
            Self::Bytes(bytes) => {
                let (numbers, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(Malformed);
                }
                if into.len() + numbers.len() > limit {
                    return Err(Fault::TooMany);
                }
                into.extend(numbers.iter().map(|n| read(u64::from_le_bytes(*n))));
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    /// Adds the numbers of a repeated varint, packed or single.
    pub fn push_varints(self, limit: usize, into: &mut Vec<u64>) -> Result<(), Fault> {
        match self {
            Self::Varint(value) => push(into, limit, value),
            Self::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    let (value, rest) = varint(bytes)?;
                    push(into, limit, value)?;
                    bytes = rest;
                }
                Ok(())
            }
            _ => Err(Malformed),
        }
    }
}

fn push<T>(into: &mut Vec<T>, limit: usize, number: T) -> Result<(), Fault> {
    if into.len() >= limit {
        return Err(Fault::TooMany);
    }
    into.push(number);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Fault> {
        Fields::new(bytes).collect()
    }

    #[test]
    fn each_kind_of_field_is_read() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x12, 0x02, b'h', b'i', // 2: "hi"
            0x19, 1, 0, 0, 0, 0, 0, 0, 0, // 3: fixed64 1
            0x25, 2, 0, 0, 0, // 4: fixed32 2
        ];
        let fields = all(&bytes).unwrap();
        assert_eq!(
            fields,
            [
                (1, Value::Varint(150)),
                (2, Value::Bytes(b"hi")),
                (3, Value::Fixed64(1)),
                (4, Value::Fixed32(2))
            ]
        );
        assert_eq!(fields[1].1.text(), Ok("hi"));
    }

    #[test]
    fn what_is_cut_off_or_impossible_is_an_error_and_the_end() {
        let cases: [&[u8]; 7] = [
            &[0x08],
            &[0x12, 0x05, b'h'],
            &[0x19, 1, 2],
            &[0x0b],                                                 // a group
            &[0x00, 0x00],                                           // field 0
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], // over 64 bits
            &[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // a length of 2^64-1
        ];
        for bytes in cases {
            let mut fields = Fields::new(bytes);
            assert_eq!(fields.next(), Some(Err(Malformed)), "{bytes:?}");
            assert_eq!(fields.next(), None);
            assert!(!is_whole(bytes));
        }
    }

    #[test]
    fn zigzag_numbers_go_both_ways() {
        for (raw, value) in [(0, 0), (1, -1), (2, 1), (39, -20), (40, 20)] {
            assert_eq!(Value::Varint(raw).sint32(), Ok(value));
        }
        assert_eq!(Value::Varint(u64::MAX).sint32(), Err(Malformed));
        assert_eq!(Value::Varint(u64::from(u32::MAX)).sint32(), Ok(i32::MIN));
    }

    #[test]
    fn packed_lists_are_bounded() {
        let mut numbers = Vec::new();
        let three = [1_u64, 2, 3].map(u64::to_le_bytes).concat();
        let mut add = |bytes, limit| Value::Bytes(bytes).push_fixed64(limit, &mut numbers, |n| n);
        assert_eq!(add(&three, 8), Ok(()));
        assert_eq!(add(&three, 5), Err(Fault::TooMany));
        assert_eq!(add(&three[1..], 9), Err(Malformed));
        assert_eq!(numbers, [1, 2, 3]);
        let mut numbers = Vec::new();
        let varints = Value::Bytes(&[1, 0x96, 0x01]);
        assert_eq!(varints.push_varints(8, &mut numbers), Ok(()));
        assert_eq!(numbers, [1, 150]);
        assert_eq!(varints.push_varints(3, &mut numbers), Err(Fault::TooMany));
        assert_eq!(
            Value::Bytes(&[0x80]).push_varints(8, &mut numbers),
            Err(Malformed)
        );
    }
}

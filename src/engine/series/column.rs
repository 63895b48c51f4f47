//! One series' values over the rows of a block, packed and unpacked without loss.
//!
//! Most series are whole numbers that seldom change, so values are kept as
//! integers where that is exact to the bit (as they are, in thousandths, or in
//! millionths), and as runs where runs are shorter than what `pco` makes of
//! them. A row without a value is NaN on both sides. Unpacking trusts nothing:
//! whatever the bytes, it gives as many values as it was asked for, or an error.

use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use super::wire::{Reader, put_signed, put_unsigned};

/// Rows of the longest block. Ten minutes at one a second are 600; a source that
/// is polled more often has its blocks cut earlier.
pub const ROW_LIMIT: usize = 1024;

/// Runs are taken without trying anything else when they need no more bytes: the
/// head of a packed column alone is longer.
const SHORT: usize = 24;

/// How the numbers are written, in the low bits of the tag.
const WHOLE: u8 = 0;
const THOUSANDTHS: u8 = 1;
const MILLIONTHS: u8 = 2;
const BITS: u8 = 3;
const SCALE: u8 = 0b0011;
/// Some rows have no value: runs of absent and present rows come first.
const GAPS: u8 = 0b0100;
/// Runs of equal values instead of packed ones.
const RUNS: u8 = 0b1000;

/// Beyond this a whole number may not be exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A column that cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a column of values is malformed")]
pub struct Malformed;

/// Appends the packed form of the values; NaN is a row without one.
pub fn pack(values: &[f64], out: &mut Vec<u8>) {
    let present: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    let tag_at = out.len();
    out.push(0);
    let mut tag = 0;
    if present.len() < values.len() {
        tag |= GAPS;
        put_presence(values, out);
    }
    let (scale, whole) = whole_numbers(&present);
    tag |= scale;
    let runs = runs_of(&whole);
    let packed = (runs.len() > SHORT)
        .then(|| compress(scale, &whole, &present))
        .flatten();
    match packed {
        Some(packed) if packed.len() < runs.len() => out.extend_from_slice(&packed),
        _ => {
            tag |= RUNS;
            out.extend_from_slice(&runs);
        }
    }
    out[tag_at] = tag;
}

/// Unpacks into `values`, one for each row.
pub fn unpack(packed: &[u8], values: &mut [f64]) -> Result<(), Malformed> {
    let mut reader = Reader::new(packed);
    let tag = reader.byte().ok_or(Malformed)?;
    if tag & !(SCALE | GAPS | RUNS) != 0 || values.len() > ROW_LIMIT {
        return Err(Malformed);
    }
    let present = if tag & GAPS == 0 {
        values.fill(0.0);
        values.len()
    } else {
        read_presence(&mut reader, values)?
    };
    let mut numbers = [0.0; ROW_LIMIT];
    let numbers = &mut numbers[..present];
    let scale = tag & SCALE;
    if tag & RUNS != 0 {
        read_runs(&mut reader, scale, numbers)?;
    } else if scale == BITS {
        decompress(reader.rest(), numbers)?;
    } else {
        let mut whole = [0_i64; ROW_LIMIT];
        let whole = &mut whole[..present];
        decompress(reader.rest(), whole)?;
        for (number, &whole) in numbers.iter_mut().zip(whole.iter()) {
            *number = scaled(scale, whole);
        }
    }
    let mut numbers = numbers.iter();
    for value in values.iter_mut().filter(|value| !value.is_nan()) {
        *value = *numbers.next().ok_or(Malformed)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact, or packing chose another scale"
)]
fn scaled(scale: u8, whole: i64) -> f64 {
    match scale {
        WHOLE => whole as f64,
        THOUSANDTHS => whole as f64 / 1e3,
        MILLIONTHS => whole as f64 / 1e6,
        _ => f64::from_bits(whole.cast_unsigned()),
    }
}

/// The coarsest scale at which every value is exact, and the values at it.
fn whole_numbers(values: &[f64]) -> (u8, Vec<i64>) {
    for (scale, factor) in [(WHOLE, 1.0), (THOUSANDTHS, 1e3), (MILLIONTHS, 1e6)] {
        let whole: Option<Vec<i64>> = values
            .iter()
            .map(|&value| {
                let whole = (value * factor).round();
                if whole.abs() > EXACT {
                    return None;
                }
                #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
                let whole = whole as i64;
                (scaled(scale, whole).to_bits() == value.to_bits()).then_some(whole)
            })
            .collect();
        if let Some(whole) = whole {
            return (scale, whole);
        }
    }
    let bits = values.iter().map(|value| value.to_bits().cast_signed());
    (BITS, bits.collect())
}

fn runs_of(whole: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = 0_i64;
    for run in whole.chunk_by(|a, b| a == b) {
        put_unsigned(&mut out, run.len() as u64);
        put_signed(&mut out, run[0].wrapping_sub(last));
        last = run[0];
    }
    out
}

fn read_runs(reader: &mut Reader<'_>, scale: u8, numbers: &mut [f64]) -> Result<(), Malformed> {
    let mut at = 0;
    let mut last = 0_i64;
    while at < numbers.len() {
        let length = reader.unsigned().ok_or(Malformed)?;
        last = last.wrapping_add(reader.signed().ok_or(Malformed)?);
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let end = at.checked_add(length).ok_or(Malformed)?;
        let run = numbers.get_mut(at..end).ok_or(Malformed)?;
        if run.is_empty() {
            return Err(Malformed);
        }
        let value = scaled(scale, last);
        if !value.is_finite() {
            return Err(Malformed);
        }
        run.fill(value);
        at = end;
    }
    Ok(())
}

/// Lengths of runs of rows, absent first, then present, and so on.
fn put_presence(values: &[f64], out: &mut Vec<u8>) {
    let starts_present = values.first().is_some_and(|value| !value.is_nan());
    if starts_present {
        put_unsigned(out, 0);
    }
    for run in values.chunk_by(|a, b| a.is_nan() == b.is_nan()) {
        put_unsigned(out, run.len() as u64);
    }
}

/// Marks absent rows with NaN and the others with 0; gives the number of those.
fn read_presence(reader: &mut Reader<'_>, values: &mut [f64]) -> Result<usize, Malformed> {
    let mut at = 0;
    let mut present = 0;
    let mut is_present = false;
    while at < values.len() {
        let length = usize::try_from(reader.unsigned().ok_or(Malformed)?).map_err(|_| Malformed)?;
        // Only the first run may be empty, or a file could keep us here.
        if length == 0 && at > 0 {
            return Err(Malformed);
        }
        let end = at.checked_add(length).ok_or(Malformed)?;
        let run = values.get_mut(at..end).ok_or(Malformed)?;
        run.fill(if is_present { 0.0 } else { f64::NAN });
        present += if is_present { length } else { 0 };
        if length == 0 && is_present {
            return Err(Malformed);
        }
        is_present = !is_present;
        at = end;
    }
    Ok(present)
}

fn compress(scale: u8, whole: &[i64], present: &[f64]) -> Option<Vec<u8>> {
    if scale == BITS {
        compress_numbers(present, ModeSpec::Auto)
    } else {
        compress_numbers(whole, ModeSpec::Classic)
    }
}

fn compress_numbers<T: pco::data_types::Number>(numbers: &[T], mode: ModeSpec) -> Option<Vec<u8>> {
    let config = ChunkConfig::default()
        .with_mode_spec(mode)
        .with_delta_spec(DeltaSpec::Auto);
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(numbers, &config).ok()?;
    let out = file.write_header(Vec::new()).ok()?;
    let out = chunk.write_meta(out).ok()?;
    chunk.write_page(0, out).ok()
}

fn decompress<T: pco::data_types::Number>(
    packed: &[u8],
    numbers: &mut [T],
) -> Result<(), Malformed> {
    let (file, rest) = FileDecompressor::new(packed).map_err(|_| Malformed)?;
    let (mut chunk, rest) = file
        .chunk_decompressor::<T, _>(rest)
        .map_err(|_| Malformed)?;
    let mut page = chunk
        .page_decompressor(rest, numbers.len())
        .map_err(|_| Malformed)?;
    let progress = page.read(numbers).map_err(|_| Malformed)?;
    (progress.n_processed == numbers.len())
        .then_some(())
        .ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(values: &[f64]) -> Vec<u8> {
        let mut out = Vec::new();
        pack(values, &mut out);
        out
    }

    fn assert_lossless(values: &[f64]) -> usize {
        let packed = packed(values);
        let mut back = vec![1.0; values.len()];
        unpack(&packed, &mut back).unwrap();
        let bits = |values: &[f64]| -> Vec<Option<u64>> {
            let bits = values.iter().map(|v| (!v.is_nan()).then(|| v.to_bits()));
            bits.collect()
        };
        assert_eq!(bits(&back), bits(values));
        packed.len()
    }

    #[test]
    fn a_constant_takes_a_few_bytes() {
        assert!(assert_lossless(&[5000.0; 600]) <= 6);
        assert!(assert_lossless(&[f64::NAN; 600]) <= 4);
        assert!(assert_lossless(&[]) <= 2);
    }

    #[test]
    fn a_busy_gauge_takes_less_than_a_byte() {
        let mut random = fastrand::Rng::with_seed(1);
        let values: Vec<f64> = (0..600).map(|_| f64::from(random.u32(0..8))).collect();
        let bytes = assert_lossless(&values);
        assert!(bytes < 600 * 45 / 100, "{bytes}");
    }

    #[test]
    fn seconds_of_a_counter_in_microseconds_stay_whole() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut total = 123_456_789_u64;
        let values: Vec<f64> = std::iter::repeat_with(|| {
            total += u64::from(random.u32(0..1000));
            total as f64 / 1e6
        })
        .take(600)
        .collect();
        let bytes = assert_lossless(&values);
        assert!(bytes < 600 * 3 / 2, "{bytes}");
    }

    #[test]
    fn awkward_numbers_come_back_to_the_bit() {
        assert_lossless(&[
            0.0,
            -0.0,
            f64::MAX,
            f64::MIN_POSITIVE,
            -1e300,
            1.0 / 3.0,
            f64::NAN,
            9_007_199_254_740_993.0,
            -7.0,
            0.001,
            123.456,
        ]);
    }

    proptest! {
        #[test]
        fn any_values_come_back(
            values in proptest::collection::vec(
                prop_oneof![
                    Just(f64::NAN),
                    (-5_i32..500).prop_map(f64::from),
                    (0_u32..100_000).prop_map(|n| f64::from(n) / 1e3),
                    any::<f64>().prop_filter("finite", |v| v.is_finite()),
                ],
                0..ROW_LIMIT,
            )
        ) {
            assert_lossless(&values);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            rows in 0..ROW_LIMIT,
        ) {
            let mut values = vec![0.0; rows];
            let _ = unpack(&bytes, &mut values);
        }
    }
}

//! Values as they are written in SQL, in BSATN, as SpacetimeDB reads them (2.8.3, `crates/expr/src/lib.rs`): a number may
//! be a text, and digits are bytes or an identity where the column is.

use rtdb_protocol::sql::Literal;
use spacetimedb_lib::{ConnectionId, Identity, from_hex_pad};
use spacetimedb_sats::algebraic_type::fmt::fmt_algebraic_type;
use spacetimedb_sats::uuid::Uuid;
use spacetimedb_sats::{AlgebraicType, bsatn, i256, u256};
use thiserror::Error;

/// Decimal digits of the largest integer there is, of 256 bits.
const DIGITS_MAX: usize = 78;

/// Why a value is not one of a column's type, in SpacetimeDB's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ValueError {
    #[error("The literal expression `{literal}` cannot be parsed as type `{ty}`")]
    Literal { literal: String, ty: String },
    #[error("Unexpected type: (expected) {expected} != {ty} (inferred)")]
    Unexpected { expected: &'static str, ty: String },
}

/// A value in BSATN.
pub(super) fn encode(literal: &Literal, ty: Option<&AlgebraicType>) -> Result<Vec<u8>, ValueError> {
    let shown = || ty.map_or_else(|| "?".to_owned(), |ty| fmt_algebraic_type(ty).to_string());
    match (literal, ty) {
        (Literal::Bool(value), Some(AlgebraicType::Bool)) => Ok(vec![u8::from(*value)]),
        (Literal::Text(text), Some(AlgebraicType::String)) => Ok(string(text)),
        (Literal::Bool(_), _) => Err(ValueError::Unexpected {
            expected: "Bool",
            ty: shown(),
        }),
        (Literal::Text(_), _) => Err(ValueError::Unexpected {
            expected: "String",
            ty: shown(),
        }),
        (Literal::Number(literal) | Literal::Hex(literal), _) => {
            let value = ty.and_then(|ty| parse(literal, ty));
            value.ok_or_else(|| ValueError::Literal {
                literal: literal.clone(),
                ty: shown(),
            })
        }
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn parse(literal: &str, ty: &AlgebraicType) -> Option<Vec<u8>> {
    use AlgebraicType::{F32, F64, I8, I16, I32, I64, I128, I256, String, U8, U16, U32, U64, U128, U256};
    let integer = || Decimal::read(literal)?.integer();
    // Of these, none is written with a fraction, even if that is zero.
    let whole = || Decimal::read(literal).filter(|it| !it.has_fraction)?.integer();
    let signed = || integer()?.parse::<i128>().ok();
    let unsigned = || integer()?.parse::<u128>().ok();
    Some(match ty {
        I8 => i8::try_from(signed()?).ok()?.to_le_bytes().into(),
        U8 => u8::try_from(unsigned()?).ok()?.to_le_bytes().into(),
        I16 => i16::try_from(signed()?).ok()?.to_le_bytes().into(),
        U16 => u16::try_from(unsigned()?).ok()?.to_le_bytes().into(),
        I32 => i32::try_from(signed()?).ok()?.to_le_bytes().into(),
        U32 => u32::try_from(unsigned()?).ok()?.to_le_bytes().into(),
        I64 => i64::try_from(signed()?).ok()?.to_le_bytes().into(),
        U64 => u64::try_from(unsigned()?).ok()?.to_le_bytes().into(),
        I128 => signed()?.to_le_bytes().into(),
        U128 => unsigned()?.to_le_bytes().into(),
        I256 => i256::from_str_radix(&whole()?, 10).ok()?.to_le_bytes().into(),
        U256 => u256::from_str_radix(&whole()?, 10).ok()?.to_le_bytes().into(),
        // By way of 64 bits, as there.
        F32 => (float(literal)? as f32).to_le_bytes().into(),
        F64 => float(literal)?.to_le_bytes().into(),
        String => string(literal),
        ty if ty.is_bytes() => {
            let bytes: Vec<u8> = from_hex_pad(literal).ok()?;
            [&(bytes.len() as u32).to_le_bytes(), bytes.as_slice()].concat()
        }
        ty if ty.is_identity() => Identity::from_hex(literal).ok()?.to_byte_array().into(),
        ty if ty.is_connection_id() => ConnectionId::from_hex(literal).ok()?.as_le_byte_array().into(),
        ty if ty.is_uuid() => bsatn::to_vec(&Uuid::parse_str(literal).ok()?).ok()?,
        _ => return None,
    })
}

fn float(literal: &str) -> Option<f64> {
    if Decimal::read(literal)?.digits.is_empty() {
        // No zero is negative.
        return Some(0.0);
    }
    match literal.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => scaled(mantissa, exponent.parse().ok()?),
        None => literal.parse().ok(),
    }
}

/// A number with an exponent. Where that leaves no fraction, SpacetimeDB multiplies, which may not give the nearest number; and
/// conditions of queries are to find what was written.
fn scaled(mantissa: &str, exponent: i64) -> Option<f64> {
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    if power <= 0 {
        return format!("{mantissa}e{exponent}").parse().ok();
    }
    let digits: f64 = format!("{whole}{fraction}").parse().ok()?;
    let power = i32::try_from(power).map_or(f64::INFINITY, |power| 10_f64.powi(power));
    Some(digits * power)
}

/// A decimal number: its digits are an integer, to be multiplied by a power of ten.
struct Decimal {
    is_negative: bool,
    /// Without zeros at the beginning and at the end; empty for 0.
    digits: String,
    exponent: i64,
    /// Whether there are digits behind the point, zeros included.
    has_fraction: bool,
}

impl Decimal {
    fn read(literal: &str) -> Option<Self> {
        let unsigned = literal.strip_prefix(['+', '-']).unwrap_or(literal);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let exponent = exponent.checked_sub(fraction.len() as i64)?;
        let trimmed = digits.trim_end_matches('0');
        let zeros = (digits.len() - trimmed.len()) as i64;
        Some(Self {
            is_negative: literal.starts_with('-'),
            digits: trimmed.trim_start_matches('0').to_owned(),
            exponent: exponent.checked_add(zeros)?,
            has_fraction: exponent < 0,
        })
    }

    /// All digits, if it is an integer and no longer than any that there is.
    fn integer(&self) -> Option<String> {
        if self.digits.is_empty() {
            return Some("0".to_owned());
        }
        let zeros = usize::try_from(self.exponent).ok()?;
        if self.digits.len().checked_add(zeros)? > DIGITS_MAX {
            return None;
        }
        let sign = if self.is_negative { "-" } else { "" };
        Some(format!("{sign}{}{}", self.digits, "0".repeat(zeros)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spacetimedb_sats::{ProductType, SumType};

    fn number(literal: &str, ty: AlgebraicType) -> Option<Vec<u8>> {
        encode(&Literal::Number(literal.to_owned()), Some(&ty)).ok()
    }

    fn hex(literal: &str, ty: AlgebraicType) -> Option<Vec<u8>> {
        encode(&Literal::Hex(literal.to_owned()), Some(&ty)).ok()
    }

    #[test]
    fn integers_may_be_written_in_any_way_and_fit_their_type() {
        for literal in ["100", "+100", "1e2", "1.00E2", "100.", "1000e-1", "000100.000"] {
            assert_eq!(number(literal, AlgebraicType::U8), Some(vec![100]), "{literal}");
        }
        assert_eq!(number("-128", AlgebraicType::I8), Some(vec![128]));
        assert_eq!(number("-0", AlgebraicType::U64), Some(vec![0; 8]));
        assert_eq!(number("0e999999999", AlgebraicType::U8), Some(vec![0]));
        let max = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(number(max, AlgebraicType::U256), Some(vec![255; 32]));
        assert_eq!(number(&format!("{max}0"), AlgebraicType::U256), None);
        let min = "-57896044618658097711785492504343953926634992332820282019728792003956564819968";
        let mut bytes = vec![0; 32];
        bytes[31] = 0x80;
        assert_eq!(number(min, AlgebraicType::I256), Some(bytes));
        for literal in ["12.0", "120e-1", "0.0"] {
            assert_eq!(number(literal, AlgebraicType::U256), None, "{literal}");
            assert!(number(literal, AlgebraicType::U128).is_some(), "{literal}");
        }
        assert!(number("1.20e2", AlgebraicType::I256).is_some());
        for (literal, ty) in [
            ("256", AlgebraicType::U8),
            ("-1", AlgebraicType::U8),
            ("-129", AlgebraicType::I8),
            ("1.5", AlgebraicType::U8),
            ("1e-1", AlgebraicType::U8),
            ("1e999999999999", AlgebraicType::U256),
            ("1e99999999999999999999", AlgebraicType::U256),
            ("1e-9223372036854775808", AlgebraicType::U8),
            ("", AlgebraicType::U8),
            (".", AlgebraicType::U8),
            ("-", AlgebraicType::I8),
            ("1_0", AlgebraicType::U8),
        ] {
            assert_eq!(number(literal, ty), None, "{literal}");
        }
        // As SpacetimeDB reads them: decimal digits.
        assert_eq!(hex("10", AlgebraicType::U8), Some(vec![10]));
        assert_eq!(hex("ff", AlgebraicType::U8), None);
    }

    #[test]
    fn floats_are_the_nearest_ones_and_nothing_else() {
        let f64 = |literal| number(literal, AlgebraicType::F64);
        assert_eq!(f64("0.1"), Some(0.1_f64.to_le_bytes().into()));
        assert_eq!(f64("-1.5e3"), Some((-1500.0_f64).to_le_bytes().into()));
        assert_eq!(f64("-0.0"), Some(0.0_f64.to_le_bytes().into()));
        assert_eq!(
            number(".1", AlgebraicType::F32),
            Some(0.1_f32.to_le_bytes().into())
        );
        // As far from the nearest one as SpacetimeDB is.
        for (literal, digits, power) in [("1e23", 1.0, 23), ("-1.25E30", -125.0, 28), ("7e400", 7.0, 400)] {
            let value = digits * 10_f64.powi(power);
            assert_eq!(f64(literal), Some(value.to_le_bytes().into()), "{literal}");
        }
        for zero in ["0e400", "-0.0e999999999999", "1e-400"] {
            assert_eq!(f64(zero), Some(vec![0; 8]), "{zero}");
        }
        assert_eq!(f64("-1e-400"), Some((-0.0_f64).to_le_bytes().into()));
        for other in ["nan", "inf", "infinity", "0x1", "1e"] {
            assert_eq!(hex(other, AlgebraicType::F64), None, "{other}");
        }
    }

    #[test]
    fn digits_are_bytes_texts_and_identities() {
        assert_eq!(hex("0aF", AlgebraicType::bytes()), None);
        assert_eq!(
            hex("00aF", AlgebraicType::bytes()),
            Some(vec![2, 0, 0, 0, 0, 0xaf])
        );
        assert_eq!(
            number("1e2", AlgebraicType::String),
            Some(vec![3, 0, 0, 0, b'1', b'e', b'2'])
        );
        let mut identity = vec![0; 32];
        identity[0] = 7;
        let digits = format!("{:064x}", 7);
        assert_eq!(hex(&digits, AlgebraicType::identity()), Some(identity));
        assert_eq!(hex("07", AlgebraicType::identity()), None);
        let digits = format!("{:032x}", 7);
        for ty in [AlgebraicType::connection_id(), AlgebraicType::uuid()] {
            assert_eq!(hex(&digits, ty), Some([vec![7], vec![0; 15]].concat()));
        }
    }

    #[test]
    fn what_does_not_fit_is_said_in_spacetimedbs_words() {
        let error = |literal: Literal, ty| encode(&literal, Some(&ty)).expect_err("an error").to_string();
        let choice = SumType::from([("A", AlgebraicType::unit()), ("B", AlgebraicType::U8)]);
        for (literal, ty, words) in [
            (
                Literal::Number("300".into()),
                AlgebraicType::U8,
                "The literal expression `300` cannot be parsed as type `U8`",
            ),
            (
                Literal::Number("1".into()),
                choice.into(),
                "The literal expression `1` cannot be parsed as type `(A: () | B: U8)`",
            ),
            (
                Literal::Text("2024-01-01".into()),
                AlgebraicType::timestamp(),
                "Unexpected type: (expected) String != (__timestamp_micros_since_unix_epoch__: I64) (inferred)",
            ),
            (
                Literal::Bool(true),
                AlgebraicType::U8,
                "Unexpected type: (expected) Bool != U8 (inferred)",
            ),
            (
                Literal::Number("1".into()),
                ProductType::from([("x", AlgebraicType::array(AlgebraicType::I8))]).into(),
                "The literal expression `1` cannot be parsed as type `(x: Array<I8>)`",
            ),
        ] {
            assert_eq!(error(literal, ty), words);
        }
    }

    proptest! {
        #[test]
        fn integers_are_read_as_they_are(value: i128, shift in 0..30_u32) {
            let power = 10_i128.pow(shift);
            prop_assert_eq!(number(&value.to_string(), AlgebraicType::I128), Some(value.to_le_bytes().into()));
            let scaled = value / power;
            let written = format!("{scaled}e{shift}");
            prop_assert_eq!(number(&written, AlgebraicType::I128), Some((scaled * power).to_le_bytes().into()));
        }

        #[test]
        fn no_text_is_read_in_two_ways(literal in "[-+0-9.eE]{0,8}") {
            let float = number(&literal, AlgebraicType::F64).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()));
            if let Some(integer) = number(&literal, AlgebraicType::I64) {
                let integer = i64::from_le_bytes(integer.try_into().unwrap());
                prop_assert_eq!(float.map(|float| float as i64 / 1024), Some(integer / 1024));
            }
        }
    }
}

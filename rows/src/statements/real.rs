//! Reals as SQL.
//!
//! SQLite before 3.47 reads some decimal numbers as a neighbour of the one that is meant: it computes with 64 bits, and rounds
//! to 53 at last (`sqlite3AtoF` in util.c). Such a number is written as a fraction, which every SQLite computes exactly.

/// The largest power of two that is written out: SQLite takes so many digits as they are.
const STEP: u32 = 53;
/// Powers of ten up to it fit into 64 bits without their factors of two.
const MOST_TENS: u32 = 27;

/// A real number; not NaN, which SQLite does not keep.
pub(super) fn literal(f: f64) -> String {
    match f {
        f64::INFINITY => "9e999".to_owned(),
        f64::NEG_INFINITY => "-9e999".to_owned(),
        f if is_read_as_it_is(f) => format!("{f:?}"),
        f => fraction(f),
    }
}

/// Whether its shortest decimal digits are read as this number.
fn is_read_as_it_is(f: f64) -> bool {
    let text = format!("{:e}", f.abs());
    let Some((digits, exponent)) = text.split_once('e') else { return false };
    let fraction = digits.len().saturating_sub(2);
    let number: Option<u64> = digits.replace('.', "").parse().ok();
    let exponent: Option<i32> = exponent.parse().ok();
    let (Some(mut number), Some(exponent)) = (number, exponent) else { return false };
    let mut tens = exponent - i32::try_from(fraction).unwrap_or(i32::MAX);
    while tens > 0 && number < i64::MAX as u64 / 10 {
        (number, tens) = (number * 10, tens - 1);
    }
    match u32::try_from(-tens) {
        Ok(0) => true,
        Ok(tens @ 1..=MOST_TENS) => number > 0 && !is_rounded_twice(number.into(), 10_u128.pow(tens)),
        _ => false,
    }
}

/// Whether a quotient with 64 bits is in the middle between two with 53 bits.
fn is_rounded_twice(dividend: u128, divisor: u128) -> bool {
    let (mut rest, mut divisor) = (dividend, divisor);
    while divisor <= rest >> 1 {
        divisor <<= 1;
    }
    while rest < divisor {
        rest <<= 1;
    }
    let mut quotient = 0_u128;
    for _ in 0..65 {
        quotient <<= 1;
        if rest >= divisor {
            (quotient, rest) = (quotient | 1, rest - divisor);
        }
        rest <<= 1;
    }
    let (kept, half) = (quotient >> 1, quotient & 1 == 1);
    let is_up = half && (rest > 0 || kept & 1 == 1);
    (kept + u128::from(is_up)) & 0x7ff == 0x400
}

/// Of one that is not 0: an odd number, divided by powers of two or multiplied with them.
fn fraction(f: f64) -> String {
    let bits = f.abs().to_bits();
    let (raw, exponent) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let (mantissa, exponent) = match exponent {
        0 => (raw, -1074),
        _ => (raw | 1 << 52, exponent - 1075),
    };
    let zeros = mantissa.trailing_zeros();
    let (odd, exponent) = (mantissa >> zeros, exponent + zeros as i32);
    let (sign, sign_of) = (if f < 0.0 { "-" } else { "" }, if exponent < 0 { '/' } else { '*' });
    let mut text = format!("({sign}{odd}.0");
    let mut left = exponent.unsigned_abs();
    while left > 0 {
        let step = left.min(STEP);
        text.push_str(&format!("{sign_of}{}.0", 1_u64 << step));
        left -= step;
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// As SQLite reads it.
    fn read(db: &Connection, f: f64) -> f64 {
        db.query_row(&format!("SELECT {}", literal(f)), (), |row| row.get(0)).unwrap()
    }

    #[test]
    fn every_real_is_read_as_it_is() {
        let db = Connection::open_in_memory().unwrap();
        let mut random = fastrand::Rng::with_seed(5);
        let odd = [0.0, 1.5, -2.25, 1e15, 1e22, 1e23, 1e300, f64::MAX, f64::MIN_POSITIVE, 5e-324, 3e-310];
        let odd = odd.into_iter().chain([f64::INFINITY, f64::NEG_INFINITY, 0.511_066_794_939_322]);
        let any =
            std::iter::repeat_with(|| f64::from_bits(random.u64(..))).filter(|f| !f.is_nan()).take(5_000);
        for f in odd.chain(any).flat_map(|f| [f, -f]) {
            assert_eq!(read(&db, f), f, "{}", literal(f));
            if f.is_finite() && f != 0.0 {
                let text = fraction(f);
                let computed: f64 = db.query_row(&format!("SELECT {text}"), (), |row| row.get(0)).unwrap();
                assert_eq!(computed, f, "{text}");
            }
        }
    }

    /// Found with SQLite 3.40.1, which reads its decimal digits as 0.5110667949393219.
    #[test]
    fn what_older_versions_read_otherwise_is_a_fraction() {
        assert_eq!(literal(0.511_066_794_939_322), "(4603280454500329.0/9007199254740992.0)");
        assert_eq!(literal(0.1), "0.1");
        assert_eq!(literal(-1.5e10), "-15000000000.0");
    }
}

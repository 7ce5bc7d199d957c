//! Which calls have become part of a database, in a few bytes.
//!
//! A server that dies with answers unsent leaves the question which of those calls failed. `rtdb_state` therefore keeps
//! the *power sums* of all calls that succeeded: each call's position is hashed to an element x of a finite field, and
//! the k-th sum is that of all x^k. The sums that are missing afterwards are those of the failed calls, and from as many
//! sums as there are failed calls, these follow (Minsky, Trachtenberg, Zippel: "Set reconciliation with nearly optimal
//! communication complexity", IEEE Transactions on Information Theory 49, 2003).

/// The field: the integers modulo this prime, so that a product fits in 64 bits and is reduced by a shift.
pub(crate) const PRIME: u64 = (1 << PRIME_BITS) - 1;
pub(crate) const PRIME_BITS: u32 = 31;

/// Sums of x^0 to x^7: up to 7 failed calls are told apart, of however many whose answers are lost.
pub(crate) const SUMS: usize = 8;

/// The factors of the hash.
pub(crate) const FACTORS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];
/// What is shifted between them.
pub(crate) const SHIFT: u32 = 32;

/// The power sums of the calls that are part of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Successes([u32; SUMS]);

impl Successes {
    /// The columns of `rtdb_state` that hold them, four sums in each, the lowest one in the lowest bits. Few wide columns
    /// cost the server less than many narrow ones.
    pub const COLUMNS: [&str; SUMS / 4] = ["successes_0", "successes_4"];

    /// The sums in the columns.
    pub fn from_columns(columns: [u128; SUMS / 4]) -> Self {
        let mut sums = [0; SUMS];
        for (four, column) in sums.chunks_exact_mut(4).zip(columns) {
            let parts = [0, 32, 64, 96].map(|shift| (column >> shift) as u32);
            four.copy_from_slice(&parts);
        }
        Self(sums)
    }

    /// The columns that hold the sums.
    pub fn columns(self) -> [u128; SUMS / 4] {
        let column = |four: &[u32]| {
            four.iter()
                .rev()
                .fold(0, |column, sum| column << 32 | u128::from(*sum))
        };
        [column(&self.0[..4]), column(&self.0[4..])]
    }

    /// A call at `index` has succeeded.
    pub fn add(&mut self, index: u64) {
        let (element, mut power) = (element(index), 1);
        for sum in &mut self.0 {
            *sum = reduce(u64::from(*sum) + power) as u32;
            power = reduce(power * element);
        }
    }

    /// Which of the calls at the places `ran`, that were made after `self`, are not in `after`. `None` if it can't be
    /// said: too many are not, or the sums are those of other calls.
    pub fn failures(self, ran: &[u64], after: Self) -> Option<Vec<u64>> {
        let mut all = self;
        ran.iter().for_each(|index| all.add(*index));
        let missing = all.less(after);
        let polynomial = missing.polynomial()?;
        let failed: Vec<u64> = ran
            .iter()
            .copied()
            .filter(|index| evaluate(&polynomial, element(*index)) == 0)
            .collect();
        let mut found = Self::default();
        failed.iter().for_each(|index| found.add(*index));
        (found == missing).then_some(failed)
    }

    fn less(self, other: Self) -> Self {
        let mut sums = self.0;
        for (sum, other) in sums.iter_mut().zip(other.0) {
            *sum = reduce(u64::from(*sum) + PRIME - u64::from(other).min(PRIME)) as u32;
        }
        Self(sums)
    }

    /// The polynomial whose roots are the elements that these are the sums of, the highest coefficient first, by
    /// Newton's identities: k e(k) = sum of (-1)^(i-1) e(k-i) p(i) for i from 1 to k.
    fn polynomial(&self) -> Option<Vec<u64>> {
        let count = self.0[0] as usize;
        if count >= SUMS {
            return None;
        }
        // The coefficients are e(k) with alternating signs, which the identity then has no more.
        let mut coefficients = vec![1];
        for k in 1..=count {
            let sum = (1..=k).fold(0, |sum, i| {
                reduce(sum + reduce(coefficients[k - i] * u64::from(self.0[i])))
            });
            coefficients.push(reduce((PRIME - sum) * inverse(k as u64)));
        }
        Some(coefficients)
    }
}

/// What stands for a call.
fn element(index: u64) -> u64 {
    let mixed = index.wrapping_mul(FACTORS[0]);
    let mixed = (mixed ^ mixed >> SHIFT).wrapping_mul(FACTORS[1]);
    reduce(mixed >> (u64::BITS - PRIME_BITS))
}

/// The remainder modulo the prime of a sum of two elements, or of a product.
fn reduce(value: u64) -> u64 {
    let folded = (value & PRIME) + (value >> PRIME_BITS);
    if folded >= PRIME { folded - PRIME } else { folded }
}

fn evaluate(polynomial: &[u64], at: u64) -> u64 {
    polynomial
        .iter()
        .fold(0, |value, coefficient| reduce(reduce(value * at) + coefficient))
}

/// By Fermat's little theorem.
fn inverse(value: u64) -> u64 {
    let (mut inverse, mut power, mut exponent) = (1, value, PRIME - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            inverse = reduce(inverse * power);
        }
        power = reduce(power * power);
        exponent >>= 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    /// As positions stand in a log: some in one entry, some in the next.
    fn positions(count: u64) -> Vec<u64> {
        (0..count).map(|n| ((7 + n / 5) << 16) + n % 5).collect()
    }

    fn before() -> Successes {
        let mut before = Successes::default();
        (1..100).for_each(|index| before.add(index));
        before
    }

    fn after(ran: &[u64], failed: &[u64]) -> Successes {
        let mut sums = before();
        ran.iter()
            .filter(|index| !failed.contains(index))
            .for_each(|index| sums.add(*index));
        sums
    }

    proptest! {
        #[test]
        fn the_failures_are_found(failed in subsequence(positions(4_096), 0..SUMS)) {
            let ran = positions(4_096);
            prop_assert_eq!(before().failures(&ran, after(&ran, &failed)), Some(failed));
        }

        #[test]
        fn too_many_are_not_guessed(failed in subsequence(positions(4_096), SUMS..40)) {
            let ran = positions(4_096);
            prop_assert_eq!(before().failures(&ran, after(&ran, &failed)), None);
        }

        #[test]
        fn arithmetic_is_modulo_the_prime(a in 0..PRIME, b in 0..PRIME) {
            prop_assert_eq!(reduce(a * b), a * b % PRIME);
            prop_assert_eq!(reduce(a + b), (a + b) % PRIME);
            prop_assert_eq!(reduce(inverse(a.max(1)) * a.max(1)), 1);
        }
    }

    #[test]
    fn sums_of_other_calls_are_no_answer() {
        let ran = positions(5);
        let other = Successes::from_columns([7; SUMS / 4]);
        assert_eq!(before().failures(&ran, other), None);
        assert_eq!(before().failures(&ran, before()), Some(ran.clone()));
        let mut later = before();
        later.add(1 << 40);
        assert_eq!(before().failures(&ran, later), None);
    }

    #[test]
    fn columns_hold_four_sums_each() {
        let mut sums = Successes::default();
        sums.add(9);
        let columns = sums.columns();
        assert_eq!(columns[0] >> 32 & u128::from(u32::MAX), u128::from(sums.0[1]));
        assert_eq!(Successes::from_columns(columns), sums);
        assert_eq!((sums.0[0], u64::from(sums.0[1])), (1, element(9)));
    }
}

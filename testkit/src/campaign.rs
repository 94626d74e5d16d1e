//! Random tests whose number of rounds the caller chooses: a few in `cargo test`, hundreds under
//! `cargo xtask campaign NAME --n N --seed S`, which sets [`ROUNDS`] and [`SEED`].

use anyhow::Result;

/// The variable with the number of rounds.
pub const ROUNDS: &str = "LITEKEEP_CAMPAIGN_N";
/// The variable with the first round's seed.
pub const SEED: &str = "LITEKEEP_CAMPAIGN_SEED";

/// After so many rounds a long campaign says how far it is: whoever ends it goes on from there.
const PROGRESS: u64 = 100;

/// Runs `round` with one seed after the other: `default` rounds from seed 1, unless the variables say otherwise.
///
/// # Panics
/// At the first round that fails, with its seed and how to repeat it; or when a variable is not a number.
pub fn rounds(name: &str, default: u64, mut round: impl FnMut(u64) -> Result<()>) {
    let number = |variable: &str, default: u64| match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")),
        Err(_) => default,
    };
    let (n, first) = (number(ROUNDS, default), number(SEED, 1));
    for seed in first..first + n {
        if let Err(error) = round(seed) {
            panic!(
                "campaign {name}, seed {seed}: {error:?}\nagain: cargo xtask campaign {name} --n 1 --seed {seed}"
            );
        }
        let done = seed - first + 1;
        if n > PROGRESS && done.is_multiple_of(PROGRESS) {
            eprintln!("campaign {name}: passed from seed {first} to {seed}");
        }
    }
}

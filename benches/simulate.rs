//! How fast scenarios of the evaluation are simulated, on one core.
//!
//! `cargo bench --bench simulate` prints the time of each family, mean over a few
//! seeds, and of a quiet day; it fails when the mean of all is over its budget:
//! an evaluation simulates thousands.

use std::time::{Duration, Instant};

use anyhow::ensure;
use snowpit::eval::scenario::{Evidence, Family, scenario};
use snowpit::eval::simulate::quiet_days;

/// Seeds of each family.
const SEEDS: u64 = 6;

/// Mean time to simulate one scenario.
const BUDGET: Duration = Duration::from_millis(150);

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not measured: a debug build costs something else; use cargo bench");
        return Ok(());
    }
    let mut all = Duration::ZERO;
    for family in Family::ALL {
        let mut simulated = Duration::ZERO;
        let mut read = Duration::ZERO;
        let mut samples = 0;
        for seed in 0..SEEDS {
            let began = now();
            let scenario = scenario(family, seed);
            simulated += began.elapsed();
            let began = now();
            samples += Evidence::Requests.restrict(&scenario).count();
            read += began.elapsed();
        }
        all += simulated;
        let per = |time: Duration| time.as_secs_f64() * 1e3 / SEEDS as f64;
        println!(
            "{family:<30} {:>7.1} ms, {:>6.1} ms to read {:>6} samples",
            per(simulated),
            per(read),
            samples / SEEDS as usize
        );
    }
    let mean = all / (Family::ALL.len() as u32 * SEEDS as u32);
    let began = now();
    let (_, days) = quiet_days(1, 1.0);
    let samples = days.count();
    println!(
        "a quiet day: {:.1} s, {samples} samples",
        began.elapsed().as_secs_f64()
    );
    println!("mean of a scenario: {:.1} ms", mean.as_secs_f64() * 1e3);
    ensure!(mean <= BUDGET, "over the budget of {BUDGET:?}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

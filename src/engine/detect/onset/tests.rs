use proptest::prelude::*;

use super::*;
use crate::engine::detect::clock::CLOCK_SET_BACK;
use crate::engine::stats::robust;

const TUNING: Tuning = Tuning {
    alarm_z: ALARM_Z,
    warm_up: 120.0,
    min_rise: 8.0,
    resolve_after: 300.0,
};

/// A Poisson number: Knuth's product for small means, the normal approximation
/// for large ones.
fn poisson(random: &mut fastrand::Rng, mean: f64) -> f64 {
    if mean > 60.0 {
        let uniform = random.f64().max(1e-12);
        let normal = (-2.0 * uniform.ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
        return (mean + mean.sqrt() * normal).round().max(0.0);
    }
    let limit = (-mean).exp();
    let (mut count, mut product) = (0.0, random.f64());
    while product > limit {
        count += 1.0;
        product *= random.f64();
    }
    count
}

/// A detector that has seen half an hour of Poisson noise.
fn settled(base: f64, random: &mut fastrand::Rng) -> (OnsetDetector, f64) {
    let mut detector = OnsetDetector::new(TUNING);
    for t in 0..1800 {
        let reading = detector.push(f64::from(t), poisson(random, base)).unwrap();
        assert!(
            !is_alarm(&reading),
            "alarm at {t} s of quiet noise at {base}"
        );
    }
    (detector, 1800.0)
}

fn is_alarm(reading: &Reading) -> bool {
    matches!(reading.state, State::Alarm(_))
}

/// Seconds until the alarm and the estimated onset, both from `start`.
fn alarm_after(
    detector: &mut OnsetDetector,
    start: f64,
    seconds: u32,
    mut y: impl FnMut(f64) -> f64,
) -> Option<(f64, f64)> {
    (0..seconds)
        .map(f64::from)
        .find_map(|s| match detector.push(start + s, y(s))?.state {
            State::Alarm(alarm) => Some((s, alarm.onset_at - start)),
            _ => None,
        })
}

#[test]
fn judgement_is_held_while_warming_up() {
    let mut detector = OnsetDetector::new(TUNING);
    for t in 0..120 {
        let y = if t > 60 { 500.0 } else { 3.0 };
        let reading = detector.push(f64::from(t), y).unwrap();
        assert_eq!(reading.state, State::WarmingUp);
        assert_eq!(detector.band(), None);
    }
    detector.push(120.0, 3.0);
    assert!(detector.band().is_some());
}

#[test]
fn a_warm_up_of_nothing_still_needs_samples() {
    let mut detector = OnsetDetector::new(Tuning {
        warm_up: 0.0,
        ..TUNING
    });
    for t in 0..4 {
        assert_eq!(
            detector.push(f64::from(t), 3.0).unwrap().state,
            State::WarmingUp
        );
    }
    assert_eq!(detector.push(4.0, 3.0).unwrap().state, State::Quiet);
}

#[test]
fn a_large_step_alarms_within_three_ticks() {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut detector, start) = settled(3.0, &mut random);
    let (delay, onset) = alarm_after(&mut detector, start, 60, |_| 40.0).unwrap();
    assert!(delay <= 2.0, "{delay}");
    assert!((-3.0..=0.0).contains(&onset), "{onset}");
}

#[test]
fn a_ramp_alarms_within_ten_seconds() {
    let mut random = fastrand::Rng::with_seed(2);
    let (mut detector, start) = settled(4.0, &mut random);
    let ramp = |s: f64| 4.0 + 39.0 * (s / 12.0).min(1.0);
    let (delay, onset) = alarm_after(&mut detector, start, 60, ramp).unwrap();
    assert!(delay <= 10.0, "{delay}");
    assert!(onset.abs() <= 4.0, "{onset}");
}

#[test]
fn steps_of_eight_tenths_of_the_base_are_found() {
    for base in [5.0, 50.0, 500.0] {
        let step = f64::max(0.8 * base, TUNING.min_rise);
        let mut delays: Vec<f64> = (0..40)
            .filter_map(|seed| {
                let mut random = fastrand::Rng::with_seed(100 + seed);
                let (mut detector, start) = settled(base, &mut random);
                let noisy = |_| poisson(&mut random, base + step);
                alarm_after(&mut detector, start, 90, noisy).map(|(delay, _)| delay)
            })
            .collect();
        let median = robust::median(&mut delays).unwrap_or(f64::NAN);
        println!(
            "base {base} step {step}: {} of 40 found, median {median} s",
            delays.len()
        );
        assert_eq!(delays.len(), 40, "steps of {step} at base {base}");
        // At base 5 the step is the least that counts, and barely over the noise.
        let bound = if base < 10.0 { 15.0 } else { 8.0 };
        assert!(median <= bound, "{median} s at base {base}");
    }
}

#[test]
fn sensitivity_moves_the_alarm() {
    let tuning = |sensitivity| {
        Tuning::from(&ConnectionAvalanche {
            sensitivity,
            ..ConnectionAvalanche::default()
        })
    };
    let low = tuning(Sensitivity::Low).alarm_z;
    let normal = tuning(Sensitivity::Normal).alarm_z;
    let high = tuning(Sensitivity::High).alarm_z;
    assert!(low > normal && normal > high);
    assert_eq!(normal, 6.5);
}

/// Sessions of requests that arrive at random and stay a few seconds, with a
/// day's sine, and bursts of half as many again for some seconds.
fn quiet_days(days: u32, seed: u64, mean: f64, hold: f64) -> (u32, u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut detector = OnsetDetector::new(TUNING);
    let (mut sessions, mut burst) = (mean, 0);
    let (mut alarms, mut open) = (0, false);
    for second in 0..days * 86_400 {
        let t = f64::from(second);
        let season = 1.0 + (std::f64::consts::TAU * t / 86_400.0).sin() / 3.0;
        if random.u32(0..900) == 0 {
            burst = random.u32(1..6);
        }
        let factor = if burst > 0 { 1.5 } else { 1.0 };
        burst = burst.saturating_sub(1);
        let arrivals = poisson(&mut random, mean / hold * season * factor);
        let leaving = poisson(&mut random, sessions / hold).min(sessions);
        sessions += arrivals - leaving;
        let reading = detector.push(t, sessions).unwrap();
        let alarm = is_alarm(&reading);
        alarms += u32::from(alarm && !open);
        open = alarm;
    }
    (alarms, days)
}

#[test]
fn quiet_seasonal_days_raise_no_alarm() {
    for (seed, mean, hold) in [(11, 40.0, 1.0), (12, 12.0, 2.0), (13, 200.0, 3.0)] {
        let (alarms, days) = quiet_days(3, seed, mean, hold);
        println!("{alarms} alarms in {days} quiet days at {mean} sessions held {hold} s");
        assert_eq!(alarms, 0);
    }
}

#[test]
fn one_wild_sample_is_no_incident() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut detector, start) = settled(5.0, &mut random);
    let spike = |s: f64| if s == 2.0 { 60.0 } else { 5.0 };
    assert_eq!(alarm_after(&mut detector, start, 300, spike), None);
}

#[test]
fn a_rise_below_the_least_is_no_incident() {
    let mut detector = OnsetDetector::new(Tuning {
        min_rise: 50.0,
        ..TUNING
    });
    for t in 0..1800 {
        detector.push(f64::from(t), 3.0);
    }
    assert_eq!(alarm_after(&mut detector, 1800.0, 600, |_| 45.0), None);
}

#[test]
fn calm_for_long_enough_ends_it_and_the_next_one_is_found() {
    let mut random = fastrand::Rng::with_seed(4);
    let (mut detector, start) = settled(4.0, &mut random);
    assert!(alarm_after(&mut detector, start, 60, |_| 60.0).is_some());
    let mut ended = None;
    for s in 60..600 {
        let reading = detector.push(start + f64::from(s), 4.0).unwrap();
        if !is_alarm(&reading) {
            ended.get_or_insert(s);
        }
    }
    let ended = ended.unwrap();
    assert!(
        (360..400).contains(&ended),
        "ended {ended} s after the onset"
    );
    let second = alarm_after(&mut detector, start + 600.0, 60, |_| 60.0);
    assert!(second.unwrap().0 <= 2.0);
}

#[test]
fn an_incident_does_not_become_normal_while_it_moves() {
    let mut detector = OnsetDetector::new(TUNING);
    for t in 0..1800 {
        detector.push(f64::from(t), 5.0);
    }
    for t in 1800..1800 + 4 * 3600 {
        let y = if t % 1200 < 600 { 40.0 } else { 90.0 };
        let drifting = y + f64::from(t - 1800) / 100.0;
        let reading = detector.push(f64::from(t), drifting).unwrap();
        assert!(t < 1803 || is_alarm(&reading), "ended at {t}");
    }
    assert!((detector.band().unwrap().expected - 5.0).abs() < 0.1);
}

#[test]
fn a_level_that_holds_for_an_hour_is_accepted_once() {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut detector, start) = settled(5.0, &mut random);
    let mut accepted = Vec::new();
    let mut alarms_after = 0;
    for s in 0..3 * 3600 {
        let y = poisson(&mut random, 40.0);
        let reading = detector.push(start + f64::from(s), y).unwrap();
        match reading.state {
            State::Alarm(alarm) if alarm.accepted => accepted.push(s),
            State::Alarm(_) if !accepted.is_empty() => alarms_after += 1,
            _ => {}
        }
    }
    assert_eq!(accepted.len(), 1);
    assert!((3590..3960).contains(&accepted[0]), "{accepted:?}");
    assert_eq!(alarms_after, 0);
    let band = detector.band().unwrap();
    assert!((band.expected - 40.0).abs() < 4.0, "{band:?}");
    assert!(alarm_after(&mut detector, start + 10_800.0, 60, |_| 120.0).is_some());
}

#[test]
fn a_silence_does_not_alarm_by_itself() {
    let mut random = fastrand::Rng::with_seed(6);
    let (mut detector, mut t) = settled(30.0, &mut random);
    for gap in [5.0, 60.0, 300.0, 1800.0, 3500.0, 10_000.0] {
        t += gap;
        let first = detector.push(t, 46.0).unwrap();
        assert!(!is_alarm(&first), "after {gap} s");
        for _ in 0..600 {
            t += 1.0;
            let reading = detector.push(t, poisson(&mut random, 30.0)).unwrap();
            assert!(!is_alarm(&reading), "after {gap} s");
        }
    }
}

#[test]
fn an_avalanche_that_began_in_a_silence_is_found() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut detector, start) = settled(10.0, &mut random);
    let found = alarm_after(&mut detector, start + 300.0, 30, |_| 90.0);
    assert!(found.unwrap().0 <= 3.0);
}

#[test]
fn slow_and_uneven_polls_work() {
    let mut random = fastrand::Rng::with_seed(8);
    let mut detector = OnsetDetector::new(TUNING);
    let mut t = 0.0;
    while t < 7200.0 {
        t += 5.0 + 10.0 * random.f64();
        let reading = detector.push(t, poisson(&mut random, 20.0)).unwrap();
        assert!(!is_alarm(&reading));
    }
    let found = (1..=4).find(|i| {
        let reading = detector.push(t + 10.0 * f64::from(*i), 100.0).unwrap();
        is_alarm(&reading)
    });
    assert!(found.is_some());
}

#[test]
fn old_and_impossible_samples_are_ignored() {
    let mut detector = OnsetDetector::new(TUNING);
    assert!(detector.push(10.0, 1.0).is_some());
    for (t, y) in [
        (10.0, 1.0),
        (9.0, 1.0),
        (f64::NAN, 1.0),
        (11.0, f64::NAN),
        (11.0, f64::INFINITY),
        (f64::INFINITY, 1.0),
        (1e300, 1.0),
    ] {
        assert_eq!(detector.push(t, y), None);
    }
    assert!(detector.push(11.0, 1.0).is_some());
}

#[test]
fn a_clock_set_back_starts_anew() {
    let mut random = fastrand::Rng::with_seed(9);
    let (mut detector, _) = settled(4.0, &mut random);
    let accepted = (0..100).find(|&i| detector.push(f64::from(i), 4.0).is_some());
    assert_eq!(accepted, Some(CLOCK_SET_BACK as i32 - 1));
    assert_eq!(detector.band(), None);
}

#[test]
fn a_server_that_was_down_does_not_lower_the_baseline() {
    let mut random = fastrand::Rng::with_seed(10);
    let (mut detector, start) = settled(50.0, &mut random);
    let before = detector.band().unwrap();
    for s in 0..60 {
        detector.push(start + f64::from(s), 0.0);
    }
    detector.hold_learning(120.0);
    for s in 60..120 {
        detector.push(start + f64::from(s), 0.0);
    }
    let after = detector.band().unwrap();
    assert!(
        (after.expected - before.expected).abs() < 2.0,
        "{before:?} {after:?}"
    );
    assert!(
        (after.upper - before.upper).abs() < 6.0,
        "{before:?} {after:?}"
    );
    let second = alarm_after(&mut detector, start + 120.0, 60, |_| 300.0);
    assert!(second.unwrap().0 <= 3.0);
}

fn any_time() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..5000.0f64,
        1 => prop::num::f64::ANY,
        1 => -1e13..1e13f64,
    ]
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..1000.0f64,
        1 => prop::num::f64::ANY,
        1 => -1e13..1e13f64,
    ]
}

proptest! {
    #[test]
    fn no_sequence_panics_or_gives_nonsense(
        points in prop::collection::vec((any_time(), any_value()), 0..300),
        steps in prop::collection::vec((0.0..400.0f64, any_value()), 0..300),
        warm_up in 0.0..200.0f64,
    ) {
        let mut detector = OnsetDetector::new(Tuning { warm_up, ..TUNING });
        let mut t = 0.0;
        let forward = steps.into_iter().map(|(dt, y)| { t += dt; (t, y) });
        for (t, y) in forward.chain(points) {
            if let Some(reading) = detector.push(t, y) {
                prop_assert!(reading.z.is_finite());
                if let Some(band) = reading.band {
                    prop_assert!(band.expected.is_finite() && band.upper > band.expected);
                }
                if let State::Alarm(alarm) = reading.state {
                    prop_assert!(alarm.onset_at <= t);
                }
            }
        }
    }
}

//! Whether a figure grows: a line by least squares through its second half.

use std::fmt;

/// Seconds in which memory rises by design: the history keeps ten minutes unpacked,
/// and a route is forgotten when it was unheard of for ten.
pub const FILLS: f64 = 720.0;

/// A run below this, in seconds, shows nothing else.
pub const SHORTEST: f64 = FILLS + 300.0;

/// Readings of the second half below which nothing can be said.
const LEAST_READINGS: usize = 6;

/// A rise counts when it is this many times the scatter about the line.
const SCATTER: f64 = 2.0;

/// And when it is this part of the level, in an hour.
const LEAST_PART: f64 = 0.10;

/// Characters of the picture.
const WIDTH: usize = 48;

/// The course of one figure.
#[derive(Debug)]
pub struct Trend {
    /// Of the second half.
    mean: f64,
    /// A second.
    slope: f64,
    /// Seconds of the second half.
    span: f64,
    /// Root of the mean square about the line.
    scatter: f64,
    /// The whole course.
    picture: String,
}

impl Trend {
    /// `None` when there are too few points: seconds and values.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let last = points.last()?.0;
        let half: Vec<_> = points
            .iter()
            .filter(|p| p.0 >= FILLS.max(last / 2.0))
            .collect();
        if half.len() < LEAST_READINGS {
            return None;
        }
        let n = half.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| half.iter().map(|p| of(p)).sum::<f64>() / n;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let over: f64 = half.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        let under: f64 = half.iter().map(|p| (p.0 - x).powi(2)).sum();
        let slope = over / under.max(f64::MIN_POSITIVE);
        let rest = half.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2));
        Some(Self {
            mean: y,
            slope,
            span: last - half[0].0,
            scatter: (rest.sum::<f64>() / n).sqrt(),
            picture: picture(points),
        })
    }

    /// Part of the level by which it moves in an hour.
    fn part_an_hour(&self) -> f64 {
        self.slope * 3600.0 / self.mean.max(f64::MIN_POSITIVE)
    }

    /// Whether it clearly grows, by more than `least` over the second half.
    pub fn grows(&self, least: f64) -> bool {
        let rise = self.slope * self.span;
        rise > least && rise > SCATTER * self.scatter && self.part_an_hour() > LEAST_PART
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mean {:8.1}, {:+7.1} % an hour, scatter {:5.2}  {}",
            self.mean,
            100.0 * self.part_an_hour(),
            self.scatter,
            self.picture
        )
    }
}

/// From nothing to the highest value.
fn picture(points: &[(f64, f64)]) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    let chunk = points.len().div_ceil(WIDTH).max(1);
    let bars = points.chunks(chunk).map(|chunk| {
        let mean = chunk.iter().map(|p| p.1).sum::<f64>() / chunk.len() as f64;
        let step = (mean / top * 7.0).round().clamp(0.0, 7.0);
        STEPS[step as usize]
    });
    bars.collect()
}

//! The weights of both confidences, from incidents that no report is made of.
//!
//! Three of four incidents of each family are fitted to; the fourth says how
//! well. Families weigh alike, and so do the incidents of one, however many
//! answers each gave.

use std::fmt::Write as _;

use super::logistic::{Case, Sign, fit, probability};
use super::outcome::Outcome;
use super::score::ece;
use crate::engine::correlate::attribution::Standing;
use crate::engine::correlate::{confidence, endpoints};

/// Of the sum of squares of the weights: features are of the order of one, and
/// a few thousand answers outweigh it by far.
const RIDGE: f64 = 2.0;

/// Every fourth incident is held out.
const HELD_OUT: usize = 4;

/// One fitted model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub name: &'static str,
    pub features: Vec<&'static str>,
    pub weights: Vec<f64>,
    pub cases: usize,
    /// Of the incidents held out: how many answers, and their calibration error.
    pub held_out: usize,
    pub ece: Option<f64>,
}

/// Fits both models.
pub fn refit(outcomes: &[Outcome]) -> [Fitted; 2] {
    let requests = |standing: &Standing| match standing {
        Standing::Requests(standing) => Some(standing.features().to_vec()),
        Standing::Tags(_) => None,
    };
    let tags = |standing: &Standing| match standing {
        Standing::Tags(standing) => Some(standing.features().to_vec()),
        Standing::Requests(_) => None,
    };
    [
        model("TAGS", outcomes, &confidence::FEATURES, tags),
        model(
            "REQUESTS",
            outcomes,
            &endpoints::confidence::FEATURES,
            requests,
        ),
    ]
}

fn model(
    name: &'static str,
    outcomes: &[Outcome],
    features: &[(&'static str, i8)],
    of: impl Fn(&Standing) -> Option<Vec<f64>>,
) -> Fitted {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (place, outcome) in outcomes.iter().enumerate() {
        let told = outcome.heard.iter().filter_map(|heard| heard.told.as_ref());
        let answers = told.flat_map(|told| &told.answers);
        let cases = answers.filter_map(|answer| {
            Some(Case {
                features: of(answer.standing.as_ref()?)?,
                right: answer.is_right_first(),
                weight: 1.0,
            })
        });
        if place % HELD_OUT == HELD_OUT - 1 {
            test.extend(cases);
        } else {
            train.extend(cases);
        }
    }
    let signs: Vec<Sign> = features.iter().map(|&(_, sign)| sign_of(sign)).collect();
    let weights = fit(&train, &signs, RIDGE);
    let pairs: Vec<(f64, bool)> = test
        .iter()
        .map(|case| (probability(&weights, &case.features), case.right))
        .collect();
    Fitted {
        name,
        features: features.iter().map(|feature| feature.0).collect(),
        weights,
        cases: train.len(),
        held_out: pairs.len(),
        ece: ece(&pairs),
    }
}

fn sign_of(sign: i8) -> Sign {
    match sign {
        1.. => Sign::For,
        0 => Sign::Either,
        _ => Sign::Against,
    }
}

/// The source file of the engine that holds them.
pub fn source(models: &[Fitted], command: &str) -> String {
    let mut text = format!(
        "//! The weights of both confidences, as they were fitted. Made by\n//!\n\
         //! ```sh\n//! {command} > src/engine/correlate/coefficients.rs\n//! ```\n//!\n\
         //! and not by hand: see `eval/fit.rs`. The first is the intercept; the others are\n\
         //! in the order of the features.\n"
    );
    for model in models {
        let ece = model.ece.unwrap_or(f64::NAN);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n/// Fitted to {} answers; of {} held out the calibration error is {ece:.3}.\n\
             pub const {}: [f64; {}] = [\n    {:.4}, // intercept\n",
            model.cases,
            model.held_out,
            model.name,
            model.weights.len(),
            model.weights.first().copied().unwrap_or(0.0),
        );
        for (feature, weight) in model.features.iter().zip(model.weights.iter().skip(1)) {
            // Not "-0.0000".
            let weight = if weight.abs() < 5e-5 { 0.0 } else { *weight };
            let _ = writeln!(text, "    {weight:.4}, // {feature}");
        }
        text.push_str("];\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_what_the_engine_reads() {
        let model = Fitted {
            name: "TAGS",
            features: vec!["share"],
            weights: vec![-1.5, -0.000_01],
            cases: 12,
            held_out: 3,
            ece: Some(0.02),
        };
        let text = source(&[model], "snowpit eval --fit");
        assert!(text.contains(
            "pub const TAGS: [f64; 2] = [\n    -1.5000, // intercept\n    0.0000, // share\n];"
        ));
        assert!(text.contains("//! snowpit eval --fit > src/engine"));
    }
}

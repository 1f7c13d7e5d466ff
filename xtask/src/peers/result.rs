//! What one run of a side prints, and what is made of several.

use serde_json::{Value, json};

/// Losses of the first steps may differ by so much, in nats.
pub const LOSS_TOLERANCE: f64 = 1e-3;

/// One run of one side: the JSON object it printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub params: u64,
    pub median_ms: f64,
    /// From the start of the process; none where the system does not tell.
    pub first_step_s: Option<f64>,
    pub peak_rss_mib: Option<f64>,
    /// Of the first steps, as many as were asked for.
    pub losses: Vec<f64>,
    /// `torch 2.15.0`; empty for tinygpt.
    pub versions: Vec<String>,
    /// tinygpt's alone: the processor, and speed of the step and of fused multiply-adds on registers, in GFLOP/s.
    pub adapter: Option<String>,
    pub gflops: Option<f64>,
    pub peak_gflops: Option<f64>,
}

impl Run {
    /// The one result line of a side's output; an error names what is missing.
    pub fn parse(output: &str, preset: &str) -> Result<Run, String> {
        let mut lines = output.lines().filter(|line| !line.trim().is_empty());
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(format!("found {} lines of output, expected one JSON object", output.lines().count()));
        };
        let value: Value =
            serde_json::from_str(line).map_err(|error| format!("found {line:?}, expected a JSON object: {error}"))?;
        let missing = |field: &str| format!("the JSON object has no {field}, which every side prints");
        let found = value["preset"].as_str().ok_or_else(|| missing("string preset"))?;
        if found != preset {
            return Err(format!("found a result of preset {found}, expected {preset}"));
        }
        let median_ms = value["ms_per_step"]["median"].as_f64().ok_or_else(|| missing("number ms_per_step.median"))?;
        if median_ms <= 0.0 {
            return Err(format!("found a median of {median_ms} ms, expected more than 0"));
        }
        let losses = value["losses"].as_array().ok_or_else(|| missing("list losses"))?;
        let versions = value["versions"].as_object().into_iter().flatten();
        Ok(Run {
            params: value["params"].as_u64().ok_or_else(|| missing("whole number params"))?,
            median_ms,
            first_step_s: value["first_step_s"].as_f64(),
            peak_rss_mib: value["peak_rss_mib"].as_f64(),
            losses: losses
                .iter()
                .map(|loss| loss.as_f64().ok_or_else(|| format!("found the loss {loss}, expected a number")))
                .collect::<Result<_, _>>()?,
            versions: versions.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?"))).collect(),
            adapter: value["adapter"].as_str().map(str::to_owned),
            gflops: value["gflops"].as_f64(),
            peak_gflops: value["peak_gflops"].as_f64(),
        })
    }
}

/// Refuses sides, named, whose models or losses differ from those of the first.
pub fn check_alike(sides: &[(&str, &Run)]) -> Result<(), String> {
    let [(first, ours), others @ ..] = sides else { return Ok(()) };
    for (name, run) in others {
        if run.params != ours.params {
            return Err(format!(
                "{first} has {} parameters and {name} {}, expected the same model",
                ours.params, run.params
            ));
        }
        if run.losses.len() != ours.losses.len() {
            return Err(format!(
                "{first} printed {} losses and {name} {}, expected as many",
                ours.losses.len(),
                run.losses.len()
            ));
        }
        for (step, (our, their)) in ours.losses.iter().zip(&run.losses).enumerate() {
            // Written so that a loss which is no number does not pass.
            let alike = (our - their).abs() <= LOSS_TOLERANCE;
            if !alike {
                return Err(format!(
                    "the loss of step {} is {our} in {first} and {their} in {name}, expected within {LOSS_TOLERANCE}: they do not train the same model",
                    step + 1
                ));
            }
        }
    }
    Ok(())
}

/// The largest difference of the losses of two first runs.
pub fn loss_distance(ours: &[Run], theirs: &[Run]) -> f64 {
    let losses = |runs: &[Run]| runs.first().map(|run| run.losses.clone()).unwrap_or_default();
    losses(ours).iter().zip(losses(theirs)).map(|(our, their)| (our - their).abs()).fold(0.0, f64::max)
}

/// The median of each run's `part`; none where a run does not have it or there is none.
pub fn median_of(runs: &[Run], part: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = runs.iter().map(part).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| median(values))
}

/// Milliseconds a step: the median over runs of their medians.
pub fn ms(runs: &[Run]) -> Option<f64> {
    median_of(runs, |run| Some(run.median_ms))
}

/// The median of a non-empty list; the mean of the middle two where its length is even.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// The runs of one side.
pub fn to_json(runs: &[Run]) -> Value {
    json!({
        "ms_per_step": ms(runs),
        "ms_per_step_by_round": runs.iter().map(|run| run.median_ms).collect::<Vec<_>>(),
        "first_step_s": median_of(runs, |run| run.first_step_s),
        "peak_rss_mib": median_of(runs, |run| run.peak_rss_mib),
        "gflops": median_of(runs, |run| run.gflops),
        "peak_gflops": median_of(runs, |run| run.peak_gflops),
        "params": runs.first().map(|run| run.params),
        "versions": runs.first().map(|run| run.versions.clone()),
        "losses": runs.first().map(|run| run.losses.clone()),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const LINE: &str = r#"{"preset":"large","threads":2,"params":2743296,"losses":[5.5,5.25],"versions":{"torch":"2.15.0"},"first_step_s":3.5,"ms_per_step":{"median":185.5,"min":180,"p90":190},"peak_rss_mib":890.5}"#;

    /// A run with a median and nothing else of interest.
    pub fn run(median_ms: f64) -> Run {
        let line = LINE.replace("185.5", &median_ms.to_string());
        Run::parse(&line, "large").unwrap()
    }

    #[test]
    fn a_result_line_is_read() {
        let expected = Run {
            params: 2_743_296,
            median_ms: 185.5,
            first_step_s: Some(3.5),
            peak_rss_mib: Some(890.5),
            losses: vec![5.5, 5.25],
            versions: vec!["torch 2.15.0".into()],
            adapter: None,
            gflops: None,
            peak_gflops: None,
        };
        assert_eq!(Run::parse(&format!("{LINE}\n"), "large"), Ok(expected));
        let ours = LINE.replace("\"threads\"", r#""adapter":"a CPU","gflops":150,"peak_gflops":200,"threads""#);
        let ours = Run::parse(&ours, "large").unwrap();
        assert_eq!((ours.adapter.as_deref(), ours.gflops, ours.peak_gflops), (Some("a CPU"), Some(150.0), Some(200.0)));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let two = format!("{LINE}\n{LINE}\n");
        let without_params = LINE.replace("params", "parameters");
        let zero = LINE.replace("185.5", "0");
        let null = LINE.replace("5.25", "null");
        let cases = [
            ("", "large", "expected one JSON object"),
            (two.as_str(), "large", "found 2 lines"),
            ("large: 185 ms", "large", "expected a JSON object"),
            (without_params.as_str(), "large", "no whole number params"),
            (zero.as_str(), "large", "expected more than 0"),
            (null.as_str(), "large", "found the loss null"),
            (LINE, "small", "found a result of preset large, expected small"),
        ];
        for (output, preset, expected) in cases {
            let message = Run::parse(output, preset).expect_err(output);
            assert!(message.contains(expected), "{message:?} should say {expected:?}");
        }
    }

    #[test]
    fn sides_that_train_another_model_are_refused() {
        let ours = run(1.0);
        let near = Run { losses: vec![5.5, 5.2509], ..ours.clone() };
        assert_eq!(check_alike(&[("tinygpt", &ours), ("torch", &near)]), Ok(()));
        assert!((loss_distance(std::slice::from_ref(&ours), std::slice::from_ref(&near)) - 9e-4).abs() < 1e-12);
        let far = Run { losses: vec![5.5, 5.2511], ..ours.clone() };
        let no_number = Run { losses: vec![5.5, f64::NAN], ..ours.clone() };
        let fewer = Run { losses: vec![5.5], ..ours.clone() };
        let larger = Run { params: 3, ..ours.clone() };
        for (run, expected) in [
            (&far, "the loss of step 2 is 5.25 in tinygpt and 5.2511 in jax"),
            (&no_number, "and NaN in jax"),
            (&fewer, "tinygpt printed 2 losses and jax 1"),
            (&larger, "tinygpt has 2743296 parameters and jax 3"),
        ] {
            let message = check_alike(&[("tinygpt", &ours), ("torch", &near), ("jax", run)]).expect_err(expected);
            assert!(message.contains(expected), "{message:?} should say {expected:?}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(ms(&[run(3.0), run(1.0), run(2.0)]), Some(2.0));
        assert_eq!(ms(&[]), None);
        assert_eq!(median_of(&[run(1.0)], |run| run.gflops), None);
    }
}

//! How long answers took, as a delay that a mock can draw.

use crate::mock::{DelayDraw, DelaySpec};

/// With fewer, any form fits: the median has to do.
const FITTED_MIN: usize = 5;
/// Milliseconds; what spreads less is as good as constant. A timer is no more exact than 1 ms, on either end.
const SPREAD_MIN_MS: f64 = 2.0;
/// The same as a part of the median.
const SPREAD_MIN: f64 = 0.1;
/// Milliseconds; less is none.
const DELAY_MIN_MS: f64 = 0.05;

/// The distribution that `samples`, milliseconds, are most likely from: the one with the least Kolmogorov–Smirnov distance.
/// `None` when they took no time.
pub fn fit(mut samples: Vec<f64>) -> Option<DelaySpec> {
    samples.retain(|sample| sample.is_finite() && *sample >= 0.0);
    samples.sort_by(f64::total_cmp);
    let (min, max) = (*samples.first()?, *samples.last()?);
    let median = quantile(&samples, 0.5);
    if max < DELAY_MIN_MS {
        return None;
    }
    let spread = quantile(&samples, 0.95) - quantile(&samples, 0.05);
    if samples.len() < FITTED_MIN || spread <= SPREAD_MIN_MS.max(SPREAD_MIN * median) {
        return Some(DelaySpec::Fixed(rounded(median)));
    }
    let (mean, sd) = moments(samples.iter().copied());
    // Of none at all there is no logarithm.
    let (_, sigma) = moments(samples.iter().map(|sample| sample.max(DELAY_MIN_MS).ln()));
    let uniform = |x: f64| ((x - min) / (max - min)).clamp(0.0, 1.0);
    let normal = |x: f64| normal_cdf((x - mean) / sd);
    let lognormal = |x: f64| normal_cdf((x.max(DELAY_MIN_MS).ln() - median.max(DELAY_MIN_MS).ln()) / sigma);
    let drawn = [
        (
            distance(&samples, uniform),
            DelayDraw { min: Some(rounded(min)), max: Some(rounded(max)), ..DelayDraw::default() },
        ),
        (
            distance(&samples, normal),
            DelayDraw { mean: Some(rounded(mean)), sd: Some(rounded(sd)), ..DelayDraw::default() },
        ),
        (
            distance(&samples, lognormal),
            DelayDraw {
                median: Some(rounded(median)),
                sigma: Some((sigma * 1000.0).round() / 1000.0),
                ..DelayDraw::default()
            },
        ),
    ];
    let best = drawn.into_iter().min_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, draw)| DelaySpec::Drawn(draw))
}

/// The greatest distance between the distribution of `samples`, sorted, and `cdf`.
fn distance(samples: &[f64], cdf: impl Fn(f64) -> f64) -> f64 {
    let len = samples.len() as f64;
    let distances = samples.iter().enumerate().map(|(n, sample)| {
        let expected = cdf(*sample);
        (expected - n as f64 / len).abs().max((expected - (n + 1) as f64 / len).abs())
    });
    distances.fold(0.0, f64::max)
}

/// Of `samples`, sorted and not empty.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let place = part * (samples.len() - 1) as f64;
    let (low, high) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// Mean and standard deviation.
pub fn moments(samples: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let len = samples.clone().count().max(1) as f64;
    let mean = samples.clone().sum::<f64>() / len;
    let variance = samples.map(|sample| (sample - mean).powi(2)).sum::<f64>() / len;
    (mean, variance.sqrt())
}

/// To what matters of it: 0.01 ms below 10 ms, 0.1 ms below 1 s, else 1 ms.
fn rounded(ms: f64) -> f64 {
    let digits = match ms {
        ms if ms < 10.0 => 100.0,
        ms if ms < 1000.0 => 10.0,
        _ => 1.0,
    };
    (ms * digits).round() / digits
}

/// Abramowitz and Stegun 7.1.26, exact to 1.5e-7: far more than distances between samples need.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let polynomial = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let erf = 1.0 - polynomial * (-z * z).exp();
    if x < 0.0 { 0.5 * (1.0 - erf) } else { 0.5 * (1.0 + erf) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;

    fn drawn(draw: impl Fn(&mut Draws) -> f64) -> DelaySpec {
        let mut draws = Draws::new(7);
        fit((0..400).map(|_| draw(&mut draws)).collect()).unwrap()
    }

    #[test]
    fn the_distribution_they_came_from_is_found_again() {
        let DelaySpec::Drawn(uniform) = drawn(|draws| 20.0 + 80.0 * draws.fraction()) else { panic!() };
        assert!(uniform.min.unwrap() < 22.0 && uniform.max.unwrap() > 98.0, "{uniform:?}");
        let DelaySpec::Drawn(normal) = drawn(|draws| 100.0 + 30.0 * draws.normal()) else { panic!() };
        assert!(
            (normal.mean.unwrap() - 100.0).abs() < 6.0 && (normal.sd.unwrap() - 30.0).abs() < 4.0,
            "{normal:?}"
        );
        let DelaySpec::Drawn(log) = drawn(|draws| 40.0 * (0.8 * draws.normal()).exp()) else { panic!() };
        assert!(
            (log.median.unwrap() - 40.0).abs() < 5.0 && (log.sigma.unwrap() - 0.8).abs() < 0.1,
            "{log:?}"
        );
    }

    #[test]
    fn what_hardly_varies_or_was_rarely_seen_is_constant() {
        assert_eq!(fit(vec![100.0, 101.0, 102.0, 103.0, 104.0, 105.0]), Some(DelaySpec::Fixed(102.5)));
        assert_eq!(fit(vec![1.0, 500.0, 20.0]), Some(DelaySpec::Fixed(20.0)));
        assert_eq!(fit(vec![0.0, 0.01]), None);
        assert_eq!(fit(Vec::new()), None);
        assert_eq!(fit(vec![f64::NAN]), None);
    }
}

//! What all runs came to, as a table.

use std::fmt::Write;

use crate::drivers::Candidate;
use crate::load::{Figures, Load};

/// One load on every driver, one after the other.
pub(crate) type Round = Vec<(Candidate, Figures)>;

/// The rounds of every load.
#[derive(Default)]
pub(crate) struct Report(Vec<(&'static str, Vec<Round>)>);

impl Report {
    /// Adds a round of a load.
    pub(crate) fn add(&mut self, load: &Load, round: Round) {
        match self.0.iter_mut().find(|(name, _)| *name == load.name) {
            Some((_, rounds)) => rounds.push(round),
            None => self.0.push((load.name, vec![round])),
        }
    }

    /// Medians, and for the CPU time also the extremes, of the quieter rounds.
    pub(crate) fn to_markdown(&self) -> String {
        let mut table = String::from(
            "| load | driver | CPU-s per million (min–max) | messages/s | p50, µs | p99, µs | CPUs used by others |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (load, rounds) in &self.0 {
            let rounds = quieter_half(rounds);
            for candidate in Candidate::ALL {
                let row = row(load, candidate, &rounds);
                table.push_str(&row);
            }
        }
        table
    }
}

fn row(load: &str, candidate: Candidate, rounds: &[&Round]) -> String {
    let runs = rounds.iter().copied().flatten().filter(|(c, _)| *c == candidate);
    let runs: Vec<Figures> = runs.map(|(_, figures)| *figures).collect();
    let values = |figure: fn(&Figures) -> Option<f64>| -> Vec<f64> {
        let mut values: Vec<f64> = runs.iter().filter_map(figure).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let micros =
        |values: Vec<f64>| median(&values).map_or("–".to_owned(), |us| format!("{us:.0}"));
    let cpu = values(|run| Some(run.cpu_s_per_million));
    let mut row = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        row,
        "| {load} | {} | {:.2} ({:.2}–{:.2}) | {:.0} | {} | {} | {:.2} |",
        candidate.name(),
        median(&cpu).unwrap_or_default(),
        cpu.first().copied().unwrap_or_default(),
        cpu.last().copied().unwrap_or_default(),
        median(&values(|run| Some(run.rate))).unwrap_or_default(),
        micros(values(|run| run.latency_us.map(|(p50, _)| p50))),
        micros(values(|run| run.latency_us.map(|(_, p99)| p99))),
        median(&values(|run| Some(run.others))).unwrap_or_default(),
    );
    row
}

/// The half of the rounds, or a little more, during which others used the least CPU. Whole rounds,
/// so that the drivers are compared over the same minutes; and what others do does not depend on
/// a driver, so this favours none.
fn quieter_half(rounds: &[Round]) -> Vec<&Round> {
    let others = |round: &Round| round.iter().map(|(_, figures)| figures.others).sum::<f64>();
    let mut rounds: Vec<&Round> = rounds.iter().collect();
    rounds.sort_by(|a, b| others(a).total_cmp(&others(b)));
    rounds.truncate(rounds.len().div_ceil(2));
    rounds
}

/// The middle of what is sorted.
fn median(sorted: &[f64]) -> Option<f64> {
    let (low, high) =
        (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((low + high) / 2.0)
}

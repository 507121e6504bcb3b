//! What was told of an attempt's figures: each figure of a place once, whoever tells it first.
//!
//! The controller's series only grow, and who reads them takes the first of two for one place: telling a figure again,
//! even a better one, is at best a waste. So better sources come first within a look, printed lines wait for them (see
//! `tool`), and of a place that is known only the names that are missing are told.

use std::collections::{BTreeMap, BTreeSet};

use hone_proto::id::Step;
use serde::{Deserialize, Serialize};

use crate::tools::point::{Point, Split};

/// Most places that are remembered; beyond them the earliest count as told.
const MAX_PLACES: usize = 200_000;
/// Most different sets of names: a tool has a handful.
const MAX_SETS: usize = 64;
/// Most names of one place.
const MAX_NAMES: usize = 512;
/// Most runs of steps that are kept.
const MAX_RUNS: usize = 256;

/// A set of names that stands for every name.
const EVERYTHING: usize = 0;

/// What was told, in memory.
#[derive(Debug)]
pub(super) struct Told {
    /// The different sets of names. Most places have one of few.
    sets: Vec<BTreeSet<String>>,
    places: BTreeMap<(Split, Step), usize>,
    /// Up to here everything counts as told.
    floors: BTreeMap<Split, Step>,
}

/// What was told, to be kept: the steps, and of the newest place of each split also the names, since the rest of it may
/// still be in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    runs: Vec<Run>,
    newest: Vec<(Split, Step, BTreeSet<String>)>,
    floors: Vec<(Split, Step)>,
}

/// Steps at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    split: Split,
    first: u64,
    last: u64,
    /// 0 while there is one step only.
    stride: u64,
}

impl Default for Told {
    fn default() -> Self {
        let sets = vec![BTreeSet::new()];
        Self { sets, places: BTreeMap::new(), floors: BTreeMap::new() }
    }
}

impl Told {
    /// What was told by an agent that ran before.
    pub(super) fn of(kept: &Kept) -> Self {
        let mut told = Self { floors: kept.floors.iter().copied().collect(), ..Self::default() };
        for run in &kept.runs {
            let steps =
                (run.first..=run.last).step_by(usize::try_from(run.stride.max(1)).unwrap_or(1));
            for step in steps.take(MAX_PLACES) {
                told.places.insert((run.split, Step::new(step)), EVERYTHING);
            }
        }
        for (split, step, names) in &kept.newest {
            let set = told.set(names.clone());
            told.places.insert((*split, *step), set);
        }
        told
    }

    /// Leaves in `point` what is news at `step`, and takes it for told. Returns whether anything is left.
    pub(super) fn news(&mut self, step: Step, point: &mut Point) -> bool {
        if self.floors.get(&point.split).is_some_and(|floor| step <= *floor) {
            return false;
        }
        let place = (point.split, step);
        let before = match self.places.get(&place) {
            Some(&EVERYTHING) => return false,
            Some(&set) => self.sets.get(set),
            None => None,
        };
        let mut names = before.cloned().unwrap_or_default();
        point.values.retain(|name, _| names.insert(name.clone()));
        if point.values.is_empty() {
            return false;
        }
        let set = self.set(names);
        self.places.insert(place, set);
        while self.places.len() > MAX_PLACES {
            let Some(((split, step), _)) = self.places.pop_first() else { break };
            self.floors.insert(split, step);
        }
        true
    }

    fn set(&mut self, names: BTreeSet<String>) -> usize {
        if let Some(known) = self.sets.iter().skip(1).position(|set| *set == names) {
            return known + 1;
        }
        if self.sets.len() > MAX_SETS || names.len() > MAX_NAMES {
            return EVERYTHING;
        }
        self.sets.push(names);
        self.sets.len() - 1
    }

    /// What is to be kept of it.
    pub(super) fn kept(&self) -> Kept {
        let mut runs: Vec<Run> = Vec::new();
        let mut newest = BTreeMap::new();
        for ((split, step), set) in &self.places {
            newest.insert(*split, (*step, *set));
            let step = step.get();
            if !runs.last_mut().is_some_and(|run| run.take(*split, step)) {
                runs.push(Run { split: *split, first: step, last: step, stride: 0 });
            }
        }
        let mut floors = self.floors.clone();
        let surplus = runs.len().saturating_sub(MAX_RUNS);
        for run in runs.drain(..surplus) {
            floors.insert(run.split, Step::new(run.last));
        }
        let names = |(split, (step, set)): (Split, (Step, usize))| {
            let names = self.sets.get(set).filter(|_| set != EVERYTHING)?;
            Some((split, step, names.clone()))
        };
        let newest = newest.into_iter().filter_map(names).collect();
        Kept { runs, newest, floors: floors.into_iter().collect() }
    }
}

impl Run {
    /// Goes on with `step`, which is beyond it, if it is the next one.
    fn take(&mut self, split: Split, step: u64) -> bool {
        if self.split != split {
            return false;
        }
        let distance = step - self.last;
        if self.first == self.last {
            self.stride = distance;
        }
        if distance == self.stride {
            self.last = step;
        }
        distance == self.stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::point::Source;

    fn point(split: Split, names: &[&str]) -> Point {
        let values = names.iter().map(|name| ((*name).to_owned(), 1.0)).collect();
        let (step, epoch, at, source) = (None, None, None, Source::StateFile);
        Point { step, epoch, split, values, at, source }
    }

    fn news(told: &mut Told, split: Split, step: u64, names: &[&str]) -> Vec<String> {
        let mut point = point(split, names);
        let any = told.news(Step::new(step), &mut point);
        if any { point.values.into_keys().collect() } else { Vec::new() }
    }

    #[test]
    fn a_figure_of_a_place_is_told_once_and_missing_ones_are_added() {
        let mut told = Told::default();
        assert_eq!(news(&mut told, Split::Train, 5, &["loss", "lr"]), ["loss", "lr"]);
        assert_eq!(news(&mut told, Split::Train, 5, &["grad", "loss"]), ["grad"]);
        assert_eq!(news(&mut told, Split::Train, 5, &["grad", "lr"]), [""; 0]);
        assert_eq!(news(&mut told, Split::Eval, 5, &["loss"]), ["loss"]);
        assert_eq!(news(&mut told, Split::Train, 4, &["loss"]), ["loss"], "a gap is filled");
    }

    #[test]
    fn what_is_kept_says_the_same_after_a_restart_in_a_few_numbers() {
        let mut told = Told::default();
        for step in 0..10_000 {
            news(&mut told, Split::Train, 10 * step, &["loss"]);
        }
        news(&mut told, Split::Train, 99_995, &["loss"]);
        news(&mut told, Split::Eval, 500, &["eval_loss"]);
        let text = serde_json::to_string(&told.kept()).expect("kept");
        assert!(text.len() < 400, "{text}");
        let mut again = Told::of(&serde_json::from_str(&text).expect("restored"));
        assert_eq!(again.kept(), told.kept());
        for step in [0, 10, 5_000, 99_990] {
            assert_eq!(news(&mut again, Split::Train, step, &["loss", "more"]), [""; 0], "{step}");
        }
        assert_eq!(news(&mut again, Split::Train, 15, &["loss"]), ["loss"], "a gap is filled");
        let rest = news(&mut again, Split::Train, 99_995, &["loss", "more"]);
        assert_eq!(rest, ["more"], "the newest may go on");
    }

    #[test]
    fn hostile_places_and_names_cost_a_bounded_amount() {
        let mut told = Told::default();
        for step in 0..1_000_u64 {
            news(&mut told, Split::Train, step * step, &[&format!("name{step}")]);
        }
        assert!(told.sets.len() <= MAX_SETS + 1);
        let kept = told.kept();
        assert_eq!(kept.runs.len(), MAX_RUNS);
        let mut again = Told::of(&kept);
        assert_eq!(news(&mut again, Split::Train, 3, &["loss"]), [""; 0], "below what is kept");
        let mut told = Told::default();
        for step in 0..(MAX_PLACES as u64 + 10) {
            news(&mut told, Split::Train, step, &["loss"]);
        }
        assert_eq!(told.places.len(), MAX_PLACES);
        assert_eq!(news(&mut told, Split::Train, 3, &["other"]), [""; 0]);
    }
}

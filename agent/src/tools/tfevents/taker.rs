//! Events in order, put together to figures of one step; and which steps end Keras's passes.

use hone_proto::id::Step;
use serde::{Deserialize, Serialize};

use super::event::Scalars;
use crate::tools::names::{self, Axis};
use crate::tools::point::{Gather, Point, Source};
use crate::trainer::record::wall;

/// Folders whose figures were measured on rows held out.
const VALIDATION: [&str; 4] = ["validation", "val", "eval", "evaluation"];

/// The step of an evaluation, and the pass that ended with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evaluated {
    step: u64,
    pass: Option<u64>,
}

/// Puts the events of one step together: tools write one for each figure.
pub(super) struct Taker {
    validation: bool,
    open: Option<(i64, Axis, Gather)>,
    evaluated: Option<Evaluated>,
}

impl Taker {
    pub(super) fn new(path: &str, evaluated: Option<Evaluated>) -> Self {
        let mut above = path.rsplit('/').skip(1);
        let validation = above.next().is_some_and(|folder| VALIDATION.contains(&folder));
        Self { validation, open: None, evaluated }
    }

    pub(super) fn is_at_another(&self, step: i64) -> bool {
        self.open.as_ref().is_none_or(|(open, _, _)| *open != step)
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Keras's newest evaluation.
    pub(super) const fn evaluated(&self) -> Option<Evaluated> {
        self.evaluated
    }

    /// As if what is open had not been read.
    pub(super) fn go_back(&mut self, evaluated: Option<Evaluated>) {
        self.open = None;
        self.evaluated = evaluated;
    }

    pub(super) fn take(
        &mut self,
        event: Scalars,
        points: &mut Vec<Point>,
        passes: &mut Vec<(u64, Step)>,
    ) {
        for (tag, value) in event.values {
            let keras = names::keras_tag(&tag, self.validation);
            let axis = keras.as_ref().map_or(Axis::Step, |(_, axis)| *axis);
            if self.validation && keras.is_some() {
                passes.extend(self.pass(event.step, axis, &tag));
            }
            if !matches!(&self.open, Some((step, other, _)) if (*step, *other) == (event.step, axis))
            {
                points.extend(self.close());
            }
            let (_, _, gather) =
                self.open.get_or_insert_with(|| (event.step, axis, begin(event.step, axis)));
            gather.at = wall(event.wall_time).or(gather.at);
            match keras {
                Some((name, _)) => gather.put(&name, value),
                // Of a folder of its own, and not said again in the tag.
                None if self.validation && !tag.contains('/') && !tag.starts_with("eval_") => {
                    gather.put(&format!("eval_{tag}"), value);
                }
                None => gather.put(&tag, value),
            }
        }
    }

    /// The pass that ended with the newest evaluation, when this tag says which it was. Keras evaluates at the end of a
    /// pass, tells the figures at the optimizer's step, and then once more at the pass.
    fn pass(&mut self, count: i64, axis: Axis, tag: &str) -> Option<(u64, Step)> {
        let count = u64::try_from(count).ok()?;
        match axis {
            Axis::Step if tag.starts_with("evaluation_") => {
                if self.evaluated.is_none_or(|evaluated| evaluated.step != count) {
                    self.evaluated = Some(Evaluated { step: count, pass: None });
                }
                None
            }
            Axis::Step => None,
            Axis::Epoch => {
                let evaluated = self.evaluated.as_mut()?;
                let is_first = evaluated.pass.is_none();
                evaluated.pass = evaluated.pass.or(Some(count));
                is_first.then_some((count.checked_add(1)?, Step::new(evaluated.step)))
            }
        }
    }

    pub(super) fn finish(&mut self, points: &mut Vec<Point>) {
        points.extend(self.close());
    }

    fn close(&mut self) -> impl Iterator<Item = Point> + use<> {
        self.open.take().into_iter().flat_map(|(_, _, gather)| gather.finish())
    }
}

fn begin(step: i64, axis: Axis) -> Gather {
    let mut gather = Gather::new(Source::TensorBoard);
    let count = u64::try_from(step).ok();
    match axis {
        Axis::Step => gather.progress.step = count.map(Step::new),
        // At the end of the pass: the first is 0.
        Axis::Epoch => {
            gather.progress.epoch =
                count.map(|n| crate::observe::text::approximate(n.saturating_add(1)));
        }
    }
    gather
}

use super::{Picker, ReadySet};

/// Any candidate, each as likely, whatever its weight.
#[derive(Debug)]
pub struct Random;

impl Picker for Random {
    fn pick(&self, ready: &ReadySet) -> Option<usize> {
        (!ready.is_empty()).then(|| fastrand::usize(..ready.len()))
    }
}

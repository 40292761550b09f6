//! The history of one desk, and whether what somebody sees can be true.

use super::{Content, Deed, FileNo, Seen, State};
use crate::history::FileName;
use std::collections::BTreeMap;

/// What became of the program of a desk.
#[derive(Clone, Debug, Default)]
pub(crate) enum Fate {
    /// It works, or it died: nobody has said what is left.
    #[default]
    Open,
    /// It ended, and everything that it did is with the cluster.
    Settled,
    /// It stopped when something went wrong. This was there then, and the last change may still be made if there is one.
    Retired(Seen, Option<Deed>),
}

/// What of a desk was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// So many of the changes are there, the first ones.
    pub(crate) kept: usize,
    /// Content of these files is there that was written later: such a change may go to the cluster at once, while names
    /// that were changed before it wait to be told.
    content: BTreeMap<FileNo, usize>,
    /// The last change was made after the loss, and is there as well.
    pub(crate) last_is_there: bool,
}

/// Somebody looked and did not see what had been answered: it must be lost, or the look was wrong.
#[derive(Clone, Debug)]
struct LowLook {
    name: FileName,
    seen: Option<Content>,
    text: String,
}

/// See the module's words. Changes are numbered from the beginning of the desk, and forgotten when all are durable.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// The state before the first change that is remembered, and after each.
    states: Vec<State>,
    deeds: Vec<Deed>,
    /// Changes that were forgotten.
    base: usize,
    /// Changes that were answered, the forgotten ones too.
    answered: usize,
    /// The first so many changes of names are durable.
    names_durable: usize,
    /// The same for changes of the content of each file.
    content_durable: BTreeMap<FileNo, usize>,
    low: Vec<LowLook>,
    pub(crate) fate: Fate,
}

impl Default for Desk {
    fn default() -> Self {
        Desk {
            states: vec![State::default()],
            deeds: Vec::new(),
            base: 0,
            answered: 0,
            names_durable: 0,
            content_durable: BTreeMap::new(),
            low: Vec::new(),
            fate: Fate::Open,
        }
    }
}

impl Desk {
    /// After all changes, those that are under way too.
    pub(crate) fn state(&self) -> &State {
        self.states.last().expect("there is always the first one")
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered
    }

    /// Changes that are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.deeds.len()
    }

    /// The change that is not answered.
    pub(crate) fn under_way(&self) -> Option<&Deed> {
        (self.base + self.deeds.len() > self.answered).then(|| self.deeds.last()).flatten()
    }

    /// A change begins. It must be possible.
    pub(crate) fn begin(&mut self, deed: Deed) {
        let mut state = self.state().clone();
        assert!(state.apply(&deed), "{deed:?} is not possible in {state:?}");
        self.deeds.push(deed);
        self.states.push(state);
    }

    /// It was answered.
    pub(crate) fn done(&mut self) {
        self.answered = self.base + self.deeds.len();
    }

    /// The content of a file is durable as it was after so many changes.
    pub(crate) fn durable_content(&mut self, file: FileNo, after: usize) {
        let durable = self.content_durable.entry(file).or_default();
        *durable = after.max(*durable);
    }

    /// Names are durable as they were after so many changes.
    pub(crate) fn durable_names(&mut self, after: usize) {
        self.names_durable = after.max(self.names_durable);
    }

    /// All changes are with the cluster, and nothing was lost. Fails when somebody looked in vain for one of them.
    pub(crate) fn settled(&mut self) -> Result<(), String> {
        let last = self.state().clone();
        self.states = vec![last];
        self.base = self.answered;
        self.deeds.clear();
        match self.low.pop() {
            Some(low) => Err(format!("{}, but nothing was lost", low.text)),
            None => Ok(()),
        }
    }

    /// Whether names may be left as they were after so many changes.
    fn may_be_left(&self, kept: usize) -> bool {
        let lost = self.deeds.iter().enumerate().skip(kept - self.base);
        lost.into_iter().all(|(at, deed)| {
            let number = self.base + at + 1;
            let made = match deed {
                Deed::Create(file, _) => {
                    self.content_durable.get(file).is_some_and(|d| number <= *d)
                }
                _ => false,
            };
            let named = deed.is_of_names() && number <= self.names_durable;
            !(made || named)
        })
    }

    /// Whether the content of a file may be left as it was after so many changes.
    fn content_may_be_left(&self, file: FileNo, kept: usize) -> bool {
        let Some(durable) = self.content_durable.get(&file) else { return true };
        let lost = self.deeds.iter().enumerate().skip(kept - self.base);
        let is_of = |deed: &Deed| deed.content_of() == Some(file);
        !lost.into_iter().any(|(at, deed)| is_of(deed) && self.base + at < *durable)
    }

    /// What must have been lost if this is what is left: as little as possible. `None`: it cannot be.
    pub(crate) fn explain(&self, actual: &Seen) -> Option<Lost> {
        let all = self.base + self.deeds.len();
        let candidates = (self.base..=all).rev().filter(|kept| self.may_be_left(*kept));
        for kept in candidates {
            let state = &self.states[kept - self.base];
            if let Some(content) = self.explain_content(kept, state, actual) {
                return Some(Lost { kept, content, last_is_there: false });
            }
            if kept + 1 < all
                && let Some(lost) = self.explain_with_last(kept, actual)
            {
                return Some(lost);
            }
        }
        None
    }

    /// The same with the last change, if that does not depend on what was lost.
    fn explain_with_last(&self, kept: usize, actual: &Seen) -> Option<Lost> {
        let last = self.deeds.last()?;
        let mut state = self.states[kept - self.base].clone();
        if !state.apply(last) {
            return None;
        }
        let content = self.explain_content(kept, &state, actual)?;
        let lost = Lost { kept, content, last_is_there: true };
        let files = last.needs(&self.states[self.deeds.len() - 1]);
        let depends = self.lost(&lost).any(|(deed, s)| !deed.files(s).is_disjoint(&files));
        (!depends).then_some(lost)
    }

    /// After how many changes each file with a name had the content that is there, if names are those of `state`.
    fn explain_content(
        &self,
        kept: usize,
        state: &State,
        actual: &Seen,
    ) -> Option<BTreeMap<FileNo, usize>> {
        if !state.names.keys().eq(actual.keys()) {
            return None;
        }
        let mut content = BTreeMap::new();
        for (name, file) in &state.names {
            let is_it = |after: &usize| {
                let then = &self.states[after - self.base];
                then.files.get(file).or(state.files.get(file)) == actual.get(name)
                    && self.content_may_be_left(*file, *after)
            };
            let newest = (kept..=self.base + self.deeds.len()).rev().find(is_it)?;
            if *content.entry(*file).or_insert(newest) != newest {
                return None; // two names of one file
            }
        }
        Some(content)
    }

    /// The changes that were lost, each with the state before it.
    pub(crate) fn lost<'a>(
        &'a self,
        lost: &'a Lost,
    ) -> impl Iterator<Item = (&'a Deed, &'a State)> + 'a {
        let end = self.deeds.len() - usize::from(lost.last_is_there);
        let numbered = self.deeds[..end].iter().zip(&self.states).zip(self.base + 1..);
        let is_lost = |deed: &Deed, number: usize| {
            let later = deed.content_of().filter(|_| !deed.is_of_names());
            let kept = later.and_then(|file| lost.content.get(&file)).unwrap_or(&lost.kept);
            number > *kept
        };
        numbered.filter(move |((deed, _), number)| is_lost(deed, *number)).map(|(deed, _)| deed)
    }

    /// Judges what somebody saw of one name, who began to look when `answered` changes had been answered.
    pub(crate) fn look(
        &mut self,
        name: &FileName,
        seen: Option<&Content>,
        answered: usize,
        text: &str,
    ) -> Result<(), String> {
        if answered < self.base {
            return Ok(()); // the states of that time are forgotten
        }
        let (from, last) = (answered - self.base, self.states.len() - 1);
        let shows = |at: usize| {
            let Some(file) = self.states[at].names.get(name) else { return seen.is_none() };
            // The content is asked for after the name was.
            let shows = |state: &State, seen: &Content| {
                state.files.get(file).is_some_and(|content| content.slots == seen.slots)
            };
            seen.is_some_and(|seen| self.states[at..].iter().any(|state| shows(state, seen)))
        };
        // The content that was seen is one of those that may be left.
        let shows_durable = |at: usize| {
            let Some(file) = self.states[at].names.get(name) else { return true };
            let is_seen = |state: &State| {
                seen.is_some_and(|s| state.files.get(file).is_some_and(|c| c.slots == s.slots))
            };
            (at..=last).any(|then| {
                is_seen(&self.states[then]) && self.content_may_be_left(*file, self.base + then)
            })
        };
        if (from..=last).any(shows) {
            return Ok(());
        }
        let text = format!("{text}: {name} is {seen:?}, and was {}", self.told_of(name, from));
        let is_durable = |at: usize| {
            let file = self.states[at].names.get(name);
            let is_older = |file: &FileNo| !self.content_may_be_left(*file, self.base + at);
            !self.may_be_left(self.base + at) || file.is_some_and(is_older) && !shows_durable(at)
        };
        if (0..from).any(|at| shows(at) && !is_durable(at)) {
            self.low.push(LowLook { name: name.clone(), seen: seen.cloned(), text });
            return Ok(());
        }
        Err(text)
    }

    fn told_of(&self, name: &FileName, from: usize) -> String {
        let of = |state: &State| state.seen().get(name).cloned();
        let last = self.deeds.len().saturating_sub(6).max(from);
        format!("{:?} when the look began; then {:?}", of(&self.states[from]), &self.deeds[last..])
    }

    /// Whether those who did not see what had been answered saw what is left, with the last change or without it.
    pub(crate) fn judge_looks(&self, actual: &Seen, lost: &Lost) -> Result<(), String> {
        let before = self.states[lost.kept - self.base].seen();
        let is_seen = |low: &LowLook, left: &Seen| {
            left.get(&low.name).map(|c| &c.slots) == low.seen.as_ref().map(|c| &c.slots)
        };
        let is_wrong = |low: &&LowLook| !is_seen(low, actual) && !is_seen(low, &before);
        match self.low.iter().find(is_wrong) {
            Some(low) => {
                Err(format!("{}, and it is {:?} after all", low.text, actual.get(&low.name)))
            }
            None => Ok(()),
        }
    }

    /// Judges what is left after all faults.
    pub(crate) fn judge_end(&self, actual: &Seen) -> Result<(), String> {
        match &self.fate {
            Fate::Open => match self.explain(actual) {
                None => Err(self.unexplained(actual)),
                Some(lost) => self.judge_looks(actual, &lost),
            },
            Fate::Settled if self.state().seen() == *actual => Ok(()),
            Fate::Settled => Err(format!("{actual:?} is not {:?}", self.state().seen())),
            Fate::Retired(left, _) if left == actual => Ok(()),
            Fate::Retired(left, deed) => {
                let late = self.explain(actual).is_some();
                let reason = || format!("{actual:?} is not {left:?}, with or without {deed:?}");
                (late && deed.is_some()).then_some(()).ok_or_else(reason)
            }
        }
    }

    /// Why no suffix of what was done explains what is left.
    pub(crate) fn unexplained(&self, actual: &Seen) -> String {
        let from = self.deeds.len().saturating_sub(12);
        format!(
            "{actual:?} is left of {:?}; names durable after {}, content after {:?}; the last changes, from {}: {:?}",
            self.state().seen(),
            self.names_durable,
            self.content_durable,
            self.base + from + 1,
            &self.deeds[from..],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Tag;

    fn name(text: &str) -> FileName {
        text.into()
    }

    /// Two files, one of which is moved over the other.
    fn desk() -> Desk {
        let mut desk = Desk::default();
        let deeds = [
            Deed::Create(0, name("a")),
            Deed::Save(0, vec![(0, Tag(1))]),
            Deed::Create(1, name("b")),
            Deed::Save(1, vec![(1, Tag(2))]),
            Deed::Rename(name("b"), name("a")),
        ];
        for deed in deeds {
            desk.begin(deed);
            desk.done();
        }
        desk
    }

    fn after(desk: &Desk, count: usize) -> Seen {
        desk.states[count].seen()
    }

    #[test]
    fn a_suffix_may_be_lost_and_nothing_else() {
        let desk = desk();
        for kept in 0..=5 {
            let seen = after(&desk, kept);
            let lost = desk.explain(&seen).expect("it may be left");
            assert_eq!((lost.kept, lost.last_is_there), (kept, false));
        }
    }

    #[test]
    fn no_name_comes_before_its_content() {
        let mut desk = Desk::default();
        let (a, b) = (name("a"), name("b"));
        let deeds = [
            Deed::Create(0, a.clone()),
            Deed::Note(0, Tag(5)),
            Deed::Save(0, vec![(0, Tag(1))]),
            Deed::Rename(a, b.clone()),
        ];
        for deed in deeds {
            desk.begin(deed);
            desk.done();
        }
        let torn = Seen::from([(b, Content { slots: Vec::new(), note: Some(Tag(5)) })]);
        assert_eq!(desk.explain(&torn), None);
    }

    #[test]
    fn what_is_durable_is_not_lost() {
        let mut desk = desk();
        desk.durable_content(1, 5);
        assert!(desk.explain(&after(&desk, 3)).is_none(), "the content of b");
        assert!(desk.explain(&after(&desk, 4)).is_some(), "the move was not said to be durable");
        desk.durable_names(5);
        assert!(desk.explain(&after(&desk, 4)).is_none());
    }

    #[test]
    fn a_change_may_come_after_the_loss() {
        let mut desk = desk();
        desk.begin(Deed::Create(2, name("c")));
        let mut left = after(&desk, 1);
        left.insert(name("c"), Content::default());
        let lost = desk.explain(&left).expect("c was made when the rest was lost");
        assert_eq!((lost.kept, lost.last_is_there), (1, true));
        let deeds: Vec<_> = desk.lost(&lost).map(|(deed, _)| deed.clone()).collect();
        assert_eq!(deeds.len(), 4);
    }

    #[test]
    fn who_looks_sees_what_was_answered_or_it_is_lost() {
        let judge = |desk: &Desk, kept| {
            let left = after(desk, kept);
            desk.judge_looks(&left, &desk.explain(&left).expect("it may be left"))
        };
        let mut desk = desk();
        let old = after(&desk, 2).get("a").cloned();
        let new = after(&desk, 5).get("a").cloned();
        assert!(desk.look(&name("a"), new.as_ref(), 5, "c2").is_ok());
        assert!(judge(&desk, 2).is_ok(), "nobody saw anything old");
        assert!(desk.look(&name("a"), old.as_ref(), 5, "c2").is_ok(), "it may be lost");
        assert!(judge(&desk, 2).is_ok());
        assert!(judge(&desk, 5).is_err(), "it was not");
        assert!(desk.settled().is_err());
        let never = Content { slots: vec![Some(Tag(9))], note: None };
        assert!(desk.look(&name("a"), Some(&never), 5, "c2").is_err());
    }

    #[test]
    fn a_durable_change_is_seen_at_once() {
        let mut desk = desk();
        desk.durable_names(5);
        let old = after(&desk, 2).get("a").cloned();
        assert!(desk.look(&name("a"), old.as_ref(), 5, "c2").is_err());
    }

    #[test]
    fn ends_are_judged_by_what_was_said() {
        let mut desk = desk();
        let (early, late) = (after(&desk, 2), after(&desk, 5));
        assert!(desk.judge_end(&early).is_ok() && desk.judge_end(&late).is_ok(), "it died");
        desk.fate = Fate::Settled;
        assert!(desk.judge_end(&early).is_err() && desk.judge_end(&late).is_ok());
        desk.fate = Fate::Retired(early.clone(), None);
        assert!(desk.judge_end(&early).is_ok() && desk.judge_end(&late).is_err());
    }
}

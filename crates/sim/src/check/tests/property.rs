//! Random sequential runs, made concurrent, are accepted; with a wrong answer the search and the trying
//! of all orders agree.

use super::brute;
use crate::check::model::{Call, CallOf, Model};
use crate::check::models::{Group, Log, Slots, Tree};
use crate::check::{Answer, check, shrink};
use crate::history::{FileName, GroupInput, LogInput, SlotsInput, Tag, TreeInput, Value};
use everhold_proto::fs::RenameMode;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Rng = ChaCha8Rng;

const BOUND: u64 = 200_000;

fn name(rng: &mut Rng) -> FileName {
    ["a", "b", "c"][rng.random_range(0..3)].into()
}

fn mode(rng: &mut Rng) -> RenameMode {
    [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][rng.random_range(0..3)]
}

fn value(tag: u64) -> Value {
    Value { tag: Tag(tag), size: tag as u32 % 3 + 16 }
}

fn group_input(rng: &mut Rng, fresh: u64) -> GroupInput {
    match rng.random_range(0..10) {
        0 | 1 => GroupInput::Put(name(rng), value(fresh)),
        2 => GroupInput::PutNew(name(rng), value(fresh)),
        3 | 4 => GroupInput::Rename(name(rng), name(rng), mode(rng)),
        5 => GroupInput::Remove(name(rng)),
        6 => GroupInput::Stat(name(rng)),
        7 => GroupInput::List,
        _ => GroupInput::Get(name(rng)),
    }
}

fn log_input(rng: &mut Rng, fresh: u64) -> LogInput {
    if rng.random_bool(0.6) { LogInput::Append(value(fresh)) } else { LogInput::Read }
}

fn slots_input(rng: &mut Rng, fresh: u64) -> SlotsInput {
    let slot = rng.random_range(0..3);
    match rng.random_range(0..4) {
        0 | 1 => SlotsInput::Write(slot, Tag(fresh)),
        2 => SlotsInput::ReadSlot(slot),
        _ => SlotsInput::ReadAll,
    }
}

fn tree_input(rng: &mut Rng, fresh: u64) -> TreeInput {
    let dir = |rng: &mut Rng| Tag(rng.random_range(0..=fresh.min(3)) % fresh);
    let (from, to) = (dir(rng), dir(rng));
    match rng.random_range(0..9) {
        0 | 1 => TreeInput::Mkdir(from, name(rng), Tag(fresh)),
        2 => TreeInput::Create(from, name(rng), Tag(fresh)),
        3 => TreeInput::Rmdir(from, name(rng)),
        4 => TreeInput::Unlink(from, name(rng)),
        5 | 6 => TreeInput::Rename((from, name(rng)), (to, name(rng)), mode(rng)),
        7 => TreeInput::List(from),
        _ => TreeInput::Walk((0..rng.random_range(1..3)).map(|_| name(rng)).collect()),
    }
}

/// A run of the model in which each operation takes effect at some moment of its interval. Some are of
/// unknown outcome, and some of these never take effect.
fn run<M: Model>(
    model: &M,
    rng: &mut Rng,
    count: usize,
    input: fn(&mut Rng, u64) -> M::Input,
) -> Vec<CallOf<M>> {
    let mut state = model.initial();
    let mut times = Vec::new();
    let mut calls = Vec::new();
    for i in 0..count {
        let input = input(rng, i as u64 + 1);
        let (before, after) = (rng.random_range(1..30), rng.random_range(1..30));
        let moment = 100 + 10 * i as u64;
        let is_unknown = rng.random_bool(0.15);
        let mut next = state.clone();
        let output = model.apply(&mut next, &input);
        if !is_unknown || rng.random_bool(0.5) {
            state = next;
        }
        times.extend([(moment - before, 2 * i), (moment + after, 2 * i + 1)]);
        let returned = (!is_unknown).then_some((0, output));
        calls.push(Call { input, invoked: 0, returned });
    }
    // Events get numbers of their own, in the order of their times.
    times.sort();
    for (number, (_, event)) in times.into_iter().enumerate() {
        let call = &mut calls[event / 2];
        match (event % 2, &mut call.returned) {
            (0, _) => call.invoked = number as u64,
            (_, Some((at, _))) => *at = number as u64,
            (_, None) => {}
        }
    }
    calls.sort_by_key(|call| call.invoked);
    calls
}

/// Puts the answer of one call into another.
fn mix_up<M: Model>(rng: &mut Rng, calls: &mut [CallOf<M>]) {
    let known: Vec<usize> = (0..calls.len()).filter(|i| calls[*i].returned.is_some()).collect();
    if known.is_empty() {
        return;
    }
    let from = known[rng.random_range(0..known.len())];
    let to = known[rng.random_range(0..known.len())];
    let wrong = calls[from].output().cloned();
    if let (Some((_, output)), Some(wrong)) = (&mut calls[to].returned, wrong) {
        *output = wrong;
    }
}

fn agree<M: Model>(model: &M, input: fn(&mut Rng, u64) -> M::Input) {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..800 {
        let mut rng = Rng::seed_from_u64(seed);
        let mut calls = run(model, &mut rng, 7, input);
        assert_eq!(check(model, &calls, BOUND), Answer::Linearizable, "seed {seed}: {calls:#?}");
        mix_up::<M>(&mut rng, &mut calls);
        let expected = brute::is_linearizable(model, &calls);
        let answer = check(model, &calls, BOUND);
        let agrees = matches!(answer, Answer::Linearizable) == expected;
        assert!(agrees && answer != Answer::Undecided, "seed {seed}: {answer:?} {calls:#?}");
        match answer {
            Answer::Violation(failing) => {
                wrong += 1;
                invariant_shrinking_keeps_the_failure(model, &calls, failing);
            }
            _ => right += 1,
        }
    }
    assert!(right > 100 && wrong > 100, "{right} right, {wrong} wrong");
}

fn invariant_shrinking_keeps_the_failure<M: Model>(model: &M, calls: &[CallOf<M>], failing: usize) {
    let minimal = shrink(model, calls, failing, BOUND);
    assert!(minimal.calls.contains(&failing), "{minimal:?} of {calls:#?}");
    if minimal.start == model.initial() {
        let part: Vec<CallOf<M>> = minimal.calls.iter().map(|i| calls[*i].clone()).collect();
        assert!(!brute::is_linearizable(model, &part), "{minimal:?} of {calls:#?}");
    }
}

fn accepts_long_runs<M: Model>(model: &M, count: usize, input: fn(&mut Rng, u64) -> M::Input) {
    for seed in 0..5 {
        let calls = run(model, &mut Rng::seed_from_u64(seed), count, input);
        assert_eq!(check(model, &calls, BOUND), Answer::Linearizable, "seed {seed}");
    }
}

#[test]
fn groups_agree_with_all_orders() {
    agree(&Group, group_input);
    accepts_long_runs(&Group, 200, group_input);
}

#[test]
fn logs_agree_with_all_orders() {
    agree(&Log::default(), log_input);
}

#[test]
fn slots_agree_with_all_orders() {
    agree(&Slots { count: 3 }, slots_input);
    accepts_long_runs(&Slots { count: 3 }, 200, slots_input);
}

#[test]
fn trees_agree_with_all_orders() {
    agree(&Tree, tree_input);
    accepts_long_runs(&Tree, 100, tree_input);
}

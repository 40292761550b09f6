//! Histories whose answer is known.

use super::history;
use crate::check::models::{Group, Log, Slots, Tree};
use crate::check::{Answer, check, check_all, shrink};
use crate::history::*;
use everhold_proto::fs::{FsError, RenameMode};

const BOUND: u64 = 100_000;

fn value(tag: u64) -> Value {
    Value { tag: Tag(tag), size: 100 }
}

fn put(tag: u64) -> GroupInput {
    GroupInput::Put("a".into(), value(tag))
}

fn get() -> GroupInput {
    GroupInput::Get("a".into())
}

fn shown(tag: u64) -> Option<GroupOutput> {
    Some(GroupOutput::Value(value(tag)))
}

const DONE: Option<GroupOutput> = Some(GroupOutput::Done);

/// A read after a second write must not show the first; while the second is under way it may.
#[test]
fn a_stale_read_is_a_violation() {
    let rows = |second: std::ops::Range<u64>| {
        history::<Group>(vec![
            (1..2, put(1), DONE),
            (second, put(2), DONE),
            (5..6, get(), shown(2)),
            (7..8, get(), shown(1)),
        ])
    };
    assert_eq!(check(&Group, &rows(3..4), BOUND), Answer::Violation(3));
    assert_eq!(check(&Group, &rows(3..9), BOUND), Answer::Violation(3), "2 was seen before 1");
    let mut early = rows(3..9);
    early.remove(2);
    assert_eq!(check(&Group, &early, BOUND), Answer::Linearizable);
}

/// A write of unknown outcome may show up late, even after another one, but only once.
#[test]
fn an_unknown_write_takes_effect_at_most_once() {
    let mut rows = history::<Group>(vec![
        (1..2, put(1), None),
        (3..4, get(), Some(GroupOutput::Refused(FsError::NotFound))),
        (5..6, put(2), DONE),
        (7..8, get(), shown(2)),
        (9..10, get(), shown(1)),
    ]);
    assert_eq!(check(&Group, &rows, BOUND), Answer::Linearizable);
    rows.extend(history::<Group>(vec![(11..12, put(3), DONE), (13..14, get(), shown(1))]));
    assert_eq!(check(&Group, &rows, BOUND), Answer::Violation(6), "it took effect already");
}

/// What an unknown write left may be seen only by what it makes others answer.
#[test]
fn an_unseen_unknown_write_explains_a_removal() {
    let remove = GroupInput::Remove("a".into());
    let rows = history::<Group>(vec![(1..2, put(1), None), (3..4, remove.clone(), DONE)]);
    assert_eq!(check(&Group, &rows, BOUND), Answer::Linearizable);
    assert_eq!(check(&Group, &rows[1..], BOUND), Answer::Violation(0));
}

/// An exchange swaps at once: nobody sees one name moved and the other not.
#[test]
fn an_exchange_is_atomic() {
    let exchange = GroupInput::Rename("a".into(), "b".into(), RenameMode::Exchange);
    let get_b = |tag| (GroupInput::Get("b".into()), shown(tag));
    let rows = |seen| {
        history::<Group>(vec![
            (1..2, put(1), DONE),
            (3..4, GroupInput::Put("b".into(), value(2)), DONE),
            (5..20, exchange.clone(), DONE),
            (6..7, get(), shown(2)),
            (8..9, get_b(seen).0, get_b(seen).1),
        ])
    };
    assert_eq!(check(&Group, &rows(1), BOUND), Answer::Linearizable);
    assert_eq!(check(&Group, &rows(2), BOUND), Answer::Violation(4));
}

/// Two clients cannot both create a file that must not exist.
#[test]
fn one_of_two_creates_wins() {
    let new = |tag| GroupInput::PutNew("a".into(), value(tag));
    let both = history::<Group>(vec![(1..3, new(1), DONE), (2..4, new(2), DONE)]);
    assert_eq!(check(&Group, &both, BOUND), Answer::Violation(1));
    let exists = Some(GroupOutput::Refused(FsError::Exists));
    let one = history::<Group>(vec![(1..3, new(1), DONE), (2..4, new(2), exists)]);
    assert_eq!(check(&Group, &one, BOUND), Answer::Linearizable);
}

/// Records are neither lost, nor doubled, nor reordered.
#[test]
fn a_log_keeps_records_once_and_in_order() {
    let read = |tags: &[u64]| {
        let records = tags.iter().map(|tag| value(*tag)).collect();
        (10..11, LogInput::Read, Some(LogOutput::Records(records)))
    };
    let append = |at: u64, tag, output| (at..at + 1, LogInput::Append(value(tag)), output);
    let answer = |tags: &[u64]| {
        let rows = vec![
            append(1, 1, Some(LogOutput::Done)),
            append(3, 2, None),
            append(5, 3, Some(LogOutput::Done)),
            read(tags),
        ];
        check(&Log::default(), &history::<Log>(rows), BOUND)
    };
    for fine in [&[1, 3][..], &[1, 2, 3], &[1, 3, 2]] {
        assert_eq!(answer(fine), Answer::Linearizable, "{fine:?}");
    }
    for wrong in [&[1][..], &[3, 1], &[2, 1, 3], &[1, 3, 3], &[1, 2, 3, 2]] {
        assert_eq!(answer(wrong), Answer::Violation(3), "{wrong:?}");
    }
}

/// A read of all slots is of one version.
#[test]
fn a_read_never_mixes_versions() {
    let write = |at: u64, slot, tag| {
        (at..at + 1, SlotsInput::Write(slot, Tag(tag)), Some(SlotsOutput::Done))
    };
    let answer = |all: [u64; 2]| {
        let all = Some(SlotsOutput::All(all.map(Tag).to_vec()));
        let rows =
            vec![write(1, 0, 1), write(5, 0, 2), write(7, 1, 3), (4..9, SlotsInput::ReadAll, all)];
        check(&Slots { count: 2 }, &history::<Slots>(rows), BOUND)
    };
    assert_eq!(answer([1, 0]), Answer::Linearizable);
    assert_eq!(answer([2, 0]), Answer::Linearizable);
    assert_eq!(answer([2, 3]), Answer::Linearizable);
    assert_eq!(answer([1, 3]), Answer::Violation(3), "a mix of the first and the last version");
}

/// A directory is moved with all below it, and never below itself.
#[test]
fn a_directory_moves_as_a_whole() {
    let done = || Some(TreeOutput::Done);
    let rename = |from: (u64, &str), to: (u64, &str)| {
        let place = |(dir, name): (u64, &str)| (Tag(dir), FileName::from(name));
        TreeInput::Rename(place(from), place(to), RenameMode::Replace)
    };
    let walk = |path: &[&str]| TreeInput::Walk(path.iter().map(|name| (*name).into()).collect());
    let file = Some(TreeOutput::Node(Node::File(Tag(3))));
    let rows = |last| {
        history::<Tree>(vec![
            (1..2, TreeInput::Mkdir(Tag(0), "a".into(), Tag(1)), done()),
            (3..4, TreeInput::Mkdir(Tag(0), "b".into(), Tag(2)), done()),
            (5..6, TreeInput::Create(Tag(1), "f".into(), Tag(3)), done()),
            (7..8, rename((0, "a"), (2, "c")), done()),
            (9..10, walk(&["b", "c", "f"]), file.clone()),
            (11..12, rename((0, "b"), (1, "d")), Some(TreeOutput::Refused(FsError::Invalid))),
            (
                13..14,
                TreeInput::Rmdir(Tag(0), "b".into()),
                Some(TreeOutput::Refused(FsError::NotEmpty)),
            ),
            (15..16, walk(&["a", "f"]), last),
        ])
    };
    let not_found = Some(TreeOutput::Refused(FsError::NotFound));
    assert_eq!(check(&Tree, &rows(not_found), BOUND), Answer::Linearizable);
    assert_eq!(check(&Tree, &rows(file.clone()), BOUND), Answer::Violation(7));
}

/// More possibilities than the bound allows are neither a pass nor a violation.
#[test]
fn too_many_possibilities_are_undecided() {
    let write = |n: u64| (n..100 + n, SlotsInput::Write(n as u32, Tag(n)), Some(SlotsOutput::Done));
    let wrong = (200..201, SlotsInput::ReadSlot(0), Some(SlotsOutput::Tag(Tag(999))));
    let rows = history::<Slots>((0..20).map(write).chain([wrong]).collect());
    assert_eq!(check(&Slots { count: 20 }, &rows, 1000), Answer::Undecided);
}

/// Hundreds of operations around a stale read are left out; what shows it remains.
#[test]
fn a_violation_is_shown_by_few_operations() {
    let mut rows = Vec::new();
    for n in 0..200 {
        let at = 10 * n;
        rows.push((at..at + 1, GroupInput::Put("b".into(), value(1000 + n)), DONE));
        rows.push((at + 2..at + 3, put(n), DONE));
        rows.push((at + 4..at + 5, get(), shown(n)));
        rows.push((at + 6..at + 7, GroupInput::Put("a".into(), value(5000 + n)), None));
    }
    rows.push((5000..5001, get(), shown(7)));
    let calls = history::<Group>(rows);
    let failing = calls.len() - 1;
    assert_eq!(check(&Group, &calls, BOUND), Answer::Violation(failing));
    let minimal = shrink(&Group, &calls, failing, BOUND);
    let inputs: Vec<String> = minimal.calls.iter().map(|i| calls[*i].input.to_string()).collect();
    assert!(inputs.len() <= 7, "{inputs:?}");
    assert!(inputs.iter().all(|input| !input.contains(" b ")), "{inputs:?}");
    assert_eq!(inputs[inputs.len() - 2], put(199).to_string());
}

/// The verdict over a recorder: a lost write that only the last read misses has its own name.
#[test]
fn a_lost_write_is_named_so() {
    let recorder = Recorder::new(|| 1500);
    let object = ObjectId::new("files-0");
    let token = recorder.invoke(1, &object, Input::Group(put(256)));
    recorder.returned(token, Output::Group(GroupOutput::Done));
    assert!(check_all(&recorder).is_clean());
    let token = recorder.invoke_final(2, &object, Input::Group(get()));
    recorder.returned(token, Output::Group(GroupOutput::Refused(FsError::NotFound)));
    let verdict = check_all(&recorder);
    let violation = &verdict.violations[0];
    assert_eq!(violation.invariant, "invariant_1_acknowledged_is_readable");
    assert_eq!(
        violation.history,
        [
            "before: {} (0 operations on the object are not needed to see it)",
            "c1   [1@1.500s .. 2@1.500s]       put a #1.0/100B -> done",
            "c2   [3@1.500s .. 4@1.500s]       get a -> refused: no such file or directory   \
             <- no order explains this",
        ]
    );
}

/// Two acknowledged holders at once; after a release of unknown outcome nothing is claimed.
#[test]
fn two_holders_at_once_are_seen() {
    let lock = |tag| Input::Group(GroupInput::PutNew("lock".into(), value(tag)));
    let release = || Input::Group(GroupInput::Remove("lock".into()));
    let done = || Output::Group(GroupOutput::Done);
    let object = ObjectId::new("locks-0");
    let run = |doubtful: bool| {
        let recorder = Recorder::new(|| 0);
        if doubtful {
            let token = recorder.invoke(9, &object, release());
            recorder.unknown(token, "no answer");
        }
        for client in [1, 2] {
            let token = recorder.invoke(client, &object, lock(client.into()));
            recorder.returned(token, done());
        }
        check_all(&recorder).violations
    };
    let found = run(false);
    assert_eq!(found[0].invariant, "invariant_3_mutual_exclusion");
    assert!(run(true).is_empty(), "the unknown release may lie between");
}

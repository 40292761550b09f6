//! The model of the store under random events.

use crate::fuzzing::model::{Event, IDS, run};
use proptest::prelude::*;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..IDS).prop_map(Event::Put),
        4 => (0..IDS, 1..8u64).prop_map(|(first, count)| Event::PutMany(first, count)),
        5 => (0..IDS, 1..10u64).prop_map(|(first, count)| Event::Delete(first, count)),
        2 => (0..IDS).prop_map(Event::Read),
        1 => (0..IDS, 0..256u64, 0..256u64).prop_map(|(i, start, n)| Event::ReadRange(i, start, n)),
        1 => (0..IDS, any::<u16>()).prop_map(|(i, at)| Event::Flip(i, at.into())),
        4 => Just(Event::Compact),
        2 => Just(Event::Flush),
        1 => Just(Event::Reopen),
        2 => any::<Option<u64>>().prop_map(Event::Crash),
        3 => (1..40u64).prop_map(Event::CrashAt),
        1 => Just(Event::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn acknowledged_means_there(events in proptest::collection::vec(event(), 1..60)) {
        run(&events);
    }
}
